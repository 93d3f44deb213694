"""The digest that firmware computes: against an implementation of others, and headers that lie."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.core.errors import MalformedError
from kmend.lab.authenticode import image_digest

START = 0x40
OPTIONAL = START + 24
TABLE = OPTIONAL + 240
HEADERS = 0x200
SECURITY = OPTIONAL + 112 + 32


def image(*sections: bytes, tail: bytes = b"", signatures: bytes = b"", checksum: int = 0) -> bytes:
    """A small 64-bit PE image; sections are laid out in the reverse order of their table, which is allowed."""
    head = bytearray(HEADERS)
    head[:2] = b"MZ"
    struct.pack_into("<I", head, 0x3C, START)
    struct.pack_into("<4sHHIIIHH", head, START, b"PE\0\0", 0x8664, len(sections), 0, 0, 0, 240, 0)
    struct.pack_into("<H", head, OPTIONAL, 0x20B)
    struct.pack_into("<II", head, OPTIONAL + 32, 0x1000, 0x200)
    struct.pack_into("<III", head, OPTIONAL + 56, 0x10000, HEADERS, checksum)
    struct.pack_into("<I", head, OPTIONAL + 108, 16)
    body = b""
    for number, content in reversed(list(enumerate(sections))):
        entry = (b"s", len(content), 0x1000 * (number + 1), len(content), HEADERS + len(body) if content else 0)
        struct.pack_into("<8sIIII", head, TABLE + 40 * number, *entry)
        body += content
    if signatures:
        struct.pack_into("<II", head, SECURITY, HEADERS + len(body) + len(tail), len(signatures))
    return bytes(head) + body + tail + signatures


def theirs(content: bytes) -> str:
    """What virt-firmware makes of it."""
    pefile: Any = importlib.import_module("pefile")
    pesign: Any = importlib.import_module("virt.peutils.pesign")
    return bytes(pesign.pe_authenticode_hash(pefile.PE(data=content))).hex()


@pytest.mark.parametrize(
    ("sections", "tail"),
    [((b"a" * 512,), b""), ((b"a" * 512, b"b" * 1024), b""), ((b"a" * 512, b"", b"c" * 512), b"t" * 64)],
)
def test_agrees_with_virt_firmware(sections: tuple[bytes, ...], tail: bytes) -> None:
    content = image(*sections, tail=tail)
    assert image_digest(content) == theirs(content)
    signed = image(*sections, tail=tail, signatures=b"x" * 256)
    assert image_digest(signed) == theirs(signed)


def test_what_is_left_out() -> None:
    content = image(b"a" * 512)
    skipped = content[: OPTIONAL + 64] + content[OPTIONAL + 68 : SECURITY] + content[SECURITY + 8 :]
    assert image_digest(content) == hashlib.sha256(skipped).hexdigest()


def test_signing_does_not_change_it() -> None:
    assert image_digest(image(b"a" * 512)) == image_digest(image(b"a" * 512, signatures=b"x" * 64, checksum=77))


def test_content_does_change_it() -> None:
    assert image_digest(image(b"a" * 512)) != image_digest(image(b"a" * 511 + b"b"))


def changed(offset: int, form: str, *values: object) -> bytes:
    content = bytearray(image(b"a" * 512))
    struct.pack_into(form, content, offset, *values)
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"MZ",
        b"\x7fELF" + bytes(200),
        image(b"a" * 512)[:200],
        image(b"a" * 512)[:-1],
        changed(0x3C, "<I", 0xFFFFFFF0),
        changed(START, "<4s", b"NE\0\0"),
        changed(START + 6, "<H", 97),
        changed(OPTIONAL, "<H", 0x10B),
        changed(OPTIONAL + 60, "<I", 8),
        changed(OPTIONAL + 60, "<I", 0xFFFFFFFF),
        changed(OPTIONAL + 108, "<I", 4),
        changed(SECURITY, "<II", 0, 0xFFFFFFFF),
        changed(TABLE + 20, "<I", 0xFFFFFFFF),
    ],
)
def test_headers_that_lie(content: bytes) -> None:
    with pytest.raises(MalformedError):
        image_digest(content)


@given(st.binary(max_size=0x400), st.integers(0, 0x3FF))
def test_any_damage_is_a_digest_or_an_error(noise: bytes, offset: int) -> None:
    content = bytearray(image(b"a" * 512))
    content[offset : offset + len(noise)] = noise
    with contextlib.suppress(MalformedError):
        assert len(image_digest(bytes(content))) == 64
