"""The livepatch's module with debug information: the debugger's companion of the module that is loaded.

The patched objects carry DWARF for all of their code. It is put after the module's own sections, with every address of a
function that the livepatch brings leading to that function's section of the module, and all other addresses far away. Offsets
from one debug section to another are settled here, so that few relocations stay.

Line tables go section by section. Functions that share one (`.sched.text`) cannot be led apart, so the module gets the shape of
that whole section besides, without content, and the function's debug information leads there: `debug_symbols` knows.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kmend.factory.elf import ElfError, ObjectFile, Relocation, Section, Symbol, read_object, write_object
from kmend.factory.elf.constants import (
    R_X86_64_32,
    R_X86_64_64,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_MERGE,
    SHT_NOBITS,
    SHT_RELA,
    SHT_SYMTAB,
    STB_LOCAL,
    STT_FUNC,
    STT_SECTION,
)
from kmend.factory.elf.headers import SectionHeader, read_headers, string_at

SHF_COMPRESSED = 0x800
_RELA = np.dtype([("offset", "<u8"), ("info", "<u8"), ("addend", "<i8")])
_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("shndx", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
_WIDTH = {R_X86_64_32: 4, R_X86_64_64: 8}
_ELSEWHERE = 1 << 63
"""Where code is that the livepatch does not bring. Linkers write all ones or 0 for discarded code; from the one, addresses wrap
around and GNU addr2line takes them for the module's own, and at the other the module's own begin."""

_SHARED = ".kmend_shared"
"""How the sections are called that stand for shared ones."""

Places = dict[int, list[tuple[int, int, Section, int]]]
"""Section of an object -> (start, end, section of the module, start there) of the functions that were taken out of it."""


def debug_module(module: bytes, objects: Sequence[bytes]) -> bytes:
    """The module with the debug information of the objects from which its functions come.

    Args:
        module: unsigned; its sections `.text.kmend<n>.<function>` are of object n.
        objects: the patched objects, in the order in which functions were extracted from them.

    Raises:
        ElfError: an object's debug information is not in the form that the kernel's compilers give it.
    """
    image = read_object(module)
    starts = _section_symbols(image)
    debug: dict[str, Section] = {}
    for number, content in enumerate(objects):
        prefix = f".text.kmend{number}."
        functions = {
            symbol.name: symbol
            for symbol in image.symbols
            if symbol.type == STT_FUNC and symbol.section is not None and symbol.section.name.startswith(prefix)
        }
        _add(number, content, functions, image, starts, debug)
    image.sections += debug.values()
    return write_object(image)


def debug_symbols(image: ObjectFile, name: str) -> list[Symbol]:
    """Where the debug information of a function leads, in a module made by `debug_module`."""
    found = [
        symbol
        for symbol in image.symbols
        if symbol.name == name and symbol.type == STT_FUNC and symbol.section is not None
    ]
    shared = [symbol for symbol in found if symbol.section is not None and symbol.section.name.startswith(_SHARED)]
    return shared or found


def _section_symbols(image: ObjectFile) -> dict[int, Symbol]:
    """Section's `id` -> the symbol that stands for its start, made for code where there is none."""
    found = {id(symbol.section): symbol for symbol in image.symbols if symbol.is_section and symbol.section is not None}
    for section in image.sections:
        if section.executable and id(section) not in found:
            symbol = Symbol(section.name, type=STT_SECTION, bind=STB_LOCAL, section=section)
            image.symbols.append(symbol)
            found[id(section)] = symbol
    return found


def _add(
    number: int,
    content: bytes,
    functions: dict[str, Symbol],
    image: ObjectFile,
    starts: dict[int, Symbol],
    debug: dict[str, Section],
) -> None:
    _, headers = read_headers(content)
    symbols, places = _symbols(content, headers, functions)
    for index, group in places.items():
        if len(group) > 1 or group[0][0] or headers[index].size > group[0][1]:
            places[index] = [_stand_in(number, headers[index], group, image, starts)]
    wanted = [
        index for index, header in enumerate(headers) if header.name.startswith(".debug_") and header.type != SHT_RELA
    ]
    for index in wanted:
        header = headers[index]
        if header.flags & SHF_COMPRESSED or header.type == SHT_NOBITS:
            raise ElfError(f"{header.name} is not plain debug information")
        if header.name not in debug:
            # Pieces are put one after another, and references count bytes, so equal strings are not merged.
            debug[header.name] = Section(header.name, header.type, header.flags & ~SHF_MERGE, entsize=header.entsize)
    bases = np.zeros(len(headers), np.uint64)
    for index in wanted:
        bases[index] = len(debug[headers[index].name].content)
    relocations = {header.info: header for header in headers if header.type == SHT_RELA}
    for index in wanted:
        header, out = headers[index], debug[headers[index].name]
        piece = np.frombuffer(content, np.uint8, header.size, header.offset).copy()
        if index in relocations:
            entries = _table(content, relocations[index], _RELA)
            _settle(piece, entries, symbols, bases, wanted)
            _lead(piece, entries, symbols, places, starts, out, wanted)
        out.content += piece.tobytes()


