"""The header and the section table of any ELF file for x86-64, from a buffer that may be mapped and large."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass

from kmend.factory.elf.constants import EM_X86_64, SHN_XINDEX, SHT_NOBITS
from kmend.factory.elf.objects import ElfError

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
MAX_SECTIONS = 200_000
MAX_NAME = 1024
"""Longest name that is read, in bytes; the kernel's own limit for symbols is 511 (`KSYM_NAME_LEN`)."""

Buffer = bytes | bytearray | memoryview | mmap.mmap
"""What the readers take: bytes in memory or a mapped file."""
Reader = Callable[[int, int], bytes]
"""Reads so many bytes (second) from an offset of a file (first) on; fewer at its end."""


@dataclass(frozen=True, slots=True)
class SectionHeader:
    """One entry of the section table, its name looked up; offsets and sizes in bytes."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entsize: int


def read_headers(image: Buffer) -> tuple[int, tuple[SectionHeader, ...]]:
    """The file's type (ET_*) and its section table, with every section checked to lie inside the file.

    Raises:
        ElfError: not an ELF64 little-endian file for x86-64, or a table that points outside.
    """
    return headers_by(reader_of(image), len(image))


def reader_of(image: Buffer) -> Reader:
    """Reads a file that is at hand as a whole. No view of it stays: a mapped file could not be closed while there is one."""
    return lambda offset, size: bytes(image[offset : offset + size])


def headers_by(read: Reader, length: int) -> tuple[int, tuple[SectionHeader, ...]]:
    """`read_headers` of a file of `length` bytes that is not at hand as a whole."""
    start = read(0, _EHDR.size)
    if len(start) < _EHDR.size:
        raise ElfError("the file is too short for an ELF header")
    ident, kind, machine, _, _, _, shoff, _, _, _, _, shentsize, shnum, shstrndx = _EHDR.unpack(start)
    if ident[:7] != b"\x7fELF\x02\x01\x01" or machine != EM_X86_64:
        raise ElfError("not an ELF64 little-endian file for x86-64")
    if shoff == 0:
        return kind, ()
    if shentsize != _SHDR.size or shoff + _SHDR.size > length:
        raise ElfError("the section table is not where the ELF header says")
    first = _SHDR.unpack(read(shoff, _SHDR.size))
    count = shnum or first[5]
    strings_index = first[6] if shstrndx == SHN_XINDEX else shstrndx
    if count > MAX_SECTIONS or shoff + count * _SHDR.size > length:
        raise ElfError(f"the section table of {count} entries does not fit into the file")
    raw = list(_SHDR.iter_unpack(read(shoff, count * _SHDR.size)))
    for number, (_, section_type, _, _, offset, size, *_rest) in enumerate(raw):
        if section_type not in (0, SHT_NOBITS) and offset + size > length:
            raise ElfError(f"section {number} lies outside the file")
    if not 0 <= strings_index < count or raw[strings_index][1] == SHT_NOBITS:
        raise ElfError("the section names are missing")
    names = read(raw[strings_index][4], raw[strings_index][5])
    return kind, tuple(SectionHeader(string_at(names, entry[0]), *entry[1:]) for entry in raw)


def string_at(table: bytes, offset: int) -> str:
    """The string that starts at `offset` of a string table.

    Raises:
        ElfError: the offset is outside, the string does not end or is too long, or is not ASCII or UTF-8.
    """
    end = table.find(b"\0", offset, offset + MAX_NAME + 1)
    if not 0 <= offset < len(table) or end < 0:
        raise ElfError(f"no string at offset {offset} of the string table")
    try:
        return table[offset:end].decode()
    except UnicodeDecodeError:
        raise ElfError(f"the string at offset {offset} of the string table is not text") from None
