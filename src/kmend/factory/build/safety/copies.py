"""Copies of a header's functions that stay as they are: what is inlined lives in many units.

A header's function has no code of its own; the compiler puts it into those that use it, or makes a copy in each unit. The units
are found by name before anything is compiled (`kmend.factory.build.headers`); here the shipped kernel's own symbols are asked
whether it holds copies that belong to none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kmend.core.manifest import Notice
from kmend.factory.build.safety.hunks import function_name
from kmend.factory.build.unit import Element
from kmend.factory.build.verify import Placement
from kmend.factory.kernels.prepared import Kernel

COPIES = "copies-left"
_MOST_NAMED = 8


def copy_notices(
    kernel: Kernel, names: Iterable[str], units: Sequence[tuple[Placement, Sequence[Element]]]
) -> Iterator[Notice]:
    """A notice for each changed function of a header that vmlinux also holds in units that were not compiled.

    Args:
        units: the compiled ones in vmlinux, each with its original functions.
    """
    wanted = frozenset(names)
    if not wanted:
        return
    known = {
        address
        for placement, elements in units
        for element in elements
        if function_name(element.name) in wanted
        for address in placement.addresses(element)
    }
    left: dict[str, list[str]] = {}
    for symbol in kernel.kallsyms.symbols:
        name = function_name(symbol.name)
        if name in wanted and symbol.type in "tTwW" and symbol.address not in known:
            left.setdefault(name, []).append(_file_of(kernel, symbol.name, symbol.address))
    for name, files in sorted(left.items()):
        here = sorted(set(files))
        more = f" and {len(here) - _MOST_NAMED} more" if len(here) > _MOST_NAMED else ""
        yield Notice(
            COPIES,
            f"the kernel holds other functions named {name} that stay as they are: in {', '.join(here[:_MOST_NAMED])}{more}",
        )


def _file_of(kernel: Kernel, name: str, address: int) -> str:
    for symbol in kernel.vmlinux.symbols_at(address):
        if symbol.name == name and symbol.file_block is not None:
            return kernel.vmlinux.file_block_name(symbol.file_block)
    return "assembly or a global of another file"
