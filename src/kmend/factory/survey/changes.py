"""What there is to survey: the compiled files that differ between two kernels' sources, each as a fix."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from kmend.factory.build.headers import shared_files
from kmend.factory.derive import select
from kmend.factory.fixes import Fix, parse_fix
from kmend.factory.kernels.prepared import Kernel
from kmend.factory.kernels.sources import source_files


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """A source file of the kernel that the newer version has in another form.

    Attributes:
        objects: `vmlinux` or modules that hold it.
        old, new: its content in both.
    """

    path: str
    objects: tuple[str, ...]
    old: bytes
    new: bytes


def changed_files(kernel: Kernel, version: str, only: Sequence[str] = ()) -> tuple[ChangedFile, ...]:
    """The `.c` files that are compiled in `kernel` and differ in `version`, by path.

    Args:
        only: paths, or folders that end with `/`, to look at; empty for all.

    Raises:
        PackageProblemError: the newer source cannot be had.
    """
    folders = tuple(entry for entry in only if entry.endswith("/"))
    tree = kernel.tree.path
    objects: dict[str, tuple[str, ...]] = {}
    for name, holders in kernel.units.items():
        # kbuild names some files in a roundabout way: arch/x86/kvm/../../../virt/kvm/eventfd.c.
        path = posixpath.normpath(name)
        if path.endswith(".c") and (not only or path in only or path.startswith(folders)) and (tree / path).is_file():
            objects[path] = (*objects.get(path, ()), *holders)
    paths = sorted(objects)
    newer = source_files(version, paths)
    found = []
    for path in paths:
        new = newer[path]
        old = (tree / path).read_bytes()
        if new is not None and new != old:
            found.append(ChangedFile(path, objects[path], old, new))
    return tuple(found)


def changed_headers(kernel: Kernel, version: str) -> tuple[str, ...]:
    """The headers (and `.c` files that others include) that this kernel's files can reach and that differ in `version`.

    Raises:
        PackageProblemError: the newer source cannot be had.
    """
    paths = shared_files(kernel)
    newer = source_files(version, paths)
    tree = kernel.tree.path
    return tuple(path for path in paths if newer[path] is not None and newer[path] != (tree / path).read_bytes())


def pairs(kernel: Kernel, version: str, paths: Sequence[str]) -> dict[str, tuple[bytes, bytes]]:
    """Path -> content in the kernel's own source and in `version`, for files that both have."""
    newer = source_files(version, paths)
    tree = kernel.tree.path
    return {path: ((tree / path).read_bytes(), content) for path, content in newer.items() if content is not None}


def fix_of(change: ChangedFile, versions: tuple[str, str], companions: bytes = b"") -> Fix:
    """The whole difference of one file as a fix; `companions` are hunks of other files that it needs."""
    patch = select({change.path: (change.old, change.new)}, versions=versions).patch
    header = (
        f"Description: {change.path} as in {versions[1]}\n"
        f"Origin: vendor, Debian linux {versions[1]} (difference to {versions[0]})\n---\n"
    )
    return parse_fix(header.encode() + patch + companions, change.path.replace("/", "_") + ".patch")
