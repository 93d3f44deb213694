"""From a series of fixes to source texts: which files differ, and which translation units must be compiled to see the effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from kmend.factory.build.headers import affected_units
from kmend.factory.build.preflight import changed_sources
from kmend.factory.build.refusal import Refusal, RefusalCode, RefusedError
from kmend.factory.fixes import AppliedFile, DoesNotApplyError, Fix, apply_series, with_line_directives
from kmend.factory.kernels.prepared import Kernel


@dataclass(frozen=True)
class Sources:
    """What a series makes of the kernel's sources.

    Attributes:
        applied: the files that it changes, headers among them.
        units: the translation units to compile.
        untouched: the text of those units that it does not change itself, but by headers.
        names: units that are compiled by one name only -> that name, which is their `__FILE__`.
    """

    applied: dict[str, AppliedFile]
    units: tuple[str, ...]
    untouched: dict[str, bytes]
    names: dict[str, str]

    @cached_property
    def texts(self) -> dict[str, bytes]:
        """What is compiled: the patched files with `#line`, and the untouched units."""
        numbered = {path: with_line_directives(file, self.names.get(path, "")) for path, file in self.applied.items()}
        return numbered | self.untouched

    @property
    def plain_texts(self) -> dict[str, bytes]:
        """The same without `#line`."""
        return {path: file.patched for path, file in self.applied.items()} | self.untouched

    def before_and_after(self, unit: str) -> tuple[bytes, bytes]:
        """A unit's own text before and after the series."""
        file = self.applied.get(unit)
        return (file.original, file.patched) if file is not None else (self.untouched[unit],) * 2


def series_sources(kernel: Kernel, fixes: Sequence[Fix], paths: Sequence[str]) -> Sources:
    """Apply the series in memory.

    Args:
        paths: the files of the fixes that matter.

    Raises:
        RefusedError: the series does not apply, or its headers reach too many units.
    """
    tree = kernel.tree.path

    def read(path: str) -> bytes | None:
        file = tree / path
        return file.read_bytes() if file.is_file() else None

    try:
        applied = apply_series(read, _only(fixes, paths))
    except DoesNotApplyError as problem:
        raise RefusedError([Refusal(RefusalCode.DOES_NOT_APPLY, problem.message, problem.hint, problem.path)]) from None
    applied = {path: applied[path] for path in changed_sources(applied, paths)}
    units = [path for path in applied if path in kernel.units]
    shared = [path for path in applied if path not in kernel.units or path in kernel.included_in]
    headers = {path: (applied[path].original, applied[path].patched) for path in shared}
    untouched: dict[str, bytes] = {}
    if headers:
        affected = affected_units(kernel, headers, units)
        if isinstance(affected, Refusal):
            raise RefusedError([affected])
        untouched = {path: (tree / path).read_bytes() for path in affected if path not in applied}
    names = {path: kernel.built_as.get(path, path) for path in units if path not in kernel.included_in}
    return Sources(applied, (*units, *untouched), untouched, names)


def _only(fixes: Sequence[Fix], paths: Sequence[str]) -> list[Fix]:
    """The fixes without the files that are left aside (documentation)."""
    return [replace(fix, files=tuple(change for change in fix.files if change.path in paths)) for fix in fixes]
