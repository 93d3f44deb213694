"""The vendor's newer vmlinux or module, as something to look for code in: symbols, bytes, and where a field leads to."""

from __future__ import annotations

import bisect
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from kmend.factory.build.moduleview import ShippedModule
from kmend.factory.build.unit import Reference
from kmend.factory.elf import Relocation, Section, Symbol
from kmend.factory.elf.constants import (
    PC_RELATIVE,
    R_X86_64_32S,
    RELOCATION_WIDTH,
    STB_LOCAL,
    STT_FUNC,
    STT_OBJECT,
)
from kmend.factory.kernels.vmlinux import ImageSymbol, Vmlinux

_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Place:
    """A byte of the vendor's object.

    Attributes:
        space: the `id` of a module's section; 0 in vmlinux, where one space holds all.
        offset: in that space, bytes.
    """

    space: int
    offset: int

    def plus(self, distance: int) -> Place:
        """The place `distance` bytes further."""
        return Place(self.space, (self.offset + distance) & _MASK)


@dataclass(frozen=True, slots=True)
class Imported:
    """A symbol that a module leaves to the kernel, and the byte of it that is meant."""

    name: str
    offset: int


@dataclass(frozen=True, slots=True)
class Landmark:
    """A function or object of the vendor's, `size` in bytes."""

    name: str
    size: int
    is_function: bool
    place: Place


Block = dict[str, list[Landmark]]
"""Local symbols of one source file, by name."""


class VendorObject(Protocol):
    """What is asked of either kind."""

    def blocks(self, file: str) -> list[Block]:
        """The blocks of local symbols of source files of that name (without folders)."""

    def globals(self, name: str) -> list[Landmark]:
        """Functions, objects and labels of that name that every file may refer to."""

    def content(self, place: Place, size: int) -> bytes | None:
        """The bytes there; None if there are none in the file."""

    def led_to(self, field: Place, like: Reference) -> Place | Imported | None:
        """What the field there refers to, if it is a field such as `like`; None if it refers to nothing."""

    def callee(self, field: Place) -> str:
        """The name of what a call's field there leads to; empty if it has none."""


class VendorVmlinux:
    """A vmlinux: the linker has done its arithmetic, which is undone here."""

    def __init__(self, vmlinux: Vmlinux) -> None:
        self._vmlinux = vmlinux

    def blocks(self, file: str) -> list[Block]:
        """See `VendorObject`."""
        found = []
        for number in self._vmlinux.file_blocks(file):
            block: Block = {}
            for symbol in self._vmlinux.block_symbols(number):
                if symbol.type in (STT_FUNC, STT_OBJECT):
                    block.setdefault(symbol.name, []).append(_linked(symbol))
            found.append(block)
        return found

    def globals(self, name: str) -> list[Landmark]:
        """See `VendorObject`."""
        return [_linked(symbol) for symbol in self._vmlinux.named(name) if symbol.bind != STB_LOCAL]

    def content(self, place: Place, size: int) -> bytes | None:
        """See `VendorObject`."""
        return self._vmlinux.content(place.offset, size)

    def led_to(self, field: Place, like: Reference) -> Place | Imported | None:
        """See `VendorObject`."""
        width = RELOCATION_WIDTH.get(like.type, 0)
        content = self._vmlinux.content(field.offset, width) if width else None
        if content is None:
            return None
        relative = like.type in PC_RELATIVE
        signed = relative or like.type == R_X86_64_32S
        value = int.from_bytes(content, "little", signed=signed or width == 8)
        return Place(0, (value + (field.offset + like.bias if relative else 0)) & _MASK)

    def callee(self, field: Place) -> str:
        """See `VendorObject`."""
        content = self._vmlinux.content(field.offset, 4)
        if content is None:
            return ""
        (displacement,) = struct.unpack("<i", content)
        symbols = self._vmlinux.symbols_at((field.offset + 4 + displacement) & _MASK)
        return symbols[0].name if symbols else ""


def _linked(symbol: ImageSymbol) -> Landmark:
    return Landmark(symbol.name, symbol.size, symbol.type == STT_FUNC, Place(0, symbol.address))


class VendorModule:
    """A module: it is relocatable, except where the assembler resolved a jump inside a section."""

    def __init__(self, shipped: ShippedModule) -> None:
        self._shipped = shipped
        self._offsets: dict[int, tuple[list[int], list[Relocation]]] = {}

    @cached_property
    def _sections(self) -> dict[int, Section]:
        return {id(section): section for section in self._shipped.image.sections}

    def blocks(self, file: str) -> list[Block]:
        """See `VendorObject`."""
        found = []
        for name, symbols in self._shipped.file_blocks:
            if name == file:
                marks = ((n, _kept(group)) for n, group in symbols.items())
                found.append({n: group for n, group in marks if group})
        return found

    def globals(self, name: str) -> list[Landmark]:
        """See `VendorObject`."""
        return [_landmark(symbol) for symbol in self._shipped.named(name) if symbol.bind != STB_LOCAL]

    def content(self, place: Place, size: int) -> bytes | None:
        """See `VendorObject`."""
        section = self._sections.get(place.space)
        if section is None:
            return None
        content = section.content[place.offset : place.offset + size]
        return content if len(content) == size else None

    def led_to(self, field: Place, like: Reference) -> Place | Imported | None:
        """See `VendorObject`."""
        entry = self._relocation(field)
        if entry is not None:
            if entry.type != like.type:
                return None
            if entry.symbol.section is None:
                return Imported(entry.symbol.name, entry.addend + like.bias)
            return Place(id(entry.symbol.section), entry.symbol.value + entry.addend + like.bias)
        content = self.content(field, RELOCATION_WIDTH.get(like.type, 0))
        if not content or like.type not in PC_RELATIVE:
            return None
        return field.plus(like.bias + int.from_bytes(content, "little", signed=True))

    def callee(self, field: Place) -> str:
        """See `VendorObject`."""
        entry = self._relocation(field)
        if entry is not None and not entry.symbol.is_section:
            return entry.symbol.name
        content = self.content(field, 4)
        if content is None:
            return ""
        if entry is not None:
            place = Place(id(entry.symbol.section), entry.symbol.value + entry.addend + 4)
        else:
            place = field.plus(4 + int(struct.unpack("<i", content)[0]))
        return self._names.get(place, "")

    @cached_property
    def _names(self) -> dict[Place, str]:
        return {
            Place(id(symbol.section), symbol.value): symbol.name
            for symbol in self._shipped.image.symbols
            if symbol.section is not None and symbol.name and not symbol.is_section
        }

    def _relocation(self, field: Place) -> Relocation | None:
        known = self._offsets.get(field.space)
        if known is None:
            section = self._sections.get(field.space)
            ordered = sorted(section.relocations if section else (), key=lambda entry: entry.offset)
            known = self._offsets[field.space] = ([entry.offset for entry in ordered], ordered)
        offsets, ordered = known
        place = bisect.bisect_left(offsets, field.offset)
        return ordered[place] if place < len(offsets) and offsets[place] == field.offset else None


def _kept(symbols: list[Symbol]) -> list[Landmark]:
    return [_landmark(symbol) for symbol in symbols if symbol.type in (STT_FUNC, STT_OBJECT)]


def _landmark(symbol: Symbol) -> Landmark:
    return Landmark(symbol.name, symbol.size, symbol.type == STT_FUNC, Place(id(symbol.section), symbol.value))
