"""What can be said of a fix before anything is compiled: which files it touches, and whether this kernel has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from kmend.factory.build.refusal import Refusal, RefusalCode
from kmend.factory.fixes import AppliedFile, ChangeKind, Fix

_BUILD_FILES = ("Makefile", "Kbuild", "Kconfig")
_BUILD_SUFFIXES = (".lds", ".mk", ".tbl", ".awk", ".sh", ".pl", ".py")
_OTHER_PROGRAMS = ("arch/x86/boot/", "arch/x86/entry/vdso/", "arch/x86/purgatory/", "arch/x86/realmode/",
                   "drivers/firmware/efi/libstub/", "scripts/", "usr/", "samples/")  # fmt: skip
"""Folders whose code is not part of the kernel that runs: it ran before, or runs elsewhere. Files of theirs that an object of the
kernel holds are (`arch/x86/entry/vdso/vma.c` maps the vDSO, whose own code lies beside it)."""
_IRRELEVANT = ("Documentation/", "MAINTAINERS", "CREDITS", "tools/")


def check_files(
    fixes: Sequence[Fix], units: Mapping[str, tuple[str, ...]], included: Mapping[str, tuple[str, ...]] | None = None
) -> tuple[tuple[str, ...], list[Refusal]]:
    """The sources and headers that the fixes change, and refusals for files that cannot be taken.

    Args:
        units: source file -> objects of this kernel that hold it.
        included: `.c` file -> the files that `#include` it.
    """
    sources: list[str] = []
    refusals: list[Refusal] = []
    included = included or {}
    for path, kind in dict.fromkeys((change.path, change.kind) for fix in fixes for change in fix.files):
        if path.startswith(_IRRELEVANT):
            continue
        refusal = _refusal(path, kind, units, included)
        if refusal is not None:
            refusals.append(refusal)
        elif path not in sources:
            sources.append(path)
    return tuple(sources), refusals


def including_units(
    path: str, units: Mapping[str, tuple[str, ...]], included: Mapping[str, tuple[str, ...]]
) -> frozenset[str]:
    """The translation units that include a `.c` file, directly or not (`kernel/sched/build_utility.c` and others)."""
    holders: set[str] = set()
    todo = [path]
    while todo:
        for holder in included.get(todo.pop(), ()):
            if holder not in holders:
                holders.add(holder)
                todo.append(holder)
    return frozenset(holder for holder in holders if units.get(holder))


def changed_sources(applied: Mapping[str, AppliedFile], sources: Sequence[str]) -> tuple[str, ...]:
    """Those of `sources` whose text really changes."""
    return tuple(path for path in sources if applied[path].original != applied[path].patched)


def _refusal(
    path: str, kind: ChangeKind, units: Mapping[str, tuple[str, ...]], included: Mapping[str, tuple[str, ...]]
) -> Refusal | None:
    name = PurePosixPath(path).name
    if name in _BUILD_FILES or path.endswith(_BUILD_SUFFIXES):
        return Refusal(
            RefusalCode.BUILD_FILE,
            f"{path} steers how the kernel is built or linked; that was decided when this kernel was built",
            hint="take only the changes to C code into the fix",
            file=path,
        )
    if path.endswith(".S"):
        return Refusal(
            RefusalCode.ASSEMBLY,
            f"{path} is assembly: its routines have no __fentry__ call through which livepatch could redirect them",
            hint="change the C code that calls them, if that mends it too",
            file=path,
        )
    if path.startswith(_OTHER_PROGRAMS) and not units.get(path):
        return Refusal(
            RefusalCode.NOT_BUILT,
            f"{path} is not code of the running kernel: it ran before it, or runs outside",
            hint="leave this file out of the fix; a new kernel package brings its change",
            file=path,
        )
    if path.endswith(".h") and kind is not ChangeKind.DELETE:
        return None
    if kind is ChangeKind.CREATE:
        return Refusal(
            RefusalCode.FILE_ADDED,
            f"{path} is a new file, which no object of this kernel holds",
            hint="put its functions into an existing file that uses them",
            file=path,
        )
    if kind is ChangeKind.DELETE:
        return Refusal(
            RefusalCode.FILE_REMOVED,
            f"{path} is deleted; a livepatch cannot take code out of a kernel",
            hint="change what its functions do, or the code that calls them",
            file=path,
        )
    if not path.endswith(".c"):
        return Refusal(RefusalCode.NOT_BUILT, f"{path} is not a C source file", "leave it out of the fix", path)
    objects = units.get(path, ())
    if not objects and not including_units(path, units, included):
        return Refusal(
            RefusalCode.NOT_BUILT,
            f"{path} is not compiled in this kernel, so there is nothing to mend in it",
            hint="this kernel is not affected",
            file=path,
        )
    return None
