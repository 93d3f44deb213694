"""Proof that the freshly compiled original is what the shipped kernel runs: bytes, and what every reference leads to.

For each function the shipped vmlinux is read at the address of its symbol. Bytes are compared with the relocated fields
masked; then each field's value in the shipped bytes, resolved by the linker, must be the address of the very thing that the
object refers to: the symbol of that name in the same file's block of local symbols, the global of that name, or a string or
constant of the same content.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kmend.core.errors import KmendError
from kmend.factory.build.special import AUXILIARY, masked
from kmend.factory.build.unit import Element, External, Kind, Reference, Unit
from kmend.factory.elf.constants import (
    PC_RELATIVE,
    R_X86_64_32S,
    RELOCATION_WIDTH,
    SHT_NOBITS,
    STB_LOCAL,
    STB_WEAK,
)
from kmend.factory.kernels.vmlinux import ImageSymbol, Vmlinux

NOT_LINKED = re.compile(
    r"__(?:exitcall|initcall|UNIQUE_ID|addressable|brk_reservation|func_stack_frame|trace_check|already_done|key|pfx|kstrtab)"
    r"|__.*_(?:exit|ksymtab)"
)


class VerifyError(KmendError):
    """The unit cannot be found in the shipped vmlinux."""

    kind = "verify"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why a function's compiled original is not the shipped one. `offset` is from its start in bytes, -1 for the whole."""

    function: str
    reason: str
    offset: int = -1
    overridden: bool = False


Block = TypeVar("Block", bound=Mapping[str, object])


def best_blocks(unit: Unit, blocks: Sequence[Block]) -> list[Block]:
    """Of blocks of local symbols that may all be a file's, those that hold most of its names.

    A file without local symbols has no block, so none of several is wrong: whatever is looked up in it is not there.
    """
    names = {element.name for element in unit.elements if element.name and not element.is_global}
    common = [len(names & block.keys()) for block in blocks]
    found = [block for block, count in zip(blocks, common, strict=True) if count == max(common)]
    return found if max(common, default=0) else found[:1]