def _stand_in(
    number: int,
    shared: SectionHeader,
    group: Sequence[tuple[int, int, Section, int]],
    image: ObjectFile,
    starts: dict[int, Symbol],
) -> tuple[int, int, Section, int]:
    """A section in the place of one that several functions share, with the symbols of those that were taken out of it."""
    section = Section(
        f"{_SHARED}{number}{shared.name}", SHT_NOBITS, SHF_ALLOC | SHF_EXECINSTR, b"", 16, nobits_size=shared.size
    )
    image.sections.append(section)
    starts[id(section)] = Symbol(section.name, type=STT_SECTION, bind=STB_LOCAL, section=section)
    image.symbols.append(starts[id(section)])
    for start, end, taken, _ in group:
        name = taken.name.split(".", 3)[3]
        image.symbols.append(Symbol(name, start, end - start, STT_FUNC, STB_LOCAL, section=section))
    return 0, shared.size, section, 0


def _symbols(
    content: bytes, headers: Sequence[SectionHeader], functions: dict[str, Symbol]
) -> tuple[npt.NDArray[np.void], Places]:
    table = next((header for header in headers if header.type == SHT_SYMTAB), None)
    if table is None or table.link >= len(headers):
        raise ElfError("the object has no symbol table")
    symbols = _table(content, table, _SYMBOL)
    names = content[headers[table.link].offset :][: headers[table.link].size]
    places: Places = {}
    for symbol in symbols[(symbols["info"] & 15) == STT_FUNC]:
        taken = functions.get(string_at(names, int(symbol["name"])))
        if taken is not None and taken.section is not None:
            start = int(symbol["value"])
            places.setdefault(int(symbol["shndx"]), []).append(
                (start, start + int(symbol["size"]), taken.section, taken.value)
            )
    for group in places.values():
        group.sort(key=lambda place: place[0])
    return symbols, places


def _table(content: bytes, header: SectionHeader, kind: np.dtype[np.void]) -> npt.NDArray[np.void]:
    if header.size % kind.itemsize:
        raise ElfError(f"{header.name} is not made of whole entries")
    return np.frombuffer(content, kind, header.size // kind.itemsize, header.offset)


def _settle(
    piece: npt.NDArray[np.uint8],
    entries: npt.NDArray[np.void],
    symbols: npt.NDArray[np.void],
    bases: npt.NDArray[np.uint64],
    wanted: Sequence[int],
) -> None:
    """Write what leads from debug section to debug section, and put all else far away."""
    numbers = entries["info"] >> np.uint64(32)
    kinds = entries["info"] & np.uint64(0xFFFFFFFF)
    if len(entries) and int(numbers.max()) >= len(symbols):
        raise ElfError("a relocation of the debug information names a symbol that does not exist")
    targets = symbols["shndx"][numbers]
    inside = np.isin(targets, wanted)
    values = symbols["value"][numbers] + entries["addend"].astype(np.uint64)
    values[inside] += bases[targets[inside]]
    values[~inside] = _ELSEWHERE
    for kind, width in _WIDTH.items():
        chosen = kinds == kind
        _write(piece, entries["offset"][chosen], values[chosen], width)
    if not np.isin(kinds, list(_WIDTH)).all():
        raise ElfError("the debug information has relocations of an unknown type")


def _write(
    piece: npt.NDArray[np.uint8], offsets: npt.NDArray[np.uint64], values: npt.NDArray[np.uint64], width: int
) -> None:
    if not len(offsets):
        return
    if int(offsets.max()) + width > len(piece):
        raise ElfError("a relocation lies outside of the debug information")
    fields = offsets.astype(np.int64)[:, None] + np.arange(width)
    piece[fields] = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8)[:, :width]


def _lead(
    piece: npt.NDArray[np.uint8],
    entries: npt.NDArray[np.void],
    symbols: npt.NDArray[np.void],
    places: Places,
    starts: dict[int, Symbol],
    out: Section,
    wanted: Sequence[int],
) -> None:
    """Keep the relocations that lead to functions of the module; their fields are zero, as x86-64 has it."""
    base = len(out.content)
    targets = symbols["shndx"][entries["info"] >> np.uint64(32)]
    for entry, target in zip(entries[~np.isin(targets, wanted)], targets[~np.isin(targets, wanted)], strict=True):
        offset, kind = int(entry["offset"]), int(entry["info"]) & 0xFFFFFFFF
        value = int(symbols["value"][int(entry["info"]) >> 32]) + int(entry["addend"])
        found = _place(places.get(int(target), []), value)
        width = _WIDTH[kind]
        if found is not None:
            section, address = found
            piece[offset : offset + width] = 0
            out.relocations.append(Relocation(base + offset, kind, starts[id(section)], address))


def _place(group: Sequence[tuple[int, int, Section, int]], value: int) -> tuple[Section, int] | None:
    """Where the byte `value` of a section went; the end of a function belongs to it if nothing else starts there."""
    number = bisect.bisect_right(group, value, key=lambda place: place[0]) - 1
    if number < 0 or value > group[number][1]:
        return None
    start, _, section, address = group[number]
    return section, address + value - start
