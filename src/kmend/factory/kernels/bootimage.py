"""What the image that a boot loader loads says of its kernel build: its build ID, and `uname`.

A bzImage holds, behind its setup code, the compressed vmlinux (`Documentation/x86/boot.rst`, "The Real-Mode Kernel Header";
`scripts/extract-vmlinux` knows the same formats). That vmlinux has lost its symbols, and has kept its notes.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import IO, cast

from kmend.core.errors import MalformedError, SystemProblemError
from kmend.core.interruption import supervised
from kmend.core.kernel import build_id_from_notes
from kmend.factory.kernels.indexing import KernelError

MAX_VMLINUX = 512 * 1024 * 1024
"""Bytes of a decompressed vmlinux; 6.1's have about 60 MB."""
_TEXT = 512
_SETUP_SECTORS, _MAGIC, _VERSION, _TEXT_AT, _PAYLOAD = 0x1F1, 0x202, 0x206, 0x20E, 0x248
_PAYLOAD_SINCE = 0x208
"""Version of the boot protocol that has the payload's place."""
_PT_NOTE = 4
_PHDR = struct.Struct("<II6Q")
_PREPARE = "leave --quick out: the debug package says it, too"


@dataclass(frozen=True, slots=True)
class BootImage:
    """What is known of a kernel build by its boot image.

    Attributes:
        release: `uname -r`.
        version: `uname -v`.
    """

    build_id: str
    release: str
    version: str


def read_boot_image(image: bytes) -> BootImage:
    """Read a `vmlinuz`.

    Raises:
        KernelError: it is none of x86, or is compressed in a way that cannot be read here.
        SystemProblemError: the program that decompresses it is not installed.
    """
    if len(image) < _PAYLOAD + 8 or image[_MAGIC : _MAGIC + 4] != b"HdrS":
        raise KernelError("the boot image is none of an x86 kernel", hint=_PREPARE)
    version, text_at = struct.unpack_from("<H", image, _VERSION)[0], struct.unpack_from("<H", image, _TEXT_AT)[0]
    if version < _PAYLOAD_SINCE or not text_at:
        raise KernelError(f"the boot image follows boot protocol {version:#x}, which is too old", hint=_PREPARE)
    release, found, rest = _string(image, text_at + 0x200).partition(" ")
    _, number, described = rest.partition("#")
    if not found or not number:
        raise KernelError("the boot image does not say of which kernel it is", hint=_PREPARE)
    offset, length = struct.unpack_from("<II", image, _PAYLOAD)
    start = ((image[_SETUP_SECTORS] or 4) + 1) * 512 + offset
    payload = image[start : start + length]
    if len(payload) != length:
        raise KernelError("the boot image is cut short", hint=_PREPARE)
    build_id = _build_id(_decompressed(payload))
    return BootImage(build_id, release, f"#{described}")


def _string(image: bytes, offset: int) -> str:
    return image[offset : offset + _TEXT].partition(b"\0")[0].decode(errors="replace").strip()


def _decompressed(payload: bytes) -> bytes:
    for magic, decompress in _FORMATS.items():
        if payload.startswith(magic):
            try:
                content = decompress(payload)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as problem:
                raise KernelError(f"the kernel in the boot image is damaged: {problem}", hint=_PREPARE) from problem
            if len(content) > MAX_VMLINUX:
                raise KernelError(f"the kernel in the boot image has more than {MAX_VMLINUX} bytes", hint=_PREPARE)
            return content
    raise KernelError(f"the boot image is compressed in an unknown way ({payload[:6].hex()})", hint=_PREPARE)


def _gzip(payload: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(payload, MAX_VMLINUX + 1)


def _xz(payload: bytes) -> bytes:
    return lzma.LZMADecompressor().decompress(payload, MAX_VMLINUX + 1)


def _bzip2(payload: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(payload, MAX_VMLINUX + 1)


def _by_program(program: str, payload: bytes) -> bytes:
    """By a program. The four bytes behind what is compressed say how much it is; Popen, to read no more than that."""
    (size,) = struct.unpack("<I", payload[-4:])
    if size > MAX_VMLINUX:
        raise ValueError(f"it says that it has {size} bytes")
    with tempfile.TemporaryFile() as packed:
        packed.write(payload[:-4])
        packed.seek(0)
        try:
            child = subprocess.Popen(
                [program, "-dc"],
                stdin=packed,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as problem:
            raise SystemProblemError(
                f"cannot run {program}, which decompresses the kernel: {problem.strerror}",
                hint=f"install the package {program}",
            ) from problem
        with child, supervised(child):
            content = cast(IO[bytes], child.stdout).read(size + 1)
    if len(content) != size:
        raise ValueError(f"{len(content)} bytes instead of {size}")
    return content


_FORMATS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": _gzip,
    b"\xfd7zXZ\0": _xz,
    b"\x5d\0\0": _xz,
    b"BZh": _bzip2,
    b"\x02\x21\x4c\x18": partial(_by_program, "lz4"),
    b"\x28\xb5\x2f\xfd": partial(_by_program, "zstd"),
}


def _build_id(vmlinux: bytes) -> str:
    """The build ID in the notes of an ELF file's segments (it need not have sections)."""
    if len(vmlinux) < 64 or vmlinux[:6] != b"\x7fELF\x02\x01":
        raise KernelError("what the boot image holds is no 64-bit vmlinux", hint=_PREPARE)
    table, size, count = *struct.unpack_from("<Q", vmlinux, 32), *struct.unpack_from("<HH", vmlinux, 54)
    try:
        for number in range(count):
            kind, _, offset, _, _, length, _, _ = _PHDR.unpack_from(vmlinux, table + number * size)
            found = build_id_from_notes(vmlinux[offset : offset + length]) if kind == _PT_NOTE else None
            if found is not None:
                return found
    except (struct.error, MalformedError) as problem:
        raise KernelError(f"vmlinux in the boot image is damaged: {problem}", hint=_PREPARE) from problem
    raise KernelError("vmlinux in the boot image has no build ID", hint=_PREPARE)
