"""Where the instruction around a relocation ends, from which the processor counts relative addresses; and branches without one.

A branch ends right after its four bytes. A memory operand relative to the instruction pointer may be followed by an
immediate of up to four bytes, so those are decoded, with Capstone, from the function's start.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

import capstone

from kmend.factory.elf.objects import ElfError

_RIP_RELATIVE = frozenset({0x05, 0x0D, 0x15, 0x1D, 0x25, 0x2D, 0x35, 0x3D})
"""ModRM bytes with mod 00 and r/m 101: a 32-bit displacement from the next instruction (Intel SDM, volume 2, 2.2.1.6)."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A direct call or jump: `width` bytes at `field` hold the distance from `field + width` to `target` (all in bytes, from
    the function's start)."""

    field: int
    width: int
    target: int


def direct_branches(code: bytes) -> Iterator[Branch]:
    """Every direct call and jump of a function, as its bytes say; a field that awaits its relocation says nonsense."""
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.skipdata = True
    for address, size, mnemonic, operand in decoder.disasm_lite(code, 0):
        # A direct branch's operand is a number (small ones without 0x); a prefix may stand before the mnemonic.
        if operand[:1].isdigit() and mnemonic.rpartition(" ")[2].startswith(("call", "j", "loop")):
            end = address + size
            near = size >= 5 and (
                code[end - 5] in (0xE8, 0xE9) or (code[end - 6] == 0x0F and 0x80 <= code[end - 5] <= 0x8F)
            )
            width = 4 if near else 1
            yield Branch(end - width, width, end + int.from_bytes(code[end - width : end], "little", signed=True))


class InstructionEnds:
    """Answers for many functions; each is decoded at most once."""

    def __init__(self) -> None:
        self._decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self._decoder.skipdata = True
        self._boundaries: dict[object, list[int]] = {}

    def end_of(self, code: bytes, offset: int, key: object) -> int:
        """The end of the instruction that holds the relocated field at `offset`.

        Args:
            code: the whole function, its start included.
            offset: of the field in it, bytes.
            key: identifies the function, so that it is decoded once.

        Raises:
            ElfError: the bytes around the field are not an instruction with such a field.
        """
        before = code[offset - 1] if offset >= 1 else 0
        branch = before in (0xE8, 0xE9) or (offset >= 2 and code[offset - 2] == 0x0F and 0x80 <= before <= 0x8F)
        if branch:
            return offset + 4
        if before not in _RIP_RELATIVE:
            raise ElfError(f"the relative field at offset {offset:#x} belongs to no instruction that is known")
        ends = self._boundaries.get(key)
        if ends is None:
            ends = [address + size for address, size, _, _ in self._decoder.disasm_lite(code, 0)]
            self._boundaries[key] = ends
        place = bisect.bisect_right(ends, offset)
        if place >= len(ends) or not offset + 4 <= ends[place] <= offset + 8:
            raise ElfError(f"the instruction around offset {offset:#x} cannot be decoded")
        return ends[place]
