"""What became of each hunk: a fix that is taken by halves compiles as well as a whole one.

Each run of changed lines is laid to the functions that it stands in. A function has an effect if it, or a function that it was
put into (DWARF), is replaced or new. Otherwise the hunk is in no binary, and it is said why: the configuration leaves it out, it
is boot-time code, nobody uses the function, or the code is the same. Comments and blanks are nothing to speak of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from kmend.core.manifest import Notice
from kmend.factory.build.compare import Comparison
from kmend.factory.build.safety.changes import Change, FileChanges, SourceText
from kmend.factory.build.safety.conditionals import left_out
from kmend.factory.build.special import INIT_CODE
from kmend.factory.elf.inlining import Inlining

LEFT_OUT, INIT, UNUSED, SAME = "hunk-left-out", "hunk-in-init-code", "hunk-unused", "hunk-without-effect"
_MOST_NAMED = 8


@dataclass(frozen=True)
class UnitView:
    """A unit that was compiled with the fix.

    Attributes:
        module: whether it is compiled for a module.
        inlining: of the patched object.
    """

    comparison: Comparison
    module: bool
    inlining: Inlining

    @cached_property
    def brought(self) -> frozenset[str]:
        """Functions that the livepatch brings, clones and cold parts by their function's name."""
        elements = [new for _, new in self.comparison.changed] + self.comparison.added
        promoted = {name for name, _ in self.comparison.promoted}
        return frozenset(function_name(name) for name in {element.name for element in elements} | promoted)

    @cached_property
    def brought_functions(self) -> frozenset[str]:
        """The same, with the functions that are inlined into them."""
        return self.brought.union(*(self.inlining.inlined.get(name, frozenset()) for name in self.brought))

    @cached_property
    def _initial(self) -> frozenset[str]:
        found = self.comparison.patched.functions
        return frozenset(function_name(e.name) for e in found if INIT_CODE.match(e.section.name))

    def outcome(self, names: frozenset[str]) -> str:
        """What became of the function with these names: empty if it has an effect, else the notice's code."""
        holders = frozenset().union(*(self.inlining.holders(name) for name in names))
        if not self.brought.isdisjoint(names | holders):
            return ""
        there = {function_name(element.name) for element in self.comparison.patched.functions} & (names | holders)
        if there and there <= self._initial:
            return INIT
        return SAME if there or not self.inlining.known.isdisjoint(names) else UNUSED


def function_name(symbol: str) -> str:
    """The function that a symbol is (a part or clone of): `foo.constprop.0` -> `foo`."""
    return symbol.partition(".")[0]


def hunk_notices(
    files: Sequence[FileChanges], units: Sequence[UnitView], config: Mapping[str, str]
) -> Iterator[Notice]:
    """For each file, a notice for each reason why changed places are in no binary of this kernel."""
    for file in files:
        own = [unit for unit in units if unit.comparison.original.source == file.path]
        # A header, or a file that others include, is part of every unit that was compiled.
        yield from _Hunks(file, own or units, config, whole=bool(own)).notices()


@dataclass(slots=True)
class _Lost:
    """Changed places without a binary, for one reason: their hunks, and the functions in which they are."""

    hunks: list[int]
    names: list[str]


class _Hunks:
    """One file's hunks, sorted by what became of them."""

    def __init__(self, file: FileChanges, units: Sequence[UnitView], config: Mapping[str, str], whole: bool) -> None:
        self._file = file
        self._units = units
        self._whole = whole
        modules = sorted({unit.module for unit in units})
        self._out = {
            id(text): [left_out(text.content, config, module=module) for module in modules]
            for text in (file.before, file.after)
        }
        self._lost: dict[tuple[str, str], _Lost] = {}
        for change in file.places:
            self._take(change)

    def notices(self) -> Iterator[Notice]:
        idle = self._whole and not any(unit.comparison.changed for unit in self._units)
        for (code, condition), lost in sorted(self._lost.items()):
            if code == SAME and idle:
                continue  # that the whole file stays the same is told elsewhere
            place = f"{_hunks(lost.hunks)}{self._file.path}"
            if code == LEFT_OUT:
                yield Notice(code, f"{place}: this kernel's configuration leaves it out, by {condition}")
            else:
                named = ", ".join(lost.names[:_MOST_NAMED])
                more = f" and {len(lost.names) - _MOST_NAMED} more" if len(lost.names) > _MOST_NAMED else ""
                yield Notice(code, f"{place}: {_EXPLAINED[code]} {named}{more}")

    def _take(self, change: Change) -> None:
        added = self._rest(self._file.after, change.added, change)
        removed = self._rest(self._file.before, change.removed, change)
        rest = Change(added, removed, change.anchor)
        subjects = [(_plainest(names), names) for names in self._file.functions_of(rest)]
        macros = self._file.after.macros_at(added)
        if macros and not subjects and self._whole:
            subjects = [(min(macros), self._file.after.users(macros))]
        for name, names in subjects:
            outcome = self._outcome(names)
            if outcome:
                self._note(outcome, "", change, name)

    def _rest(self, text: SourceText, numbers: Sequence[int], change: Change) -> tuple[int, ...]:
        """The lines that the configuration keeps; the others are noted."""
        rest = []
        out = self._out[id(text)]
        for number in filter(text.has_code, numbers):
            if out and all(number in found for found in out):
                self._note(LEFT_OUT, out[0][number], change, "")
            else:
                rest.append(number)
        return tuple(rest)

    def _outcome(self, names: frozenset[str]) -> str:
        outcomes = {unit.outcome(names) for unit in self._units}
        found = next((code for code in ("", SAME, INIT, UNUSED) if code in outcomes), "")
        # Of a header, only units whose code changes are here: others may well use the function.
        return SAME if found == UNUSED and not self._whole else found

    def _note(self, code: str, condition: str, change: Change, name: str) -> None:
        lost = self._lost.setdefault((code, condition), _Lost([], []))
        hunk = self._file.hunk(change)
        if hunk and hunk not in lost.hunks:
            lost.hunks.append(hunk)
        if name and name not in lost.names:
            lost.names.append(name)


_EXPLAINED = {
    INIT: "this code ran when the kernel booted, and does not run again:",
    UNUSED: "no code of this kernel uses",
    SAME: "the code stays the same of",
}


def _hunks(numbers: Sequence[int]) -> str:
    if not numbers:
        return ""
    named = ", ".join(map(str, numbers[:_MOST_NAMED])) + ("..." if len(numbers) > _MOST_NAMED else "")
    return f"hunk{'s' * (len(numbers) > 1)} {named} of "


def _plainest(names: frozenset[str]) -> str:
    return min(names, key=lambda text: (text.startswith("__"), len(text), text))
