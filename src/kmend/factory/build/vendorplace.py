"""A compiled unit found again in the vendor's own fixed kernel, which was built from other sources: by names and content.

Unlike `verify.Placement`, which proves that a unit *is* the shipped one, this looks for the nearest thing in a kernel where
the compiler numbered static locals and clones anew, where functions may be missing, and where only some code is the same.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import capstone

from kmend.factory.build.compare import base_name, without_identity
from kmend.factory.build.special import AUXILIARY, DESCRIPTORS, masked
from kmend.factory.build.unit import Element, External, Kind, Reference, Unit
from kmend.factory.build.verify import field_ranges
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
_MAX_DEPTH = 8
_LINE_OF_DESCRIPTOR = (32, 36)
"""`lineno`, `class_id` and `flags` in `struct _ddebug` (include/linux/dynamic_debug.h, 6.1)."""
CALL = 0xE8


@dataclass(frozen=True, slots=True)
class Instruction:
    """As far as two builds can be compared: `what` it does, without its operands, and where it is."""

    what: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing in which a function differs from the vendor's.

    Attributes:
        absent: the vendor's kernel has no such function (or several, none of them equal).
        reference: the code is the same, but something that it refers to is not.
        offset: where, in bytes from the function's start; -1 for the whole.
        vendor_size: bytes of the vendor's function, 0 if absent.
        address: of the vendor's function, 0 if absent.
    """

    text: str
    absent: bool = False
    reference: bool = False
    offset: int = -1
    vendor_size: int = 0
    address: int = 0


