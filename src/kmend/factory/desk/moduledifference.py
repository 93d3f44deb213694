"""Where two modules that should be the same begin to differ, in the words of an object file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kmend.factory.elf import ElfError, ObjectFile, Relocation, Section, read_object

_CONSEQUENCES = (".gnu.linkonce.this_module", ".modinfo", ".note.gnu.build-id")
"""Sections that carry the module's name or build ID, which follow from all the rest; they are looked at last."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference.

    Attributes:
        part: what differs: `section`, `relocations`, `symbols`, `layout`, `object`, `glue`, `manifest` or `file`.
        detail: for people.
        section: where; symbol: of it; offset: in the section, bytes, -1 for none.
    """

    part: str
    detail: str
    section: str = ""
    symbol: str = ""
    offset: int = -1


def first_difference(claimed: bytes, rebuilt: bytes) -> Difference | None:
    """The first difference of two unsigned modules; None if they are the same bytes."""
    if claimed == rebuilt:
        return None
    try:
        one = read_object(claimed, keep_debug=True)
    except ElfError as problem:
        return Difference("object", f"the module is no object file: {problem.message}")
    other = read_object(rebuilt, keep_debug=True)
    compared: Sequence[Callable[[ObjectFile, ObjectFile], Difference | None]] = (
        _sections, _contents, _relocations, _symbols, _consequences,
    )  # fmt: skip
    for compare in compared:
        found = compare(one, other)
        if found is not None:
            return found
    offset = _first_byte(claimed, rebuilt)
    return Difference("layout", f"sections and symbols are the same, but the files differ at byte {offset:#x}")


def _sections(one: ObjectFile, other: ObjectFile) -> Difference | None:
    names, others = ([section.name for section in image.sections] for image in (one, other))
    for name in names:
        if name not in others:
            return Difference("section", f"the rebuilt module has no section {name}", name)
    for name in others:
        if name not in names:
            return Difference("section", f"only the rebuilt module has the section {name}", name)
    if names != others:
        place = next(n for n, (name, found) in enumerate(zip(names, others, strict=False)) if name != found)
        return Difference("section", f"the sections stand in another order, from {names[place]} on", names[place])
    for section, found in zip(one.sections, other.sections, strict=True):
        if _form(section) != _form(found):
            return Difference("section", f"{section.name} has another type, flags or alignment", section.name)
    return None


def _form(section: Section) -> tuple[int, ...]:
    return section.type, section.flags, section.align, section.entsize


def _contents(one: ObjectFile, other: ObjectFile) -> Difference | None:
    return _first_content(one, other, [section for section in one.sections if section.name not in _CONSEQUENCES])


def _consequences(one: ObjectFile, other: ObjectFile) -> Difference | None:
    return _first_content(one, other, [section for section in one.sections if section.name in _CONSEQUENCES])


def _first_content(one: ObjectFile, other: ObjectFile, sections: Sequence[Section]) -> Difference | None:
    pairs = {id(section): found for section, found in zip(one.sections, other.sections, strict=True)}
    for section in sections:
        found = pairs[id(section)]
        if section.content == found.content and section.size == found.size:
            continue
        offset = _first_byte(section.content, found.content)
        name = _symbol_at(one, section, offset)
        where = f"{section.name}+{offset:#x}" + (f" ({name})" if name else "")
        told = f"{where} is {_bytes_at(section.content, offset)}, rebuilt {_bytes_at(found.content, offset)}"
        if section.size != found.size:
            told += f"; the section has {section.size} bytes, rebuilt {found.size}"
        return Difference("section", told, section.name, name, offset)
    return None


def _relocations(one: ObjectFile, other: ObjectFile) -> Difference | None:
    for section, found in zip(one.sections, other.sections, strict=True):
        owners = [None, *sorted(section.klp_relocations.keys() | found.klp_relocations.keys())]
        for owner in owners:
            lists = [
                part.relocations if owner is None else part.klp_relocations.get(owner, []) for part in (section, found)
            ]
            mine, theirs = ([_entry(entry) for entry in entries] for entries in lists)
            if mine == theirs:
                continue
            place = next((n for n, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), None)
            place = min(len(mine), len(theirs)) if place is None else place
            offset = (mine[place : place + 1] or theirs[place : place + 1])[0][0]
            name = _symbol_at(one, section, offset)
            kind = "relocation" if owner is None else f"klp relocation of {owner}"
            return Difference(
                "relocations",
                f"the {kind} at {section.name}+{offset:#x}" + (f" ({name})" if name else "")
                + f" is {_told(mine[place : place + 1])}, rebuilt {_told(theirs[place : place + 1])}",
                section.name, name, offset,
            )  # fmt: skip
    return None


def _entry(relocation: Relocation) -> tuple[int, int, str, int]:
    return relocation.offset, relocation.type, relocation.symbol.name, relocation.addend


def _told(entry: Sequence[tuple[int, int, str, int]]) -> str:
    return f"type {entry[0][1]} to {entry[0][2]}{entry[0][3]:+#x}" if entry else "not there"


def _symbols(one: ObjectFile, other: ObjectFile) -> Difference | None:
    mine, theirs = (
        [(s.name, s.value, s.size, s.type, s.bind, s.section.name if s.section else s.index) for s in image.symbols]
        for image in (one, other)
    )
    for n in range(max(len(mine), len(theirs))):
        if mine[n : n + 1] != theirs[n : n + 1]:
            name = str((mine[n : n + 1] or theirs[n : n + 1])[0][0])
            return Difference(
                "symbols", f"the symbol {name} (number {n + 1}) is another in the rebuilt module", "", name
            )
    return None


def _symbol_at(image: ObjectFile, section: Section, offset: int) -> str:
    holders = [
        symbol
        for symbol in image.symbols
        if symbol.section is section and symbol.name and symbol.value <= offset < symbol.value + symbol.size
    ]
    return holders[0].name if holders else ""


def _first_byte(one: bytes, other: bytes) -> int:
    limit = min(len(one), len(other))
    if one[:limit] == other[:limit]:
        return limit
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle)
    return low


def _bytes_at(content: bytes, offset: int) -> str:
    return content[offset : offset + 8].hex(" ") or "at its end"
