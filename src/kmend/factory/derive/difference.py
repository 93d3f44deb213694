"""What differs between two versions of a file, each change with the function that it lies in; and hunks made of a choice."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kmend.core.process import ProgramFailedError, run
from kmend.core.scratch import scratch_folder
from kmend.factory.derive.cfunctions import Function, functions
from kmend.factory.fixes.applying import split_lines
from kmend.factory.fixes.ctext import scan

CONTEXT = 3
_COMMAND = re.compile(rb"(\d+)(?:,(\d+))?([acd])(\d+)(?:,(\d+))?")
_MAX_SLIDE = 200
_SECTION_LENGTH = 80


@dataclass(frozen=True, slots=True)
class Change:
    """A group of adjacent lines that differ.

    Attributes:
        hunk: number of the hunk of `diff -u` that it belongs to, from 1.
        old_start: index, from 0, of the first old line.
        old_end: index after the last; equal to `old_start` if lines are only added.
        new_start: the same in the new file.
        new_end: the same in the new file.
        functions: names of the functions that the changed lines lie in, in order; `""` stands for lines outside functions.
        names: for each of them, all the names that mean it.
    """

    hunk: int
    old_start: int
    old_end: int
    new_start: int
    new_end: int
    functions: tuple[str, ...] = ()
    names: tuple[frozenset[str], ...] = ()


def compare(old: bytes, new: bytes, *, is_c: bool = True) -> list[Change]:
    """The changes that lead from `old` to `new`, in order.

    Args:
        old: the file before.
        new: the file after.
        is_c: whether to look for functions.

    Raises:
        SystemProblemError: diff(1) is not installed.
        ProgramFailedError: it failed.
    """
    if old == new:
        return []
    sides = _Sides(old, new, is_c=is_c)
    changes = [sides.settle(change, before, after) for before, change, after in _with_neighbours(_groups(old, new))]
    return _numbered([sides.owned(change) for change in changes])


def hunks(old: bytes, new: bytes, changes: Sequence[Change], *, is_c: bool = True) -> bytes:
    """Unified hunks that make the chosen changes on `old` alone: context and line numbers are those of `old`.

    Args:
        old: the file before.
        new: where the chosen changes' new lines come from.
        changes: the choice, in order.
        is_c: whether to name functions behind the `@@`.
    """
    old_lines, new_lines = split_lines(old), split_lines(new)
    extents = functions(old) if is_c else []
    output: list[bytes] = []
    growth = 0
    for group in _clusters(changes):
        start = max(0, group[0].old_start - CONTEXT)
        end = min(len(old_lines), group[-1].old_end + CONTEXT)
        body: list[bytes] = []
        at = start
        added = 0
        for change in group:
            body += [_marked(b" ", line) for line in old_lines[at : change.old_start]]
            body += [_marked(b"-", line) for line in old_lines[change.old_start : change.old_end]]
            body += [_marked(b"+", line) for line in new_lines[change.new_start : change.new_end]]
            at = change.old_end
            added += (change.new_end - change.new_start) - (change.old_end - change.old_start)
        body += [_marked(b" ", line) for line in old_lines[at:end]]
        before, after = end - start, end - start + added
        section = _section(old_lines, extents, group[0].old_start)
        ranges = f"@@ -{_range(start, before)} +{_range(start + growth, after)} @@".encode()
        output.append(ranges + (b" " + section if section else b"") + b"\n")
        output += body
        growth += added
    return b"".join(output)


def _range(start: int, count: int) -> str:
    first = start + 1 if count else start
    return str(first) if count == 1 else f"{first},{count}"


def _marked(mark: bytes, line: bytes) -> bytes:
    return mark + line if line.endswith(b"\n") else mark + line + b"\n\\ No newline at end of file\n"


def _section(lines: Sequence[bytes], extents: Sequence[Function], at: int) -> bytes:
    """The declaration of the function that line index `at` lies in, as a hunk's heading."""
    for function in extents:
        if function.start <= at + 1 <= function.end:
            return b" ".join(lines[function.start - 1].split())[:_SECTION_LENGTH]
    return b""


def _groups(old: bytes, new: bytes) -> list[Change]:
    """diff(1) does this better and faster than difflib on files of thousands of similar lines."""
    with scratch_folder("derive") as folder:
        first, second = folder / "old", folder / "new"
        first.write_bytes(old)
        second.write_bytes(new)
        done = run(["diff", "--text", first, second], check=False, timeout=120)
        if done.status not in (0, 1):
            raise ProgramFailedError(
                "diff could not compare two files", output=done.stderr.decode(errors="replace"), status=done.status
            )
    groups = []
    for line in done.stdout.split(b"\n"):
        match = _COMMAND.fullmatch(line)
        if match is None:
            continue
        old_first, new_first = int(match[1]), int(match[4])
        old_last = int(match[2]) if match[2] else old_first
        new_last = int(match[5]) if match[5] else new_first
        old_start = old_first if match[3] == b"a" else old_first - 1
        new_start = new_first if match[3] == b"d" else new_first - 1
        groups.append(Change(0, old_start, old_last, new_start, new_last))
    return groups


