"""Bytes of an ET_REL file -> `ObjectFile`. Every number from the file is checked before it is used."""

from __future__ import annotations

import struct

from kmend.factory.elf.constants import (
    ET_REL,
    SHF_RELA_LIVEPATCH,
    SHN_LORESERVE,
    SHN_UNDEF,
    SHN_XINDEX,
    SHT_NOBITS,
    SHT_NULL,
    SHT_REL,
    SHT_RELA,
    SHT_STRTAB,
    SHT_SYMTAB,
    SHT_SYMTAB_SHNDX,
    STT_SECTION,
)
from kmend.factory.elf.headers import SectionHeader, read_headers, string_at
from kmend.factory.elf.objects import ElfError, ObjectFile, Relocation, Section, Symbol

_SYM = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")
MAX_OBJECT = 256 * 1024 * 1024
MAX_NOBITS = 1 << 32
MAX_ALIGN = 1 << 21
MAX_SYMBOLS = 1_000_000


def read_object(content: bytes, *, keep_debug: bool = False) -> ObjectFile:
    """Read a relocatable object.

    Args:
        content: the whole file.
        keep_debug: keep `.debug_*` sections and their relocations; they are large and seldom wanted.

    Raises:
        ElfError: it is not one, or something in it points outside of it.
    """
    if len(content) > MAX_OBJECT:
        raise ElfError(f"an object of {len(content)} bytes is larger than the {MAX_OBJECT} that are read")
    kind, headers = read_headers(content)
    if kind != ET_REL:
        raise ElfError(f"not a relocatable object (ELF type {kind})")
    # Sections that overlap would let a small file stand for any amount of memory.
    if sum(header.size for header in headers if header.type not in (SHT_NULL, SHT_NOBITS)) > len(content):
        raise ElfError("the sections overlap")
    sections: dict[int, Section] = {}
    for number, header in enumerate(headers):
        if header.type in (SHT_NULL, SHT_SYMTAB, SHT_RELA, SHT_SYMTAB_SHNDX) or _is_table(headers, number):
            continue
        if header.type == SHT_REL:
            raise ElfError(f"section {header.name} holds REL entries, which x86-64 does not use")
        if header.name.startswith(".debug") and not keep_debug:
            continue
        if header.align & (header.align - 1) or header.align > MAX_ALIGN:
            raise ElfError(f"the alignment of section {header.name} is not a power of two up to {MAX_ALIGN}")
        nobits = header.type == SHT_NOBITS
        if nobits and header.size > MAX_NOBITS:
            raise ElfError(f"section {header.name} claims {header.size} bytes of memory")
        sections[number] = Section(
            name=header.name,
            type=header.type,
            flags=header.flags,
            content=b"" if nobits else content[header.offset : header.offset + header.size],
            align=header.align or 1,
            entsize=header.entsize,
            nobits_size=header.size if nobits else 0,
        )
    symbols = _symbols(content, headers, sections)
    for header in headers:
        if header.type == SHT_RELA and header.info in sections:
            _relocations(content, header, sections[header.info], symbols)
    return ObjectFile(list(sections.values()), [symbol for symbol in symbols[1:] if symbol is not None])


def _is_table(headers: tuple[SectionHeader, ...], number: int) -> bool:
    header = headers[number]
    return header.type == SHT_STRTAB and not header.flags


def _symbols(content: bytes, headers: tuple[SectionHeader, ...], sections: dict[int, Section]) -> list[Symbol | None]:
    """The symbols by index; None for the null symbol and for symbols of sections that were left out."""
    tables = [header for header in headers if header.type == SHT_SYMTAB]
    if not tables:
        return [None]
    if len(tables) > 1:
        raise ElfError("the file has several symbol tables")
    table = tables[0]
    if table.entsize != _SYM.size or table.link >= len(headers) or table.size % _SYM.size:
        raise ElfError("the symbol table is malformed")
    if table.size > MAX_SYMBOLS * _SYM.size:
        raise ElfError(f"more than {MAX_SYMBOLS} symbols are not read")
    names = headers[table.link]
    strings = content[names.offset : names.offset + names.size]
    extended = next((header for header in headers if header.type == SHT_SYMTAB_SHNDX), None)
    symbols: list[Symbol | None] = []
    entries = _SYM.iter_unpack(content[table.offset : table.offset + table.size])
    for number, (name, info, other, shndx, value, size) in enumerate(entries):
        if number == 0:
            symbols.append(None)
            continue
        index = shndx
        if shndx == SHN_XINDEX:
            if extended is None or (number + 1) * 4 > extended.size:
                raise ElfError(f"symbol {number} has no section index")
            (index,) = struct.unpack_from("<I", content, extended.offset + number * 4)
        special = shndx != SHN_XINDEX and (index == SHN_UNDEF or index >= SHN_LORESERVE)
        if not special and index >= len(headers):
            raise ElfError(f"symbol {number} belongs to section {index}, which does not exist")
        if not special and index not in sections:
            symbols.append(None)
            continue
        section = None if special else sections[index]
        text = string_at(strings, name) if name else ""
        if section is not None:
            if info & 15 == STT_SECTION:
                text = section.name
            elif value > section.size or size > section.size - value:
                raise ElfError(f"symbol {text or number} reaches beyond the end of section {section.name}")
        symbols.append(Symbol(text, value, size, info & 15, info >> 4, other, section, index if special else 0))
    return symbols


def _relocations(content: bytes, header: SectionHeader, target: Section, symbols: list[Symbol | None]) -> None:
    if header.entsize != _RELA.size or header.size % _RELA.size:
        raise ElfError(f"the relocations of {target.name} are malformed")
    found = []
    for offset, info, addend in _RELA.iter_unpack(content[header.offset : header.offset + header.size]):
        index = info >> 32
        symbol = symbols[index] if index < len(symbols) else None
        if symbol is None:
            if index == 0 and info & 0xFFFFFFFF == 0:
                continue
            raise ElfError(f"a relocation of {target.name} names symbol {index}, which does not exist")
        if offset >= target.size:
            raise ElfError(f"a relocation lies outside of {target.name}")
        found.append(Relocation(offset, info & 0xFFFFFFFF, symbol, addend))
    if header.flags & SHF_RELA_LIVEPATCH:
        parts = header.name.split(".", 3)
        if len(parts) < 4 or parts[1] != "klp":
            raise ElfError(f"section {header.name} is flagged as livepatch relocations but is not named as such")
        target.klp_relocations.setdefault(parts[3].split(".", 1)[0], []).extend(found)
    else:
        target.relocations.extend(found)
