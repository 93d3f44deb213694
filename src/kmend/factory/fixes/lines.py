"""`#line` in patched sources, so that what a fix does not touch keeps its line numbers.

`__LINE__` and the bug table put line numbers into objects; a fix that adds a line would change every function below it
that warns. After each changed group the next unchanged line is given its original number. kpatch instead guesses which
immediate operands are line numbers; upstream's `fix-patch-lines` (scripts/livepatch, Linux 6.19) does it this way too.
"""

from __future__ import annotations

from kmend.factory.fixes.applying import AppliedFile, split_lines
from kmend.factory.fixes.ctext import scan, splice_points

_OPENING = ("if", "ifdef", "ifndef")
_BRANCHING = ("else", "elif")


def with_line_directives(applied: AppliedFile) -> bytes:
    """The patched source in which each unchanged line has the number that it had, from the first safe place on.

    Where a change lies in parentheses, a macro's definition or a comment, the lines up to its end keep shifted numbers.
    A directive inside a conditional group that is skipped has no effect; so after a group that holds one, another follows.
    """
    lines = split_lines(applied.patched)
    scanned = scan(applied.patched)
    safe = splice_points(scanned)
    output: list[bytes] = []
    numbering = _Numbering()
    for line, origin, about, may_splice in zip(lines, applied.origins, scanned, safe, strict=True):
        directive = about.directive if about.starts_clean else None
        wanted = origin - len(output) - 1
        ends_group = directive in _BRANCHING or directive == "endif"
        if origin and may_splice and not ends_group and not numbering.is_certainly(wanted):
            output.append(b"#line %d\n" % origin)
            numbering.set(wanted - 1)
        output.append(line)
        numbering.pass_directive(directive)
    return b"".join(output)


class _Numbering:
    """By how much the compiler's line numbers may differ from the physical ones: one shift, or several possible ones."""

    def __init__(self) -> None:
        self._shifts = {0}
        self._groups: list[tuple[frozenset[int], set[int]]] = []

    def is_certainly(self, shift: int) -> bool:
        return self._shifts == {shift}

    def set(self, shift: int) -> None:
        self._shifts = {shift}

    def pass_directive(self, directive: str | None) -> None:
        if directive in _OPENING:
            self._groups.append((frozenset(self._shifts), set(self._shifts)))
        elif directive in _BRANCHING and self._groups:
            entry, ends = self._groups[-1]
            ends |= self._shifts
            self._shifts = set(entry)
        elif directive == "endif" and self._groups:
            _, ends = self._groups.pop()
            self._shifts |= ends
