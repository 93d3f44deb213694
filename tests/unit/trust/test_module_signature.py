from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.core.errors import MalformedError
from kmend.trust import module_signature


@given(st.binary(), st.binary())
def test_split_undoes_join(module: bytes, rest: bytes) -> None:
    message = b"\x30" + rest
    if module.endswith(module_signature.MAGIC):
        return
    joined = module_signature.join(module, message)
    assert joined.endswith(b"~Module signature appended~\n")
    assert module_signature.split(joined) == (module, message)


def test_trailer_is_the_kernels_struct() -> None:
    joined = module_signature.join(b"module", b"\x30" * 0x1234)
    trailer = joined[: -len(module_signature.MAGIC)][-12:]
    assert trailer == bytes([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34])


@given(st.binary())
def test_split_of_anything_is_a_result_or_malformed(content: bytes) -> None:
    try:
        module, message = module_signature.split(content + module_signature.MAGIC)
    except MalformedError:
        return
    assert module_signature.join(module, message) if message[:1] == b"\x30" else message


@pytest.mark.parametrize("message", [b"", b"no DER"])
def test_message_must_be_der(message: bytes) -> None:
    with pytest.raises(MalformedError, match="PKCS#7"):
        module_signature.join(b"module", message)


def test_module_is_not_signed_twice() -> None:
    with pytest.raises(MalformedError, match="already"):
        module_signature.join(module_signature.join(b"module", b"\x30"), b"\x30")


def test_unsigned_module_has_no_message() -> None:
    assert module_signature.split(b"module") == (b"module", b"")
