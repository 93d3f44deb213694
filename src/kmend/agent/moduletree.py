"""Which of the running kernel's modules are on the disk, by the lists in its own folder of modules. Pure.

`modules.order` comes with the kernel and names every module that was built (Documentation/kbuild/kbuild.rst); `modules.dep` is
depmod's, and names those that are there. What the first has and the second has not is loaded by nobody's asking, until a package
brings it. `modules.builtin` names what is in the kernel itself, and is never absent.
"""

from __future__ import annotations

FILES = (".ko", ".ko.xz", ".ko.gz", ".ko.zst")
_SUFFIXES = (*FILES, ".o")
"""Some kernels write `.o` into `modules.order` (6.6 and later)."""


def name_of(path: str) -> str:
    """The module's name as the kernel has it; empty if that is no module's file."""
    name = path.rpartition("/")[2]
    suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), None)
    return name[: -len(suffix)].replace("-", "_") if suffix is not None else ""


def on_disk(dep: str) -> frozenset[str]:
    """Modules that depmod has found."""
    return frozenset(name_of(line.partition(":")[0].strip()) for line in dep.splitlines()) - {""}


def missing(order: str, builtin: str, dep: str) -> dict[str, str]:
    """Modules that were built and that depmod has not found: name -> path below the folder, as the build has it.

    None if there is no order, or depmod has found nothing: then that is not known.
    """
    built = {name: path for line in order.splitlines() if (name := name_of(path := line.strip()))}
    there = on_disk(dep)
    if not built or not there:
        return {}
    there |= {name_of(line.strip()) for line in builtin.splitlines()}
    return {name: path for name, path in sorted(built.items()) if name not in there}


def files(path: str) -> tuple[str, ...]:
    """The files in which the module may be, that the build has at a path."""
    stem = path[: path.index(".", path.rfind("/") + 1)]
    return tuple(stem + suffix for suffix in FILES)
