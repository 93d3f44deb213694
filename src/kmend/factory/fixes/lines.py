"""`#line` in patched sources, so that what a fix does not touch keeps its line numbers.

`__LINE__` and the bug table put line numbers into objects; a fix that adds a line would change every function below it
that warns. After each changed group the next unchanged line is given its original number. kpatch instead guesses which
immediate operands are line numbers; upstream's `fix-patch-lines` (scripts/livepatch, Linux 6.19) does it this way too.

Then a number may stand for an unchanged line and for one that a fix added before it. Debug information must tell them apart, so
the added ones belong to a file whose name starts with `ADDED`, and carry the number that they have in the patched file.
`__FILE__` does not show it: the compiler is told to leave that prefix out of macros (`build/compile.py`).
"""

from __future__ import annotations

from typing import NamedTuple

from kmend.factory.fixes.applying import AppliedFile, split_lines
from kmend.factory.fixes.ctext import scan, splice_points

ADDED = "fixed/"
"""What debug information and compiler errors put before the path of a line that a fix wrote; no such folder is in a kernel."""
_OPENING = ("if", "ifdef", "ifndef")
_BRANCHING = ("else", "elif")


def with_line_directives(applied: AppliedFile, name: str = "") -> bytes:
    """The patched source in which each unchanged line has the number that it had, from the first safe place on.

    Where a change lies in parentheses, a macro's definition or a comment, the lines up to its end keep shifted numbers.
    A directive inside a conditional group that is skipped has no effect; so after a group that holds one, another follows.

    Args:
        name: how the compiler calls the file (`__FILE__`), so that added lines can get a file name of their own; empty where
            it is called by several names (headers), whose added lines then go on counting.
    """
    lines = split_lines(applied.patched)
    scanned = scan(applied.patched)
    safe = splice_points(scanned)
    output: list[bytes] = []
    numbering = _Numbering()
    for number, (line, origin, about, may_splice) in enumerate(
        zip(lines, applied.origins, scanned, safe, strict=True), start=1
    ):
        directive = about.directive if about.starts_clean else None
        added = bool(name) and not origin
        wanted = _State((number if added else origin) - len(output) - 1, added)
        ends_group = directive in _BRANCHING or directive == "endif"
        if (origin or added) and may_splice and not ends_group and not numbering.is_certainly(wanted):
            label = b' "%s%s"' % (ADDED.encode() if added else b"", name.encode()) if name else b""
            output.append(b"#line %d%s\n" % (wanted.shift + len(output) + 1, label))
            numbering.set(_State(wanted.shift - 1, added))
        output.append(line)
        numbering.pass_directive(directive)
    return b"".join(output)


class _State(NamedTuple):
    """By how much the compiler's line numbers differ from the physical ones, and whether it takes lines for added ones."""

    shift: int
    added: bool


class _Numbering:
    """What the compiler may think of the next line: one state, or several possible ones."""

    def __init__(self) -> None:
        self._states = {_State(0, False)}
        self._groups: list[tuple[frozenset[_State], set[_State]]] = []

    def is_certainly(self, state: _State) -> bool:
        return self._states == {state}

    def set(self, state: _State) -> None:
        self._states = {state}

    def pass_directive(self, directive: str | None) -> None:
        if directive in _OPENING:
            self._groups.append((frozenset(self._states), set(self._states)))
        elif directive in _BRANCHING and self._groups:
            entry, ends = self._groups[-1]
            ends |= self._states
            self._states = set(entry)
        elif directive == "endif" and self._groups:
            _, ends = self._groups.pop()
            self._states |= ends