class Placement:
    """Where the elements of one unit lie in the shipped vmlinux."""

    object = "vmlinux"

    def __init__(self, unit: Unit, vmlinux: Vmlinux) -> None:
        self._unit = unit
        self._vmlinux = vmlinux
        self._locals = self._file_block()

    def of(self, unit: Unit) -> Placement:
        """The place of another build of the same file."""
        return Placement(unit, self._vmlinux)

    def _file_block(self) -> dict[str, list[ImageSymbol]]:
        """The local symbols of the one block that belongs to this file.

        Names of files repeat in a kernel (without their folders), so the block's functions decide.
        """
        unit = self._unit
        wanted = {e.name for e in unit.functions if not e.is_global and not NOT_LINKED.match(e.name)}
        found = []
        for block in self._vmlinux.file_blocks(unit.source.rsplit("/", 1)[-1]):
            table: dict[str, list[ImageSymbol]] = {}
            for symbol in self._vmlinux.block_symbols(block):
                table.setdefault(symbol.name, []).append(symbol)
            if wanted <= table.keys():
                found.append(table)
        if len(found) > 1:
            found = best_blocks(unit, [table for table in found if self._bytes_agree(table)])
        if len(found) > 1 and not wanted:
            # Nothing of this file tells them apart, and so nothing of it is local.
            return {}
        if len(found) > 1 or (wanted and not found):
            raise VerifyError(
                f"{len(found)} blocks of local symbols in the shipped vmlinux fit {unit.source}",
                hint="the compiled original differs from the distro's; check the compiler and its flags",
            )
        return found[0] if found else {}

    def _bytes_agree(self, table: dict[str, list[ImageSymbol]]) -> bool:
        for element in self._unit.elements:
            symbols = table.get(element.name, [])
            if (
                element.section.type != SHT_NOBITS
                and not element.is_global
                and len(symbols) == 1
                and not self._same_bytes(element, symbols[0].address)
            ):
                return False
        return True

    def _same_bytes(self, element: Element, address: int) -> bool:
        shipped = self._vmlinux.content(address, element.size)
        fields = field_ranges(element)
        return shipped is not None and masked(shipped, fields) == masked(element.content, fields)

    def addresses(self, element: Element) -> tuple[int, ...]:
        """Where the shipped vmlinux may hold that function or object: once, if all is well."""
        if element.is_global:
            return tuple(symbol.address for symbol in self._vmlinux.named(element.name) if symbol.bind != STB_LOCAL)
        return tuple(symbol.address for symbol in self._locals.get(element.name, []))

    def external_addresses(self, name: str) -> tuple[int, ...]:
        """Where the shipped vmlinux holds that global symbol."""
        return tuple(symbol.address for symbol in self._vmlinux.named(name) if symbol.bind != STB_LOCAL)

    def is_traceable(self, element: Element) -> bool:
        """Whether ftrace can attach to the shipped function."""
        addresses = self.addresses(element)
        return len(addresses) == 1 and addresses[0] in self._vmlinux.traceable

    def verify(self, element: Element) -> Mismatch | None:
        """None if the function is the shipped one, byte by byte and reference by reference."""
        addresses = self.addresses(element)
        if len(addresses) != 1:
            return Mismatch(
                element.name, f"the shipped vmlinux has {len(addresses)} symbols of that name for this file"
            )
        address = addresses[0]
        symbol = next(s for s in self._vmlinux.symbols_at(address) if s.name == element.name)
        if not self._same_bytes(element, address):
            weak = element.bind == STB_WEAK
            reason = (
                "another definition overrides this weak one"
                if weak
                else self._first_difference(element, address, symbol)
            )
            return Mismatch(element.name, reason, self._difference_offset(element, address), weak)
        for reference in element.references:
            problem = self._wrong_reference(element, reference, address)
            if problem:
                return Mismatch(element.name, problem, reference.offset)
        return None

    def _first_difference(self, element: Element, address: int, symbol: ImageSymbol) -> str:
        if symbol.size != element.size:
            return f"{element.size} bytes long when compiled here, {symbol.size} in the shipped vmlinux"
        return f"its code differs from the shipped vmlinux at offset {self._difference_offset(element, address):#x}"

    def _difference_offset(self, element: Element, address: int) -> int:
        shipped = self._vmlinux.content(address, element.size) or b""
        fields = field_ranges(element)
        pairs = zip(masked(element.content, fields), masked(shipped, fields), strict=False)
        return next((offset for offset, (ours, theirs) in enumerate(pairs) if ours != theirs), -1)

    def _wrong_reference(self, element: Element, reference: Reference, address: int) -> str | None:
        actual = self._shipped_target(reference, address)
        if actual is None:
            return f"the field at offset {reference.offset:#x} is outside of the shipped vmlinux"
        target = reference.target
        if isinstance(target, External):
            expected = self.external_addresses(target.name)
            if not expected and target.weak:
                return None
            label = target.name
        elif target.section.name == AUXILIARY:
            return None
        elif target.kind is Kind.OBJECT or target.kind is Kind.FUNCTION:
            expected = self.addresses(target)
            label = target.name
        else:
            start = actual - reference.target_offset
            return (
                None
                if self._same_constant(target, start)
                else f"another constant than the shipped one at {reference.offset:#x}"
            )
        if not expected and NOT_LINKED.match(label):
            return None
        if all((place + reference.target_offset) & _MASK != actual for place in expected):
            return f"the reference at offset {reference.offset:#x} leads to {label} here, to {actual:#x} in the shipped vmlinux"
        return None

    def _same_constant(self, target: Element, start: int) -> bool:
        if target.size == 0:
            return True
        shipped = self._vmlinux.content(start, target.size)
        if shipped is None:
            return not any(target.content)
        fields = field_ranges(target)
        return masked(shipped, fields) == masked(target.content, fields)

    def _shipped_target(self, reference: Reference, address: int) -> int | None:
        """The address that the shipped field leads to, the linker's arithmetic undone."""
        place = address + reference.offset
        width = RELOCATION_WIDTH.get(reference.type, 0)
        content = self._vmlinux.content(place, width) if width else None
        if content is None:
            return None
        signed = width != 4 or reference.type in PC_RELATIVE or reference.type == R_X86_64_32S
        value = int.from_bytes(content, "little", signed=signed)
        if reference.type in PC_RELATIVE:
            value += place + reference.bias
        return value & _MASK


_MASK = (1 << 64) - 1


def field_ranges(element: Element) -> list[tuple[int, int]]:
    """The byte ranges that relocations write."""
    return [(r.offset, r.offset + RELOCATION_WIDTH.get(r.type, 4)) for r in element.references]
