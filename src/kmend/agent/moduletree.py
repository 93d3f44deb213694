"""Which of the running kernel's modules are on the disk, by the lists in its own folder of modules. Pure.

`modules.order` comes with the kernel and names every module that was built (Documentation/kbuild/kbuild.rst); `modules.dep` is
depmod's, and names those that are there. What the first has and the second has not can be loaded by nobody, until a package
brings it.
"""

from __future__ import annotations

_SUFFIXES = (".ko", ".ko.xz", ".ko.gz", ".ko.zst", ".o")
"""Some kernels write `.o` into `modules.order` (6.6 and later)."""


def name_of(path: str) -> str:
    """The module's name as the kernel has it; empty if that is no module's file."""
    name = path.rpartition("/")[2]
    suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), None)
    return name[: -len(suffix)].replace("-", "_") if suffix is not None else ""


def on_disk(dep: str) -> frozenset[str]:
    """Modules that depmod has found."""
    return frozenset(name_of(line.partition(":")[0].strip()) for line in dep.splitlines()) - {""}


def absent(order: str, dep: str) -> tuple[str, ...]:
    """Modules that were built and are not there, sorted; none if either list is empty, since then that is not known."""
    built, there = frozenset(name_of(line.strip()) for line in order.splitlines()) - {""}, on_disk(dep)
    return tuple(sorted(built - there)) if built and there else ()