def _with_neighbours(changes: Sequence[Change]) -> Iterator[tuple[Change | None, Change, Change | None]]:
    for number, change in enumerate(changes):
        before = changes[number - 1] if number else None
        after = changes[number + 1] if number + 1 < len(changes) else None
        yield before, change, after


def _clusters(changes: Sequence[Change]) -> list[list[Change]]:
    """Changes so near that their context touches belong to one hunk, as in diff -u."""
    clusters: list[list[Change]] = []
    for change in changes:
        if clusters and change.old_start - clusters[-1][-1].old_end <= 2 * CONTEXT:
            clusters[-1].append(change)
        else:
            clusters.append([change])
    return clusters


def _numbered(changes: Sequence[Change]) -> list[Change]:
    return [replace(change, hunk=number) for number, group in enumerate(_clusters(changes), 1) for change in group]


class _Sides:
    """Both files, by line, with the functions that their lines belong to."""

    def __init__(self, old: bytes, new: bytes, *, is_c: bool) -> None:
        self._old = split_lines(old)
        self._new = split_lines(new)
        self._old_owner = _owners(old, len(self._old), is_c)
        self._new_owner = _owners(new, len(self._new), is_c)
        self._old_silent = _silent(old, self._old, is_c)
        self._new_silent = _silent(new, self._new, is_c)

    def owned(self, change: Change) -> Change:
        found: dict[str, frozenset[str]] = {}
        for owner in self._touched(change):
            found[owner.name if owner else ""] = owner.names if owner else frozenset()
        if not found:
            found[""] = frozenset()
        return replace(change, functions=tuple(found), names=tuple(found.values()))

    def settle(self, change: Change, before: Change | None, after: Change | None) -> Change:
        """Lines that are only added, or only removed, can often be said to start some lines up or down without any
        difference (`}`, an empty line). Of those places, choose one in a single function or outside any, that does
        not start with an empty line, and of these the last, as git does."""
        added = change.old_start == change.old_end
        if not added and change.new_start != change.new_end:
            return change
        lines, start, end = (
            (self._new, change.new_start, change.new_end) if added else (self._old, change.old_start, change.old_end)
        )
        lowest = max(-_MAX_SLIDE, (before.old_end + 1 if before else 0) - change.old_start)
        highest = min(_MAX_SLIDE, (after.old_start - 1 if after else len(self._old)) - change.old_end)
        first = last = 0
        while first > lowest and lines[start + first - 1] == lines[end + first - 1]:
            first -= 1
        while last < highest and lines[start + last] == lines[end + last]:
            last += 1
        places = [_moved(change, shift) for shift in range(last, first - 1, -1)]
        return min(
            places,
            key=lambda place: (
                len(self._names(place)) > 1,
                not lines[start + place.old_start - change.old_start].strip(),
            ),
        )

    def _names(self, change: Change) -> set[str]:
        """Functions that the change touches."""
        return {owner.name if owner else "" for owner in self._touched(change)}

    def _touched(self, change: Change) -> Iterator[Function | None]:
        """The owner of each changed line; empty lines and comments outside functions belong to what is around them."""
        for silent, owners, start, end in (
            (self._old_silent, self._old_owner, change.old_start, change.old_end),
            (self._new_silent, self._new_owner, change.new_start, change.new_end),
        ):
            for number in range(start, end):
                if owners[number] is not None or not silent[number]:
                    yield owners[number]


def _moved(change: Change, shift: int) -> Change:
    return replace(
        change,
        old_start=change.old_start + shift,
        old_end=change.old_end + shift,
        new_start=change.new_start + shift,
        new_end=change.new_end + shift,
    )


def _owners(content: bytes, count: int, is_c: bool) -> list[Function | None]:
    owners: list[Function | None] = [None] * count
    for function in functions(content) if is_c else []:
        for number in range(function.start - 1, min(function.end, count)):
            owners[number] = function
    return owners


def _silent(content: bytes, lines: Sequence[bytes], is_c: bool) -> list[bool]:
    """For each line, whether it says nothing: it is empty or a comment."""
    if not is_c:
        return [not line.strip() for line in lines]
    return [not line.code.strip() for line in scan(content)]
