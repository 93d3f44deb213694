"""Which functions the compiler put into which: DWARF's inlined subroutines of one relocatable object.

The entries of types, nine tenths of all, are stepped over by `DW_AT_sibling`; only the trees of functions are walked.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from kmend.factory.elf.constants import ET_REL, SHT_RELA
from kmend.factory.elf.dwarf import DW_AT_NAME, DW_FORM_IMPLICIT_CONST, FIXED_FORMS, LEB_FORMS, text_at, uleb
from kmend.factory.elf.headers import read_headers
from kmend.factory.elf.objects import ElfError

_RELA = struct.Struct("<QQq")
_SUBPROGRAM, _INLINED = 0x2E, 0x1D
_AT_SIBLING, _AT_ORIGIN, _AT_SPECIFICATION, _AT_DECLARATION, _AT_INLINE = 0x01, 0x31, 0x47, 0x3C, 0x20
_WANTED = frozenset({DW_AT_NAME, _AT_SIBLING, _AT_ORIGIN, _AT_SPECIFICATION, _AT_DECLARATION, _AT_INLINE})
_STRING, _STRP, _REF4, _DATA16 = 0x08, 0x0E, 0x13, 0x1E
_COUNTED = {0x0A: 1, 0x03: 2, 0x04: 4}
"""Blocks with a length of so many bytes before them."""
_UNIT_TYPES = (0x01, 0x03)
_MAX_DEPTH = 500


@dataclass(frozen=True, slots=True)
class Inlining:
    """What became of a unit's functions.

    Attributes:
        inlined: function with code of its own -> the functions that were put into it, at any depth.
        known: every function that the debug information speaks of; one that nobody uses is not among them.
    """

    inlined: Mapping[str, frozenset[str]]
    known: frozenset[str]

    def holders(self, name: str) -> frozenset[str]:
        """The functions with code of their own into which that one was put."""
        return frozenset(holder for holder, names in self.inlined.items() if name in names)


@dataclass(slots=True)
class _Abbreviation:
    """How an entry is laid out.

    Attributes:
        size: bytes of all attributes if that is fixed, else -1.
        wanted: attribute -> (offset, form) if the size is fixed; forms: (attribute, form) in order.
    """

    tag: int
    children: bool
    size: int
    wanted: dict[int, tuple[int, int]]
    forms: list[tuple[int, int]]


@dataclass(slots=True)
class _Function:
    """A function's entry: its own name or the entry that it stands for, and the entries of what is inside."""

    name: str
    origin: int
    code: bool
    inside: list[int]


def read_inlining(content: bytes) -> Inlining:
    """Read a relocatable object's debug information; without any, nothing is known.

    Raises:
        ElfError: the debug information is malformed, or of an unknown kind.
    """
    kind, headers = read_headers(content)
    if kind != ET_REL:
        raise ElfError(f"not a relocatable object (ELF type {kind})")
    view = memoryview(content)
    bodies = {header.name: view[header.offset : header.offset + header.size] for header in headers if header.name}
    relocations = {
        offset: addend
        for header in headers
        if header.type == SHT_RELA and header.name == ".rela.debug_info"
        for offset, _, addend in _RELA.iter_unpack(
            view[header.offset : header.offset + header.size - header.size % _RELA.size]
        )
    }
    empty = view[:0]
    reader = _Reader(
        bodies.get(".debug_info", empty),
        bodies.get(".debug_abbrev", empty),
        bodies.get(".debug_str", empty),
        relocations,
    )
    try:
        return reader.read()
    except (struct.error, IndexError):
        raise ElfError("the debug information is cut short") from None


