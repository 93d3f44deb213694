"""The places at which a series changes a source file, and the functions in which they lie."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kmend.factory.derive import functions
from kmend.factory.fixes import AppliedFile
from kmend.factory.fixes.applying import split_lines
from kmend.factory.fixes.ctext import Line, scan

_DEFINE = re.compile(r"\s*#\s*define\s+(\w+)")
_WORD = re.compile(r"\w+")
_CONDITIONALS = frozenset({"if", "ifdef", "ifndef", "elif", "else", "endif"})


class SourceText:
    """One side of a file; lines are counted from 1."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.raw = [line.decode("latin-1").strip() for line in split_lines(content)]
        self.lines: list[Line] = scan(content)
        self.functions = functions(content)

    def has_code(self, number: int) -> bool:
        """Whether anything but comments, blanks and `#if` stands in a line."""
        line = self.lines[number - 1]
        return bool(line.code.strip()) and line.directive not in _CONDITIONALS

    def code(self, numbers: Iterable[int]) -> str:
        """Those lines without comments and blanks, to be compared."""
        found = []
        for number in numbers:
            code = self.lines[number - 1].code
            found.append(self.raw[number - 1] if '"' in code or "'" in code else code)
        return "".join("".join(found).split())

    def functions_at(self, numbers: Iterable[int]) -> set[frozenset[str]]:
        """The names of each function in which one of the lines stands, those without code aside."""
        wanted = list(filter(self.has_code, numbers))
        return {
            function.names
            for function in self.functions
            if any(function.start <= number <= function.end for number in wanted)
        }

    def macros_at(self, numbers: Iterable[int]) -> set[str]:
        """The macros whose definitions start in the lines."""
        return {match[1] for number in numbers if (match := _DEFINE.match(self.lines[number - 1].code))}

    def users(self, macros: set[str]) -> frozenset[str]:
        """Names of the functions in whose text one of the macros stands, or a macro of this file that uses it."""
        words = [set(_WORD.findall(line.code)) for line in self.lines]
        known: set[str] = set()
        while fresh := macros - known:
            known |= fresh
            for number, line in enumerate(self.lines):
                match = _DEFINE.match(line.code) if line.directive == "define" else None
                if match and fresh & words[number]:
                    macros = macros | {match[1]}
        return frozenset().union(
            *(
                function.names
                for function in self.functions
                if any(known & words[number - 1] for number in range(function.start, function.end + 1))
            )
        )


@dataclass(frozen=True, slots=True)
class Change:
    """A run of changed lines.

    Attributes:
        added: numbers of lines that came, in the patched file; removed: of those that went, in the original one.
        anchor: the line of the original file where it is.
    """

    added: tuple[int, ...]
    removed: tuple[int, ...]
    anchor: int


class FileChanges:
    """A changed file, read once: both sides, and the places where they differ by more than comments and blanks."""

    def __init__(self, file: AppliedFile) -> None:
        self.path = file.path
        self.before, self.after = SourceText(file.original), SourceText(file.patched)
        self.places = [
            change
            for change in _runs(file, len(self.before.raw))
            if self.after.code(change.added) != self.before.code(change.removed)
        ]
        self._placements = file.placements

    def hunk(self, change: Change) -> int:
        """The number of the hunk that made the change; 0 if several fixes change the file, so that numbers say nothing."""
        if len({placement.fix for placement in self._placements}) != 1:
            return 0
        return max((p.hunk for p in self._placements if p.line <= change.anchor), default=0)

    def functions_of(self, change: Change) -> list[frozenset[str]]:
        """The names of each function on which a change bears; one that is no longer there bears on those that used it."""
        still = {name for function in self.after.functions for name in function.names}
        found = self.after.functions_at(change.added)
        found |= {names for names in self.before.functions_at(change.removed) if names & still}
        return sorted(found, key=sorted)

    @property
    def functions(self) -> frozenset[str]:
        """Every function in which a line changes."""
        return frozenset().union(*(names for change in self.places for names in self.functions_of(change)))


def _runs(file: AppliedFile, original_lines: int) -> Iterator[Change]:
    added: list[int] = []
    expected = 1
    for number, origin in enumerate((*file.origins, original_lines + 1), start=1):
        if not origin:
            added.append(number)
            continue
        if added or origin > expected:
            yield Change(tuple(added), tuple(range(expected, origin)), expected)
            added = []
        expected = origin + 1
