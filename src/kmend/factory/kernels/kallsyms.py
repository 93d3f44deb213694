"""The kernel's own symbol table in the kernel's own order, from which a symbol's position (`sympos`) follows.

`klp_find_object_symbol` (`kernel/livepatch/core.c`, 6.1) walks kallsyms and counts the symbols of that name, of any type and
binding, from 1. Kallsyms holds what `scripts/mksysmap` and `scripts/kallsyms.c` leave of `nm -n vmlinux`, sorted by address
and then by the rules of `compare_symbols`; `System.map` is that list before the last filter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kmend.core.errors import MalformedError

_IGNORED_NAMES = frozenset(
    {
        "kallsyms_addresses", "kallsyms_offsets", "kallsyms_relative_base", "kallsyms_num_syms", "kallsyms_names",
        "kallsyms_markers", "kallsyms_token_table", "kallsyms_token_index", "kallsyms_seqs_of_names",
    }
)  # fmt: skip
_ADDRESS = re.compile(r"[0-9a-f]{16}")
_IGNORED_PREFIXES = ("__efistub_", "__kcfi_typeid_")


@dataclass(frozen=True, slots=True)
class KernelSymbol:
    """A line of kallsyms; addresses are those of the link, before the kernel moves itself (KASLR)."""

    name: str
    address: int
    type: str


class Kallsyms:
    """The symbols of one kernel in kallsyms order."""

    def __init__(self, symbols: tuple[KernelSymbol, ...]) -> None:
        self.symbols = symbols

    @classmethod
    def from_system_map(cls, path: Path) -> Kallsyms:
        """Read `System.map` of the debug package and apply the filter and order of `scripts/kallsyms.c`.

        Raises:
            MalformedError: it is a stub (as in Debian's image package) or not a symbol list.
        """
        found = []
        for number, line in enumerate(path.read_bytes().decode(errors="replace").removesuffix("\n").split("\n")):
            parts = line.split(" ")
            if len(parts) != 3 or not _ADDRESS.fullmatch(parts[0]):
                raise MalformedError(
                    f"line {number + 1} of {path.name} is not a symbol", hint="take System.map from the -dbg package"
                )
            address, kind, name = parts
            if not _ignored(name, kind):
                found.append((int(address, 16), number, kind, name))
        found.sort(key=_order)
        return cls(tuple(KernelSymbol(name, address, kind) for address, _, kind, name in found))

    @cached_property
    def _by_name(self) -> dict[str, list[KernelSymbol]]:
        table: dict[str, list[KernelSymbol]] = {}
        for symbol in self.symbols:
            table.setdefault(symbol.name, []).append(symbol)
        return table

    def named(self, name: str) -> tuple[KernelSymbol, ...]:
        """All symbols of that name, in the order in which livepatch counts them."""
        return tuple(self._by_name.get(name, ()))

    def sympos(self, name: str, address: int) -> int | None:
        """What livepatch must be told to find this one: 0 if the name is unique, else its place from 1; None if absent."""
        candidates = self._by_name.get(name, [])
        places = [place for place, symbol in enumerate(candidates, start=1) if symbol.address == address]
        if not places:
            return None
        return 0 if len(candidates) == 1 else places[0]


def _ignored(name: str, kind: str) -> bool:
    return name in _IGNORED_NAMES or name.startswith(_IGNORED_PREFIXES) or kind in "UuNnAa"


def _order(entry: tuple[int, int, str, str]) -> tuple[int, bool, bool, int, int]:
    """`compare_symbols`: address, weak ones later, names the linker script may provide later, fewer underscores first."""
    address, number, kind, name = entry
    provided = len(name) >= 8 and name.startswith("__")
    provided = provided and (name.startswith(("__start_", "__stop_", "__end_")) or name.endswith(("_start", "_end")))
    return address, kind in "wW", provided, len(name) - len(name.lstrip("_")), number