class _Reader:
    def __init__(self, info: memoryview, abbrev: memoryview, strings: memoryview, relocations: dict[int, int]) -> None:
        self._info = info
        self._abbrev = abbrev
        self._strings = strings
        self._relocations = relocations
        self._functions: dict[int, _Function] = {}

    def read(self) -> Inlining:
        offset = 0
        while offset + 12 <= len(self._info):
            length, version, kind = struct.unpack_from("<IHB", self._info, offset)
            if length >= 0xFFFFFFF0 or offset + 4 + length > len(self._info):
                raise ElfError("a unit of the debug information does not fit")
            if version == 5 and kind in _UNIT_TYPES:
                self._unit(offset, offset + 8, offset + 12, offset + 4 + length)
            elif version == 4:
                self._unit(offset, offset + 6, offset + 11, offset + 4 + length)
            offset += 4 + length
        inlined: dict[str, set[str]] = {}
        for function in self._functions.values():
            if function.code:
                names = inlined.setdefault(self._name(function), set())
                names.update(self._name_at(entry) for entry in function.inside)
        known = {self._name(function) for function in self._functions.values()}
        return Inlining(
            {name: frozenset(names - {""}) for name, names in inlined.items() if name}, frozenset(known - {""})
        )

    def _name(self, function: _Function) -> str:
        for _ in range(8):
            if function.name or not function.origin:
                return function.name
            following = self._functions.get(function.origin)
            if following is None:
                break
            function = following
        return ""

    def _name_at(self, entry: int) -> str:
        function = self._functions.get(entry)
        return self._name(function) if function is not None else ""

    def _unit(self, start: int, abbrev_at: int, first: int, end: int) -> None:
        """Walk the entries of a unit that starts at `start` and whose entries lie in `[first, end)`."""
        (raw,) = struct.unpack_from("<I", self._info, abbrev_at)
        table = _abbreviations(self._abbrev, self._relocations.get(abbrev_at, raw))
        info = self._info
        depth = 0
        owners: list[tuple[int, _Function]] = []
        offset = first
        while offset < end:
            here = offset
            code = info[offset]
            offset += 1
            if code >= 0x80:
                code, offset = uleb(info, here)
            if code == 0:
                depth -= 1
                while owners and owners[-1][0] >= depth:
                    owners.pop()
                continue
            kind = table.get(code)
            if kind is None:
                raise ElfError("an entry of the debug information has no abbreviation")
            tag = kind.tag
            interesting = tag in (_SUBPROGRAM, _INLINED)
            if kind.size >= 0 and not interesting and not kind.children:
                offset += kind.size
                continue
            values, offset = self._attributes(kind, offset)
            if tag == _SUBPROGRAM:
                # What is only declared, or only there to be put into others, has no code of its own.
                bare = _AT_DECLARATION in values or _AT_INLINE in values
                origin = values.get(_AT_ORIGIN, values.get(_AT_SPECIFICATION))
                function = _Function(
                    self._text(kind, values), start + origin[0] if origin is not None else 0, not bare, []
                )
                self._functions[here] = function
                if kind.children:
                    owners.append((depth, function))
            elif tag == _INLINED and owners and _AT_ORIGIN in values:
                owners[-1][1].inside.append(start + values[_AT_ORIGIN][0])
            elif kind.children and not owners and depth > 0 and _AT_SIBLING in values:
                offset = start + values[_AT_SIBLING][0]
                if offset <= here:
                    raise ElfError("an entry of the debug information leads back")
                continue
            depth += kind.children
            if depth > _MAX_DEPTH:
                raise ElfError("the debug information is nested too deeply")

    def _attributes(self, kind: _Abbreviation, offset: int) -> tuple[dict[int, tuple[int, int]], int]:
        """The wanted attributes, each as (value, where it stands), and where the entry ends."""
        if kind.size >= 0:
            found = {name: (self._value(offset + at, form), offset + at) for name, (at, form) in kind.wanted.items()}
            return found, offset + kind.size
        found = {}
        for name, form in kind.forms:
            if name in _WANTED:
                found[name] = (self._value(offset, form), offset)
            offset = self._skip(offset, form)
        return found, offset

    def _value(self, offset: int, form: int) -> int:
        if form in (_REF4, _STRP):
            value: int = struct.unpack_from("<I", self._info, offset)[0]
            return self._relocations.get(offset, value) if form == _STRP else value
        return 0

    def _skip(self, offset: int, form: int) -> int:
        size = FIXED_FORMS.get(form)
        if size is not None:
            return offset + size
        if form in LEB_FORMS or form in (0x22, 0x23):
            return uleb(self._info, offset)[1]
        if form in (0x09, 0x18):
            length, offset = uleb(self._info, offset)
            return offset + length
        if form == _STRING:
            while self._info[offset]:
                offset += 1
            return offset + 1
        if form == _DATA16:
            return offset + 16
        if form in _COUNTED:
            width = _COUNTED[form]
            return offset + width + int.from_bytes(self._info[offset : offset + width], "little")
        raise ElfError(f"the debug information has the unknown form {form:#x}")

    def _text(self, kind: _Abbreviation, values: dict[int, tuple[int, int]]) -> str:
        found = values.get(DW_AT_NAME)
        if found is None:
            return ""
        value, where = found
        form = next(form for name, form in kind.forms if name == DW_AT_NAME)
        if form == _STRING:
            return text_at(self._info, where)
        return text_at(self._strings, value) if form == _STRP else ""


def _abbreviations(abbrev: memoryview, offset: int) -> dict[int, _Abbreviation]:
    found: dict[int, _Abbreviation] = {}
    while True:
        code, offset = uleb(abbrev, offset)
        if code == 0:
            return found
        tag, offset = uleb(abbrev, offset)
        children = abbrev[offset] != 0
        offset += 1
        forms: list[tuple[int, int]] = []
        wanted: dict[int, tuple[int, int]] = {}
        size = 0
        while True:
            attribute, offset = uleb(abbrev, offset)
            form, offset = uleb(abbrev, offset)
            if form == DW_FORM_IMPLICIT_CONST:
                _, offset = uleb(abbrev, offset)
            if attribute == 0 and form == 0:
                break
            forms.append((attribute, form))
            if size >= 0 and attribute in _WANTED:
                wanted[attribute] = (size, form)
            fixed = 16 if form == _DATA16 else FIXED_FORMS.get(form)
            size = size + fixed if size >= 0 and fixed is not None else -1
        found[code] = _Abbreviation(tag, children, size, wanted, forms)
