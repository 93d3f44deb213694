"""The digest by which UEFI firmware knows a program: SHA-256 over a PE image without the parts that signing changes.

Source: Microsoft's "Windows Authenticode Portable Executable Signature Format", "Calculating the PE Image Hash", as firmware
does it (edk2, `SecurityPkg/Library/DxeImageVerificationLib`, `HashPeImage`). A bzImage is such an image (the kernel's
`arch/x86/boot/header.S`).
"""

from __future__ import annotations

import hashlib
import struct

from kmend.core.errors import MalformedError

MAX_SECTIONS = 96
"""What the format's specification allows a loader to take."""
_PE32_PLUS = 0x20B
_CHECKSUM = 64
_DIRECTORY_COUNT = 108
_SECURITY_DIRECTORY = 112 + 4 * 8
"""Offsets in the optional header; the security directory (offset and size of the signatures) is the fifth."""


def image_digest(image: bytes) -> str:
    """The digest of a 64-bit PE image, in hexadecimal; the same whether the image is signed or not.

    Raises:
        MalformedError: it is not such an image, or its headers point outside of it.
    """
    try:
        return _digest(memoryview(image))
    except struct.error:
        raise MalformedError("the image's headers are cut short") from None


def _digest(image: memoryview) -> str:
    (start,) = struct.unpack_from("<I", image, 0x3C)
    if bytes(image[:2]) != b"MZ" or bytes(image[start : start + 4]) != b"PE\0\0":
        raise MalformedError("this is not a PE image, so UEFI firmware cannot start it")
    section_count, optional_size = struct.unpack_from("<H12xH", image, start + 6)
    optional = start + 24
    magic, headers = struct.unpack_from("<H58xI", image, optional)
    (directories,) = struct.unpack_from("<I", image, optional + _DIRECTORY_COUNT)
    if magic != _PE32_PLUS or directories < 5 or section_count > MAX_SECTIONS:
        raise MalformedError("this is not a 64-bit PE image that can be signed")
    checksum, security = optional + _CHECKSUM, optional + _SECURITY_DIRECTORY
    if not security + 8 <= headers <= len(image):
        raise MalformedError("the image's headers do not hold what they claim")
    (signatures,) = struct.unpack_from("<I", image, security + 4)
    digest = hashlib.sha256(image[:checksum])
    digest.update(image[checksum + 4 : security])
    digest.update(image[security + 8 : headers])
    hashed = headers
    for offset, size in sorted(_sections(image, optional + optional_size, section_count)):
        if offset + size > len(image):
            raise MalformedError("a section lies outside the image")
        digest.update(image[offset : offset + size])
        hashed += size
    if hashed + signatures > len(image):
        raise MalformedError("the image's signatures lie outside of it")
    digest.update(image[hashed : len(image) - signatures])
    return digest.hexdigest()


def _sections(image: memoryview, table: int, count: int) -> list[tuple[int, int]]:
    """Offset and size in the file of each section that has any content there."""
    found = []
    for number in range(count):
        size, offset = struct.unpack_from("<II", image, table + 40 * number + 16)
        if size:
            found.append((offset, size))
    return found
