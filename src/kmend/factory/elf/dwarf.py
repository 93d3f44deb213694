"""Names of the compilation units in DWARF, versions 4 and 5, in linked files and in relocatable ones.

In version 5 each unit's line table begins with the unit's own file, and is a tenth of the rest. Otherwise the first entry of
each unit is looked at, and of that only `DW_AT_name`; the rest is stepped over by the unit's length. In a relocatable file the
numbers stand in the relocations' addends.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from kmend.factory.elf.headers import Buffer
from kmend.factory.elf.objects import ElfError

DW_TAG_COMPILE_UNIT = 0x11
DW_AT_NAME = 0x03
DW_FORM_IMPLICIT_CONST = 0x21
FIXED_FORMS = {0x01: 8, 0x0B: 1, 0x05: 2, 0x06: 4, 0x07: 8, 0x0C: 1, 0x11: 1, 0x12: 2, 0x13: 4, 0x14: 8, 0x0E: 4, 0x17: 4,
          0x19: 0, 0x1F: 4, 0x20: 8, 0x21: 0, 0x25: 1, 0x26: 2, 0x27: 3, 0x28: 4}  # fmt: skip
LEB_FORMS = frozenset({0x0D, 0x0F, 0x15, 0x1A, 0x1B})
"""Forms of a fixed size, with their bytes (DWARF 5, section 7.5.6), and forms that are LEB128 numbers."""
_STRING, _STRP, _LINE_STRP = 0x08, 0x0E, 0x1F

DW_LNCT_PATH, DW_LNCT_DIRECTORY = 1, 2
_DATA1, _UDATA, _DATA16, _MD5 = 0x0B, 0x0F, 0x1E, 16
_MAX_ENTRIES = 1_000_000

Patched = Callable[[int, int], int]
"""`(offset in the section that is read, the four bytes found there) -> the number meant`: applies relocations."""


def unit_names(info: Buffer, abbrev: Buffer, strings: Buffer, line_strings: Buffer, patched: Patched) -> Iterator[str]:
    """The `DW_AT_name` of every compilation unit, in file order.

    Args:
        info: `.debug_info`; abbrev: `.debug_abbrev`; strings: `.debug_str`; line_strings: `.debug_line_str`.
        patched: see `Patched`.

    Raises:
        ElfError: the debug information is of an unknown kind or cut short.
    """
    data = memoryview(info).cast("B")
    try:
        offset = 0
        while offset + 12 <= len(data):
            length, version = struct.unpack_from("<IH", data, offset)
            if length >= 0xFFFFFFF0:
                raise ElfError("64-bit DWARF is not expected in a kernel")
            if version >= 5:
                abbrev_at, first = offset + 8, offset + 12
                wanted = data[offset + 6] in (0x01, 0x03)
            else:
                abbrev_at, first, wanted = offset + 6, offset + 11, True
            if wanted:
                (raw,) = struct.unpack_from("<I", data, abbrev_at)
                name = _unit_name(
                    data, first, memoryview(abbrev).cast("B")[patched(abbrev_at, raw) :], strings, line_strings, patched
                )
                if name is not None:
                    yield name
            offset += 4 + length
    except (struct.error, IndexError):
        raise ElfError("the debug information is cut short") from None


def line_unit_names(lines: Buffer, strings: Buffer, line_strings: Buffer, patched: Patched) -> list[str] | None:
    """The names of the compilation units by their line tables, in file order; None if one is older than version 5.

    GNU as writes a name's folder apart, and takes it for the folder of the compilation.

    Args:
        lines: `.debug_line`; strings: `.debug_str`; line_strings: `.debug_line_str`.
        patched: see `Patched`.

    Raises:
        ElfError: the debug information is of an unknown kind or cut short.
    """
    data = memoryview(lines).cast("B")
    found = []
    try:
        offset = 0
        while offset + 6 <= len(data):
            length, version = struct.unpack_from("<IH", data, offset)
            if length >= 0xFFFFFFF0:
                raise ElfError("64-bit DWARF is not expected in a kernel")
            if version < 5:
                return None
            # After the header's own length come six single bytes, the last of which says how many opcode lengths follow.
            tables = offset + 17 + data[offset + 17]
            found.append(_LineTable(data, tables, strings, line_strings, patched).own_file())
            offset += 4 + length
    except (struct.error, IndexError):
        raise ElfError("the debug information is cut short") from None
    return found


class _LineTable:
    """The lists of folders and files of a line table's header (DWARF 5, section 6.2.4)."""

    def __init__(self, data: memoryview, offset: int, strings: Buffer, line_strings: Buffer, patched: Patched) -> None:
        self._data, self._offset, self._patched = data, offset, patched
        self._texts = {_STRP: memoryview(strings).cast("B"), _LINE_STRP: memoryview(line_strings).cast("B")}

    def own_file(self) -> str:
        """The path of the file that was compiled, which is the first of the files."""
        forms, count = self._list()
        folders = self._offset
        self._step_over(forms, count)
        files, _ = self._list()
        name, number = self._entry(files)
        if number >= count or name.startswith("/"):
            return name
        self._offset = folders
        self._step_over(forms, number)
        folder, _ = self._entry(forms)
        return f"{folder}/{name}" if folder else name

    def _list(self) -> tuple[list[tuple[int, int]], int]:
        """How the entries of the next list are made (content and form of each part), and how many there are."""
        form_count = self._data[self._offset]
        self._offset += 1
        forms = [(self._number(), self._number()) for _ in range(form_count)]
        count = self._number()
        if count > min(_MAX_ENTRIES, len(self._data)):
            raise ElfError("a line table names too many files")
        return forms, count

    def _step_over(self, forms: list[tuple[int, int]], count: int) -> None:
        sizes = [_MD5 if form == _DATA16 else FIXED_FORMS.get(form) for _, form in forms]
        known = [size for size in sizes if size is not None]
        if len(known) == len(sizes):
            self._offset += sum(known) * count
        else:
            for _ in range(count):
                self._entry(forms)

    def _entry(self, forms: list[tuple[int, int]]) -> tuple[str, int]:
        """Path and number of the folder of the entry that comes next."""
        path, folder = "", 0
        for content, form in forms:
            if content == DW_LNCT_PATH:
                path = self._path(form)
            elif content == DW_LNCT_DIRECTORY and form in (_DATA1, _UDATA):
                folder = self._number() if form == _UDATA else self._data[self._offset]
                self._offset += form == _DATA1
            else:
                self._offset = self._offset + _MD5 if form == _DATA16 else _skip(self._data, self._offset, form)
        return path, folder

    def _number(self) -> int:
        value, self._offset = uleb(self._data, self._offset)
        return value

    def _path(self, form: int) -> str:
        place = self._offset
        if form == _STRING:
            text = _bytes(self._data, place)
            self._offset += len(text) + 1
            return text.decode(errors="replace")
        if form not in self._texts:
            raise ElfError(f"a path of a line table has the unknown form {form:#x}")
        (raw,) = struct.unpack_from("<I", self._data, place)
        self._offset += 4
        return text_at(self._texts[form], self._patched(place, raw))


