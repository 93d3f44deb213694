"""`ObjectFile` -> bytes of an ET_REL file: the same model always gives the same bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from kmend.factory.elf.constants import (
    EM_X86_64,
    ET_REL,
    SHF_ALLOC,
    SHF_INFO_LINK,
    SHF_RELA_LIVEPATCH,
    SHN_LORESERVE,
    SHN_XINDEX,
    SHT_NOBITS,
    SHT_RELA,
    SHT_STRTAB,
    SHT_SYMTAB,
    STB_LOCAL,
    STT_SECTION,
)
from kmend.factory.elf.objects import ElfError, ObjectFile, Relocation, Section, Symbol

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")


@dataclass(slots=True)
class _Out:
    """A section as it goes into the file."""

    name: str
    type: int
    flags: int
    content: bytes
    size: int
    align: int
    entsize: int
    link: int = 0
    info: int = 0


class _Strings:
    """A string table under construction; equal strings share one place."""

    def __init__(self) -> None:
        self._places = {"": 0}
        self._content = bytearray(b"\0")

    def add(self, text: str) -> int:
        place = self._places.get(text)
        if place is None:
            place = self._places[text] = len(self._content)
            self._content += text.encode() + b"\0"
        return place

    def content(self) -> bytes:
        return bytes(self._content)


def write_object(image: ObjectFile) -> bytes:
    """Lay out `image`: sections in their order, each followed by its relocations, then symbols and strings.

    Local symbols come before the others, as the gABI asks; within each group the order is kept. Relocations that livepatch
    applies go into `.klp.rela.<object>.<section>` sections (`Documentation/livepatch/module-elf-format.rst`).

    Raises:
        ElfError: something refers to a section or symbol that is not part of the image.
    """
    indices = {id(section): number for number, section in enumerate(image.sections, start=1)}
    ordered = [symbol for symbol in image.symbols if symbol.bind == STB_LOCAL]
    first_global = len(ordered) + 1
    ordered += [symbol for symbol in image.symbols if symbol.bind != STB_LOCAL]
    numbers = {id(symbol): number for number, symbol in enumerate(ordered, start=1)}

    out = [_Out("", 0, 0, b"", 0, 0, 0)]
    out += [
        _Out(section.name, section.type, section.flags, section.content, section.size, section.align, section.entsize)
        for section in image.sections
    ]
    relas = []
    for section in image.sections:
        if section.relocations:
            relas.append(_rela(f".rela{section.name}", SHF_INFO_LINK, section, section.relocations, indices, numbers))
        for name in sorted(section.klp_relocations):
            flags = SHF_INFO_LINK | SHF_ALLOC | SHF_RELA_LIVEPATCH
            relocations = section.klp_relocations[name]
            relas.append(_rela(f".klp.rela.{name}.{section.name}", flags, section, relocations, indices, numbers))
    out += relas
    symtab_index = len(out)
    for rela in relas:
        rela.link = symtab_index
    strings = _Strings()
    table = bytearray(_SYM.size)
    for symbol in ordered:
        table += _symbol(symbol, strings, indices)
    out.append(
        _Out(".symtab", SHT_SYMTAB, 0, bytes(table), len(table), 8, _SYM.size, link=symtab_index + 1, info=first_global)
    )
    out.append(_Out(".strtab", SHT_STRTAB, 0, strings.content(), len(strings.content()), 1, 0))
    names = _Strings()
    for section_out in out:
        names.add(section_out.name)
    names.add(".shstrtab")
    out.append(_Out(".shstrtab", SHT_STRTAB, 0, names.content(), len(names.content()), 1, 0))
    if len(out) >= SHN_LORESERVE:
        raise ElfError(f"{len(out)} sections do not fit into one object")
    return _lay_out(out, names)


def _rela(
    name: str,
    flags: int,
    section: Section,
    relocations: list[Relocation],
    indices: dict[int, int],
    numbers: dict[int, int],
) -> _Out:
    body = bytearray()
    for entry in relocations:
        number = numbers.get(id(entry.symbol))
        if number is None:
            raise ElfError(
                f"a relocation of {section.name} names {entry.symbol.name!r}, which is not in the symbol table"
            )
        body += _RELA.pack(entry.offset, number << 32 | entry.type, entry.addend)
    return _Out(name, SHT_RELA, flags, bytes(body), len(body), 8, _RELA.size, info=indices[id(section)])


def _symbol(symbol: Symbol, strings: _Strings, indices: dict[int, int]) -> bytes:
    index = symbol.index
    if symbol.section is not None:
        found = indices.get(id(symbol.section))
        if found is None:
            raise ElfError(f"symbol {symbol.name!r} belongs to a section that is not in the file")
        index = found
    elif index == SHN_XINDEX:
        raise ElfError(f"symbol {symbol.name!r} has no section")
    name = 0 if symbol.type == STT_SECTION else strings.add(symbol.name)
    return _SYM.pack(name, symbol.bind << 4 | symbol.type, symbol.other, index, symbol.value, symbol.size)


def _lay_out(out: list[_Out], names: _Strings) -> bytes:
    image = bytearray(_EHDR.size)
    offsets = []
    for section in out:
        align = max(section.align, 1)
        image += bytes(-len(image) % align)
        offsets.append(len(image) if section.name or section.type else 0)
        if section.type != SHT_NOBITS:
            image += section.content
    image += bytes(-len(image) % 8)
    table = len(image)
    for section, offset in zip(out, offsets, strict=True):
        image += _SHDR.pack(
            names.add(section.name),
            section.type,
            section.flags,
            0,
            offset,
            section.size,
            section.link,
            section.info,
            section.align,
            section.entsize,
        )
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    image[: _EHDR.size] = _EHDR.pack(
        ident, ET_REL, EM_X86_64, 1, 0, 0, table, 0, _EHDR.size, 0, 0, _SHDR.size, len(out), len(out) - 1
    )
    return bytes(image)
