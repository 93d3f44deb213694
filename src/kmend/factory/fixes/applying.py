"""Fixes on sources, in memory and exactly: every context line must agree; a hunk may lie elsewhere, never be bent to fit.

patch(1) accepts context that differs ("fuzz") and takes the nearest of several places. Kernel source is full of repeated
lines, and a hunk in the wrong one of two similar functions compiles; so context must be equal, and a hunk that is not
where it says must have one place only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kmend.factory.fixes.errors import FixError
from kmend.factory.fixes.model import ChangeKind, FileChange, Fix, Hunk, LineKind


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a hunk went.

    Attributes:
        fix: digest of the fix.
        hunk: its number in that file.
        line: where it was applied, in the file as the fixes before left it, from 1.
        offset: how many lines that is from where the hunk says, the fix's own earlier hunks taken into account.
    """

    fix: str
    hunk: int
    line: int
    offset: int


@dataclass(frozen=True, slots=True)
class AppliedFile:
    """A source file before and after a series.

    Attributes:
        path: relative to the kernel's source tree.
        kind: what the series as a whole does to it.
        original: empty if the file is new.
        patched: empty if the file is deleted.
        origins: for each line of `patched`, its line number in `original`, or 0 if a fix wrote it.
        placements: in the order of application.
    """

    path: str
    kind: ChangeKind
    original: bytes
    patched: bytes
    origins: tuple[int, ...]
    placements: tuple[Placement, ...]


