"""Which module files a module needs, in the order in which they must be loaded, by depmod's own files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from kmend.lab.errors import KernelPackageError

_MAX_BYTES = 16 * 1024 * 1024


def module_name(path: str) -> str:
    """The kernel's name of the module in a file: no folder, no suffix, `_` for `-`."""
    return PurePosixPath(path).name.split(".ko")[0].replace("-", "_")


def parse_dependencies(text: str) -> dict[str, tuple[str, ...]]:
    """`modules.dep` as module name -> its file and those that it needs (paths below `/lib/modules/<release>`).

    depmod lists a module's dependencies, the indirect ones included, in the order in which they are to be removed.
    """
    found = {}
    for line in text.splitlines():
        path, colon, needs = line.partition(":")
        if colon:
            found[module_name(path)] = (path, *needs.split())
    return found


def load_order(
    wanted: Iterable[str], dependencies: dict[str, tuple[str, ...]], builtin: frozenset[str]
) -> tuple[str, ...]:
    """The files to load so that every module in `wanted` is there, each after all that it needs; built-in ones need none.

    Raises:
        KernelPackageError: the kernel has no such module.
    """
    order: dict[str, None] = {}
    for name in wanted:
        clean = module_name(name)
        if clean in dependencies:
            order.update(dict.fromkeys(reversed(dependencies[clean])))
        elif clean not in builtin:
            raise KernelPackageError(
                f"this kernel has no module {name}", hint="modules are named as in /proc/modules or by file name"
            )
    return tuple(order)


def modules_to_load(folder: Path, wanted: Iterable[str]) -> tuple[str, ...]:
    """`load_order` with what `folder` (a `/lib/modules/<release>`) says; paths are below that folder.

    Raises:
        KernelPackageError: no such module, or depmod's files cannot be read.
    """
    texts = []
    for name in ("modules.dep", "modules.builtin"):
        try:
            with (folder / name).open(errors="replace") as stream:
                texts.append(stream.read(_MAX_BYTES))
        except OSError as problem:
            raise KernelPackageError(f"cannot read {folder / name}: {problem.strerror}") from problem
    builtin = frozenset(module_name(line) for line in texts[1].splitlines())
    return load_order(wanted, parse_dependencies(texts[0]), builtin)
