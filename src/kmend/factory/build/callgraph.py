"""Who calls whom in the shipped vmlinux, by direct calls and jumps; and who starts kernel threads with which function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from kmend.factory.elf.constants import R_X86_64_32S
from kmend.factory.kernels.prepared import KernelIndex

FIRST_ARGUMENT = b"\x48\xc7\xc7"
"""`mov $imm32, %rdi` up to its immediate: the first argument of a call (System V ABI for x86-64, 3.2.3)."""
_ARGUMENT_DISTANCE = 160
"""How many bytes before a call its first argument may be set."""
ARGUMENT_RELOCATIONS = 14


class CallGraph:
    """Which code refers to which, by relative references, both ends as addresses of the functions' symbols."""

    def __init__(self, kernel: KernelIndex) -> None:
        self._vmlinux = kernel.vmlinux
        self.names: dict[int, list[str]] = {}
        for symbol in kernel.kallsyms.symbols:
            if symbol.type in "tTwW":
                self.names.setdefault(symbol.address, []).append(symbol.name)
        self._addresses = {name: address for address, names in self.names.items() for name in names}
        self._starts = np.array(sorted(self.names), dtype=np.uint64)
        places, targets = kernel.vmlinux.branches(self._starts)
        callers, callees = self._functions_of(places), self._functions_of(targets)
        order = np.argsort(callers, kind="stable")
        self._callers, self._places, self._callees = callers[order], places[order], callees[order]
        order = np.argsort(callees, kind="stable")
        self._called, self._calling = callees[order], callers[order]

    def _functions_of(self, addresses: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        found = np.searchsorted(self._starts, addresses, side="right") - 1
        return self._starts[np.maximum(found, 0)]

    def address(self, name: str) -> int | None:
        """Where the function of that name starts."""
        return self._addresses.get(name)

    def size(self, address: int) -> int:
        """Bytes from the function's start to the next one's."""
        place = int(np.searchsorted(self._starts, np.uint64(address), side="right"))
        return int(self._starts[place]) - address if place < len(self._starts) else 0

    def function_of(self, address: int) -> str:
        """The name of the function that holds `address`."""
        start = int(self._functions_of(np.array([address], dtype=np.uint64))[0])
        return self.names[start][0]

    def from_function(self, address: int) -> list[tuple[int, int]]:
        """(place, called function) of every reference in the function at `address`, by rising place."""
        low, high = np.searchsorted(self._callers, [np.uint64(address), np.uint64(address + 1)])
        chosen = slice(int(low), int(high))
        return sorted(zip(self._places[chosen].tolist(), self._callees[chosen].tolist(), strict=True))

    def callers(self, address: int) -> set[int]:
        """The functions that call or jump to the one at `address`."""
        low, high = np.searchsorted(self._called, [np.uint64(address), np.uint64(address + 1)])
        return set(self._calling[int(low) : int(high)].tolist())

    def reaching(self, roots: Iterable[int], leave_out: frozenset[int] = frozenset()) -> set[int]:
        """The functions from which one of `roots` is reached, themselves included, not by way of `leave_out`."""
        found = set(roots)
        todo = list(found)
        while todo:
            fresh = self.callers(todo.pop()) - found - leave_out
            found |= fresh
            todo += fresh
        return found

    def given_to(self, names: Iterable[str]) -> Iterator[tuple[str, int]]:
        """(called function, the function's address that is its first argument) for every call of one of `names`."""
        wanted = {symbol.address: name for name in names for symbol in self._vmlinux.named(name)}
        if not wanted:
            return
        relocations = self._vmlinux.all_references()
        targets = np.fromiter(wanted, dtype=np.uint64)
        for number in np.flatnonzero(np.isin(relocations.branch_targets, targets)).tolist():
            place = int(relocations.places[number])
            if self._vmlinux.content(place - 1, 1) not in (b"\xe8", b"\xe9"):
                continue
            for other in range(number - 1, max(number - ARGUMENT_RELOCATIONS, -1), -1):
                where = int(relocations.places[other])
                if place - where > _ARGUMENT_DISTANCE:
                    break
                if (
                    relocations.types[other] == R_X86_64_32S
                    and self._vmlinux.content(where - 3, 3) == FIRST_ARGUMENT
                    and int(relocations.targets[other]) in self.names
                ):
                    yield wanted[int(relocations.branch_targets[number])], int(relocations.targets[other])
                    break