class DoesNotApplyError(FixError):
    """A fix does not fit the source.

    Attributes:
        fix: name of the fix.
        path: of the file.
        hunk: the hunk's number in it; 0 when it is about the file as a whole.
        line: in the source, where the first difference is, from 1; 0 likewise.
        expected: the lines that the hunk wants there.
        found: the lines that are there.
    """

    kind = "does-not-apply"
    default_hint = "make the patch against exactly this kernel's source"

    def __init__(
        self,
        message: str,
        *,
        fix: str,
        path: str,
        hunk: int = 0,
        line: int = 0,
        expected: Sequence[str] = (),
        found: Sequence[str] = (),
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.fix = fix
        self.path = path
        self.hunk = hunk
        self.line = line
        self.expected = tuple(expected)
        self.found = tuple(found)


def apply_series(read: Callable[[str], bytes | None], fixes: Sequence[Fix]) -> dict[str, AppliedFile]:
    """Apply fixes in their order.

    Args:
        read: gives a source file's content by its path, or None if there is none; asked once for each file.
        fixes: the series.

    Returns:
        each file that a fix names, by path.

    Raises:
        DoesNotApplyError: a fix does not fit.
    """
    files: dict[str, _File] = {}
    for fix in fixes:
        for change in fix.files:
            if change.path not in files:
                files[change.path] = _File(change.path, read(change.path))
            files[change.path].apply(fix, change)
    return {path: file.result() for path, file in files.items()}


def split_lines(content: bytes) -> list[bytes]:
    """The lines with their newlines; only newline bytes end a line (`bytes.splitlines` would also split at others)."""
    lines = content.split(b"\n")
    last = lines.pop()
    return [line + b"\n" for line in lines] + ([last] if last else [])


class _File:
    """A file on its way through the series."""

    def __init__(self, path: str, original: bytes | None) -> None:
        self._path = path
        self._original = original
        self._exists = original is not None
        self._lines = split_lines(original or b"")
        self._origins = list(range(1, len(self._lines) + 1))
        self._placements: list[Placement] = []

    def result(self) -> AppliedFile:
        kind = ChangeKind.MODIFY
        if self._original is None:
            kind = ChangeKind.CREATE
        elif not self._exists:
            kind = ChangeKind.DELETE
        return AppliedFile(
            path=self._path,
            kind=kind,
            original=self._original or b"",
            patched=b"".join(self._lines),
            origins=tuple(self._origins),
            placements=tuple(self._placements),
        )

    def apply(self, fix: Fix, change: FileChange) -> None:
        if change.kind is ChangeKind.CREATE and self._exists:
            raise DoesNotApplyError(
                f"{fix.name} makes the file {self._path}, which is already there", fix=fix.name, path=self._path
            )
        if change.kind is not ChangeKind.CREATE and not self._exists:
            raise DoesNotApplyError(
                f"{fix.name} changes {self._path}, and this kernel's source has no such file",
                fix=fix.name,
                path=self._path,
                hint="check the kernel version and the path; files move between versions",
            )
        lines: list[bytes] = []
        origins: list[int] = []
        done = 0
        drift = 0
        for hunk in change.hunks:
            expected = max(hunk.old_start - 1, 0) + drift
            at = self._find(fix, hunk, expected, done)
            drift += at - expected
            self._placements.append(Placement(fix.digest, hunk.number, at + 1, at - expected))
            lines += self._lines[done:at]
            origins += self._origins[done:at]
            done = at
            for line in hunk.lines:
                if line.kind is not LineKind.REMOVED:
                    lines.append(line.content)
                    origins.append(self._origins[done] if line.kind is LineKind.CONTEXT else 0)
                done += line.kind is not LineKind.ADDED
        if lines and not lines[-1].endswith(b"\n") and done < len(self._lines):
            raise DoesNotApplyError(
                f"{fix.name} says that {self._path} ends at line {len(lines)}, and {len(self._lines) - done} lines follow there",
                fix=fix.name,
                path=self._path,
                hunk=len(change.hunks),
                line=done + 1,
                hint="the patch is for another version of this file; take the backport for this kernel's series",
            )
        self._lines = lines + self._lines[done:]
        self._origins = origins + self._origins[done:]
        self._exists = change.kind is not ChangeKind.DELETE
        if change.kind is ChangeKind.DELETE and self._lines:
            raise DoesNotApplyError(
                f"{fix.name} deletes {self._path} but leaves {len(self._lines)} of its lines",
                fix=fix.name,
                path=self._path,
            )

    def _find(self, fix: Fix, hunk: Hunk, expected: int, earliest: int) -> int:
        """Index of the line where the hunk's old lines are; `expected` is tried first."""
        before = list(hunk.before)
        if expected >= earliest and self._lines[expected : expected + len(before)] == before:
            return expected
        places = self._places(before, earliest)
        if len(places) == 1:
            return places[0]
        where = f"hunk {hunk.number} of {fix.name} ({self._path}, line {hunk.old_start})"
        if places:
            nearest = sorted(places, key=lambda place: abs(place - expected))[:5]
            raise DoesNotApplyError(
                f"{where} is not at its line, and fits in {len(places)} other places: "
                f"lines {', '.join(str(place + 1) for place in sorted(nearest))}",
                fix=fix.name,
                path=self._path,
                hunk=hunk.number,
                line=hunk.old_start,
                expected=_text(before),
                hint="make the patch against exactly this source, so that its line numbers decide",
            )
        raise self._mismatch(where, fix, hunk, expected, earliest)

    def _places(self, before: list[bytes], earliest: int) -> list[int]:
        last = len(self._lines) - len(before)
        return [
            at
            for at in range(earliest, last + 1)
            if self._lines[at] == before[0] and self._lines[at : at + len(before)] == before
        ]

    def _mismatch(self, where: str, fix: Fix, hunk: Hunk, expected: int, earliest: int) -> DoesNotApplyError:
        """The error that shows the first line that disagrees, where most of the hunk's lines agree."""
        before = list(hunk.before)
        last = max(len(self._lines) - 1, 0)

        def agreement(at: int) -> tuple[int, int]:
            found = self._lines[at : at + len(before)]
            return sum(a == b for a, b in zip(before, found, strict=False)), -abs(at - expected)

        near = range(max(earliest, expected - 200), min(last, expected + 200) + 1)
        at = max(near, key=agreement, default=min(expected, last))
        found = self._lines[at : at + len(before)]
        index = next((n for n, line in enumerate(before) if n >= len(found) or found[n] != line), 0)
        there = repr(_one(found[index])) if index < len(found) else "the end of the file"
        return DoesNotApplyError(
            f"{where} does not apply: line {at + index + 1} should be {_one(before[index])!r} and is {there}",
            fix=fix.name,
            path=self._path,
            hunk=hunk.number,
            line=at + index + 1,
            expected=_text(before),
            found=_text(found),
            hint=self._advice(hunk),
        )

    def _advice(self, hunk: Hunk) -> str:
        after = list(hunk.after)
        if after and self._places(after, 0):
            return (
                "the source already has what this hunk makes: is the fix part of this kernel, or twice in the series?"
            )
        changed = [number for number, line in enumerate(hunk.lines) if line.kind is not LineKind.CONTEXT]
        core = [line for line in hunk.lines[changed[0] : changed[-1] + 1] if line.kind is not LineKind.ADDED]
        if core and self._places([line.content for line in core], 0):
            return "only the lines around the change differ; make the patch again on this kernel's source"
        return "the patch is for another version of this file; take the backport for this kernel's series"


def _one(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\n")


def _text(lines: Sequence[bytes]) -> tuple[str, ...]:
    return tuple(_one(line) for line in lines)
