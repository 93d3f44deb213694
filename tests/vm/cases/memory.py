"""The running kernel's code, read from its memory."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

import capstone
from capstone.x86_const import X86_GRP_CALL, X86_GRP_JUMP, X86_OP_IMM, X86_OP_MEM, X86_REG_RIP

from kmend import lab

KERNEL = range(0xFFFFFFFF80000000, 0xFFFFFFFFFF000000)
"""Here lie the kernel's and the modules' code and data."""
_NUMBER = re.compile(r"([+-] ?)?(0x[0-9a-f]+|\b\d+\b)")


class Symbols:
    """/proc/kallsyms as it stood when this was made."""

    def __init__(self, vm: lab.Vm) -> None:
        lines = [line.split() for line in vm.read("/proc/kallsyms").decode().splitlines()]
        places = sorted((int(words[0], 16), words[2], words[3].strip("[]") if words[3:] else "") for words in lines)
        self._places = [(address, name, home) for address, name, home in places if address in KERNEL]
        self._addresses = [address for address, _, _ in self._places]

    def addresses(self, name: str, home: str = "") -> list[int]:
        """Where symbols of that name are, in vmlinux or in a module."""
        return [address for address, other, where in self._places if (other, where) == (name, home)]

    def address(self, name: str, home: str = "") -> int:
        """Where the one symbol of that name is."""
        (address,) = self.addresses(name, home)
        return address

    def symbol(self, address: int) -> tuple[str, int]:
        """The symbol before an address, and how far the address is behind it."""
        place = bisect_right(self._addresses, address) - 1
        start, name, _ = self._places[place] if place >= 0 else (0, "", "")
        return name, address - start

    def home(self, address: int) -> str:
        """The module that holds an address; empty for vmlinux."""
        return self._places[bisect_right(self._addresses, address) - 1][2]


def peek(vm: lab.Vm, address: int, length: int) -> bytes:
    """Bytes of the running kernel."""
    return bytes.fromhex(vm.run(["/call", "peek", hex(address), str(length)]).text)


def redirected(code: bytes) -> bool:
    """Whether a function begins with a call of ftrace, and not with the NOP that stands there otherwise."""
    assert code[:1] == b"\xe8" or code[:5] == bytes.fromhex("0f1f440000"), code[:5].hex()
    return code[0] == 0xE8


@dataclass(frozen=True, slots=True)
class Twins:
    """A function and its replacement: their places, and their size in bytes."""

    name: str
    old: int
    new: int
    size: int

    def constants(self, symbols: Symbols, old: bytes, new: bytes) -> list[tuple[int, int]]:
        """The pairs of constants in which two images of them differ.

        Raises:
            AssertionError: they differ in anything else.
        """
        found: list[tuple[int, int]] = []
        lefts, rights = _instructions(old, self.old), _instructions(new, self.new)
        assert len(lefts) == len(rights), self.name
        for left, right in zip(lefts[1:], rights[1:], strict=True):
            what = f"{self.name}+{left.address - self.old:#x}: {_text(left)} / {_text(right)}"
            assert (left.address - self.old, left.size, left.mnemonic) == (
                right.address - self.new, right.size, right.mnemonic), what  # fmt: skip
            assert _NUMBER.sub("#", left.op_str) == _NUMBER.sub("#", right.op_str), what
            a, b = _values(left), _values(right)
            assert len(a) == len(b), what
            branch = {X86_GRP_CALL, X86_GRP_JUMP} & set(left.groups)
            for one, other in zip(a, b, strict=True):
                if one == other or symbols.symbol(one) == symbols.symbol(other):
                    continue
                if one in KERNEL and other in KERNEL:
                    assert not branch, what
                    assert symbols.home(other).startswith("kmend_"), what
                else:
                    found.append((one, other))
        return found


def _instructions(code: bytes, address: int) -> list[capstone.CsInsn]:
    machine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    machine.detail = True
    found = list(machine.disasm(code, address))
    assert sum(instruction.size for instruction in found) == len(code), hex(address)
    return found


def _values(instruction: capstone.CsInsn) -> list[int]:
    """Its constants and addresses, all as unsigned 64-bit numbers."""
    found = []
    for operand in instruction.operands:
        if operand.type == X86_OP_IMM:
            found.append(operand.imm)
        elif operand.type == X86_OP_MEM:
            base = instruction.address + instruction.size if operand.mem.base == X86_REG_RIP else 0
            found.append(base + operand.mem.disp)
    return [value & (1 << 64) - 1 for value in found]


def _text(instruction: capstone.CsInsn) -> str:
    return re.sub(r"\s+", " ", f"{instruction.mnemonic} {instruction.op_str}")
