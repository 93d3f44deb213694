"""Who a module signature says has signed: by our own signer, by OpenSSL as sign-file uses it, and by nobody."""

from __future__ import annotations

import contextlib
import datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from kmend.core.errors import MalformedError
from kmend.core.process import run
from kmend.trust.signer import Signer, signer_of
from kmend.trust.signing import modules

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
KEY, CERTIFICATE = modules.make_key("Häuser & Söhne", bits=2048, now=NOW)
MESSAGE = modules.sign_detached(b"module", KEY, CERTIFICATE)


def test_our_own() -> None:
    found = signer_of(MESSAGE)
    assert found.name == "Häuser & Söhne"
    assert int(found.serial, 16) == CERTIFICATE.serial_number


def test_openssl(tmp_path: Path) -> None:
    """The message that `openssl cms` makes with the options of the kernel's `scripts/sign-file.c`."""
    key = KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "certificate").write_bytes(CERTIFICATE.public_bytes(serialization.Encoding.PEM))
    words = ("-sign", "-binary", "-nocerts", "-noattr", "-md", "sha256", "-outform", "DER")
    message = run(
        ["openssl", "cms", *words, "-signer", "certificate", "-inkey", "key"], stdin=b"module", cwd=tmp_path
    ).stdout
    assert signer_of(message) == signer_of(MESSAGE)


def test_a_name_cannot_write_to_a_terminal() -> None:
    key, certificate = modules.make_key("evil\x1b[2J\u202e", bits=2048, now=NOW)
    assert signer_of(modules.sign_detached(b"module", key, certificate)).name == "evil?[2J?"


@pytest.mark.parametrize(
    "message", [b"", b"0", b"\x30\x00", b"\x30\x80", b"\x30\x85" + bytes(9), MESSAGE[:-1], b"\x31\x00"]
)
def test_damaged(message: bytes) -> None:
    with pytest.raises(MalformedError):
        signer_of(message)


@given(st.integers(0, len(MESSAGE) - 1), st.binary(max_size=8))
def test_any_damage_is_a_signer_or_an_error(offset: int, noise: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert isinstance(signer_of(MESSAGE[:offset] + noise + MESSAGE[offset + len(noise) :]), Signer)


@given(st.binary())
def test_anything_is_a_signer_or_an_error(message: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert isinstance(signer_of(message), Signer)