class VendorPlacement:
    """Where the elements of one unit lie in the vendor's vmlinux, as far as they are there."""

    def __init__(self, unit: Unit, vmlinux: Vmlinux) -> None:
        self._unit = unit
        self._vmlinux = vmlinux
        self._locals = self._file_block()
        self._by_class: dict[str, list[ImageSymbol]] = {}
        for symbols in self._locals.values():
            for symbol in symbols:
                self._by_class.setdefault(base_name(symbol.name), []).append(symbol)
        self._identities: dict[int, int] = {}
        self._taken: dict[int, int] = {}

    @property
    def local_functions(self) -> dict[str, int]:
        """The vendor's local functions of this file: name -> size in bytes."""
        return {s.name: s.size for group in self._locals.values() for s in group if s.type == STT_FUNC}

    def _file_block(self) -> dict[str, list[ImageSymbol]]:
        """The local symbols of the block that has most in common with this file, names counted by class."""
        wanted = {base_name(e.name) for e in self._unit.elements if not e.is_global and e.name}
        best: list[tuple[int, dict[str, list[ImageSymbol]]]] = []
        for block in self._vmlinux.file_blocks(self._unit.source.rsplit("/", 1)[-1]):
            table: dict[str, list[ImageSymbol]] = {}
            for symbol in self._vmlinux.block_symbols(block):
                if symbol.type in (STT_FUNC, STT_OBJECT):
                    table.setdefault(symbol.name, []).append(symbol)
            common = wanted & {base_name(name) for name in table}
            best.append((2 * len(common) - len(table), table))
        best.sort(key=lambda entry: entry[0], reverse=True)
        if not best or (len(best) > 1 and best[0][0] == best[1][0]):
            return {}
        return best[0][1]

    def difference(self, element: Element) -> Difference | None:
        """None if the vendor's kernel has that function, byte by byte and reference by reference."""
        candidates = self._candidates(element)
        if not candidates:
            return Difference(f"the vendor's kernel has no {element.name} in this file", absent=True)
        found = [self._difference_at(element, symbol) for symbol in candidates]
        if None in found:
            return None
        nearest = [difference for difference in found if difference is not None]
        return min(nearest, key=lambda difference: not difference.reference)

    def _candidates(self, element: Element) -> list[ImageSymbol]:
        """Symbols of the vendor's kernel that may be `element`, by exact name if there is one of that name."""
        if element.is_global:
            names = dict.fromkeys((element.name, *element.names))
            found = [s for name in names for s in self._vmlinux.named(name) if s.bind != STB_LOCAL]
            if found:
                return found[:1]
        exact = self._locals.get(element.name, [])
        if exact and (len(exact) == 1 or element.is_function):
            return exact
        kind = STT_FUNC if element.is_function else STT_OBJECT
        return [s for s in self._by_class.get(base_name(element.name), []) if s.type == kind]

    def _difference_at(self, element: Element, symbol: ImageSymbol) -> Difference | None:
        size, address = symbol.size, symbol.address
        shipped = self._vmlinux.content(address, element.size) or b""
        fields = field_ranges(element)
        ours, theirs = masked(element.content, fields), masked(shipped, fields)
        if size != element.size or ours != theirs:
            offset = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), element.size)
            text = f"{element.size} bytes here, {size} in the vendor's kernel" if size != element.size else "other code"
            return Difference(f"{text}, from offset {offset:#x} on", False, False, offset, size, address)
        for reference in element.references:
            problem = self._wrong_reference(element, reference, address, 0)
            if problem:
                return Difference(problem, False, True, reference.offset, size, address)
        return None

    def _wrong_reference(self, element: Element, reference: Reference, address: int, depth: int) -> str | None:
        target = reference.target
        if isinstance(target, Element) and target.section.name == AUXILIARY:
            return None
        actual = self._led_to(reference, address)
        if actual is None:
            return f"the field at offset {reference.offset:#x} lies outside of the vendor's vmlinux"
        start = (actual - reference.target_offset) & _MASK
        if isinstance(target, External):
            expected = [s.address for s in self._vmlinux.named(target.name) if s.bind != STB_LOCAL]
            if start in expected or (not expected and target.weak):
                return None
        elif without_identity(target):
            return self._other_content(target, start, reference, depth)
        elif self._is_at(target, start):
            return None
        return f"the reference at offset {reference.offset:#x} leads to {target.name} here, to {self._name_of(actual)} there"

    def _is_at(self, target: Element, start: int) -> bool:
        """Whether the vendor's `target` starts there; what was once found must be found at the same place again."""
        if not any(s.address == start for s in self._candidates(target)):
            return False
        known = self._identities.setdefault(id(target), start)
        return known == start and self._taken.setdefault(start, id(target)) == id(target)

    def _other_content(self, target: Element, start: int, reference: Reference, depth: int) -> str | None:
        """A complaint if a string, a constant or a descriptor has another content there."""
        if target.size == 0 or depth > _MAX_DEPTH:
            return None
        shipped = self._vmlinux.content(start, target.size)
        fields = field_ranges(target)
        if target.section.name in DESCRIPTORS and target.size > _LINE_OF_DESCRIPTOR[1]:
            fields.append(_LINE_OF_DESCRIPTOR)
        same = not any(target.content) if shipped is None else masked(shipped, fields) == masked(target.content, fields)
        if same and shipped is not None:
            same = all(self._wrong_reference(target, inner, start, depth + 1) is None for inner in target.references)
        if same:
            return None
        what = "string" if target.kind is Kind.STRING else target.name or "constant"
        shown = f" ({_printable(target.content)} here, {_printable(shipped)} there)" if what == "string" else ""
        return f"the reference at offset {reference.offset:#x} leads to another {what}{shown}"

    def _led_to(self, reference: Reference, address: int) -> int | None:
        """The address that the vendor's field leads to, the linker's arithmetic undone."""
        place = address + reference.offset
        width = RELOCATION_WIDTH.get(reference.type, 0)
        content = self._vmlinux.content(place, width) if width else None
        if content is None:
            return None
        signed = reference.type in PC_RELATIVE or reference.type == R_X86_64_32S
        value = struct.unpack("<q" if width == 8 else "<i" if signed else "<I", content)[0]
        if reference.type in PC_RELATIVE:
            value += place + reference.bias
        return int(value) & _MASK

    def _name_of(self, address: int) -> str:
        symbols = self._vmlinux.symbols_at(address)
        return symbols[0].name if symbols else f"{address:#x}"

    def calls(self, difference: Difference) -> tuple[str, ...]:
        """Names of the functions that the vendor's one calls directly, clones by class, sorted."""
        code = self._vmlinux.content(difference.address, difference.vendor_size) or b""
        found = []
        for entry in disassemble(code):
            if entry.what == "call" and entry.size == 5 and code[entry.offset] == CALL:
                (displacement,) = struct.unpack_from("<i", code, entry.offset + 1)
                found.append(base_name(self._name_of((difference.address + entry.offset + 5 + displacement) & _MASK)))
        return tuple(sorted(found))

    def instructions(self, difference: Difference) -> tuple[str, ...]:
        """What the instructions of the vendor's function do, in order."""
        code = self._vmlinux.content(difference.address, difference.vendor_size) or b""
        return tuple(entry.what for entry in disassemble(code))


def own_calls(element: Element) -> tuple[str, ...]:
    """Names of the functions that an element calls directly, clones by class, sorted."""
    code = element.content
    return tuple(
        sorted(
            base_name(reference.target.name)
            for reference in element.references
            if reference.offset and code[reference.offset - 1] == CALL
        )
    )


def own_instructions(element: Element) -> tuple[str, ...]:
    """What its instructions do, in order."""
    return tuple(entry.what for entry in disassemble(element.content))


def disassemble(code: bytes) -> Iterator[Instruction]:
    """The instructions of a function, by their mnemonics."""
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.skipdata = True
    found: Iterable[tuple[int, int, str, str]] = decoder.disasm_lite(code, 0)
    for offset, size, mnemonic, _ in found:
        yield Instruction(mnemonic, offset, size)


def _printable(content: bytes | None) -> str:
    text = (content or b"").rstrip(b"\0").decode(errors="replace")
    return repr(text if len(text) <= 60 else text[:57] + "...")