def _unit_name(
    data: memoryview, offset: int, abbrev: memoryview, strings: Buffer, line_strings: Buffer, patched: Patched
) -> str | None:
    code, offset = uleb(data, offset)
    tag, attributes = _abbreviation(abbrev, code)
    if tag != DW_TAG_COMPILE_UNIT:
        return None
    for attribute, form in attributes:
        if attribute == DW_AT_NAME:
            if form == _STRING:
                return text_at(data, offset)
            if form in (_STRP, _LINE_STRP):
                (raw,) = struct.unpack_from("<I", data, offset)
                return text_at(memoryview(strings if form == _STRP else line_strings).cast("B"), patched(offset, raw))
            raise ElfError(f"a unit's name has the unknown form {form:#x}")
        offset = _skip(data, offset, form)
    return None


def _abbreviation(abbrev: memoryview, wanted: int) -> tuple[int, list[tuple[int, int]]]:
    offset = 0
    while True:
        code, offset = uleb(abbrev, offset)
        if code == 0:
            raise ElfError("an entry of the debug information has no abbreviation")
        tag, offset = uleb(abbrev, offset)
        offset += 1
        attributes = []
        while True:
            attribute, offset = uleb(abbrev, offset)
            form, offset = uleb(abbrev, offset)
            if form == DW_FORM_IMPLICIT_CONST:
                _, offset = uleb(abbrev, offset)
            if attribute == 0 and form == 0:
                break
            attributes.append((attribute, form))
        if code == wanted:
            return tag, attributes


def _skip(data: memoryview, offset: int, form: int) -> int:
    size = FIXED_FORMS.get(form)
    if size is not None:
        return offset + size
    if form in LEB_FORMS:
        return uleb(data, offset)[1]
    if form == _STRING:
        return offset + len(_bytes(data, offset)) + 1
    raise ElfError(f"the unknown form {form:#x} stands before a unit's name")


def uleb(data: memoryview, offset: int) -> tuple[int, int]:
    """The unsigned LEB128 number at `offset`, and where it ends."""
    value = shift = 0
    while True:
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, offset
        if shift > 63:
            raise ElfError("a number in the debug information does not end")


def text_at(data: memoryview, offset: int) -> str:
    """The string at `offset`."""
    return _bytes(data, offset).decode(errors="replace")


def _bytes(data: memoryview, offset: int) -> bytes:
    """The string at `offset` without its end."""
    chunk = bytes(data[offset : offset + 4096]) if offset >= 0 else b""
    end = chunk.find(b"\0")
    if end < 0:
        raise ElfError("a string in the debug information does not end")
    return chunk[:end]
