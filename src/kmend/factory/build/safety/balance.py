"""Locks and references: where old and new code, side by side until a transition is over, would not mean the same by them.

The source is read, function by function, as its author wrote it: compilers duplicate and merge calls. New functions count as part
of the changed ones that name them. Taking one lock more, or giving back on an error path what was forgotten, is what fixes do,
and does no harm beside the old code. What is told:

- a function that no longer takes a lock which the old one takes: the two no longer keep each other out;
- a function that now returns with a lock held or wants it held, or no longer does: its old callers count on the other;
- a reference that one function now takes (or keeps) and another one gives back: an object that the old code of the one has
  handled reaches the new code of the other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from kmend.core.manifest import Notice
from kmend.factory.build.safety.changes import SourceText
from kmend.factory.build.safety.pairs import LOCK, MEMORY, meaning, names_of

LOCKS, REFERENCES = "lock-change", "reference-change"
_CALL = re.compile(r"(?:(?P<left>[\w.>\[\]-]+)\s*=\s*)?\b(?P<name>[A-Za-z_]\w*)\s*\(\s*(?=(?P<argument>[^(),;]*))")
_WORD = re.compile(r"\w+")
Key = tuple[str, str]
"""A kind of lock or reference, and the member or variable that it is about; empty where that is a plain variable."""


@dataclass(slots=True)
class _Function:
    """What one function does: calls that take and calls that give back; the words in it, and its code."""

    taken: Counter[Key] = field(default_factory=Counter)
    given: Counter[Key] = field(default_factory=Counter)
    words: set[str] = field(default_factory=set)
    code: str = ""

    def with_new(self, added: Mapping[str, _Function]) -> _Function:
        """This function together with the new ones that it uses."""
        whole = _Function(self.taken.copy(), self.given.copy(), set(self.words), self.code)
        seen: set[str] = set()
        while fresh := (whole.words & added.keys()) - seen:
            seen |= fresh
            for name in fresh:
                whole.taken.update(added[name].taken)
                whole.given.update(added[name].given)
                whole.words |= added[name].words
        return whole

    def side(self, key: Key) -> str:
        """`both` or `none`, `takes` or `releases`."""
        taken, given = bool(self.taken[key]), bool(self.given[key])
        return ("both" if taken else "none") if taken == given else ("takes" if taken else "releases")


Changed = tuple[str, _Function, _Function]


def balance_notices(original: SourceText, patched: SourceText, brought: Collection[str]) -> Iterator[Notice]:
    """Notices for one source file.

    Args:
        brought: names of the functions that have an effect.
    """
    before, after = _read(original), _read(patched)
    added = {name: body for name, body in after.items() if name not in before}
    changed = [
        (name, before[name], after[name].with_new(added))
        for name in sorted(before.keys() & after.keys())
        if name in brought and before[name].code != after[name].code
    ]
    for name, old, new in changed:
        yield from _lock_notices(name, old, new)
    yield from _reference_notices(changed)


def _read(text: SourceText) -> dict[str, _Function]:
    found: dict[str, _Function] = {}
    for function in text.functions:
        code = "\n".join(line.code for line in text.lines[function.start - 1 : function.end])
        _, _, body = code.partition("{")
        here = found.setdefault(function.name, _Function())
        here.code += code
        here.words.update(_WORD.findall(body))
        for match in _CALL.finditer(body):
            meant = meaning(match["name"])
            if meant is not None:
                kind, sign = meant
                about = match["left"] or "" if sign > 0 and kind in MEMORY else match["argument"]
                (here.taken if sign > 0 else here.given)[kind, _member(about)] += 1
    return found


def _member(text: str) -> str:
    """`&x->y.lock` -> `lock`: the last name, since what leads to it may be called otherwise; nothing for a plain variable."""
    words = _WORD.findall(text)
    return "" if not words or text.strip().isidentifier() else words[-1]


def _lock_notices(name: str, old: _Function, new: _Function) -> Iterator[Notice]:
    keys = sorted({key for side in (old, new) for key in (*side.taken, *side.given) if key[0].startswith(LOCK)})
    lost = [key for key in keys if old.side(key) == "both" and new.side(key) == "none"]
    gained = [key for key in keys if old.side(key) == "none" and new.side(key) == "both"]
    if lost:
        instead = f" (but {names_of(gained)})" if gained else ""
        yield Notice(
            LOCKS,
            f"{name} no longer takes {names_of(lost)}{instead}; until the transition is over, tasks in the old code still "
            "rely on it",
        )
    held = [
        key for key in keys if old.side(key) != new.side(key) and {old.side(key), new.side(key)} != {"both", "none"}
    ]
    # A lock that is released by a function of another name looks one-sided twice.
    if sum(_excess(new, key) - _excess(old, key) for key in held):
        for key in held:
            yield Notice(
                LOCKS,
                f"{name} {_WORDS[new.side(key)]} {names_of([key])}; the running kernel's {_WORDS[old.side(key)]} it: "
                "callers that were not changed with it count on that",
            )


_WORDS = {
    "both": "takes and releases",
    "none": "neither takes nor releases",
    "takes": "takes and does not release",
    "releases": "releases and does not take",
}


def _excess(function: _Function, key: Key) -> int:
    return {"takes": 1, "releases": -1}.get(function.side(key), 0)


def _reference_notices(changed: Iterable[Changed]) -> Iterator[Notice]:
    deltas: dict[Key, dict[str, int]] = {}
    for name, old, new in changed:
        for key in {*old.taken, *old.given, *new.taken, *new.given}:
            delta = (new.taken[key] - new.given[key]) - (old.taken[key] - old.given[key])
            if delta and not key[0].startswith(LOCK):
                deltas.setdefault(key, {})[name] = delta
    for (kind, member), found in sorted(deltas.items()):
        more = sorted(name for name, delta in found.items() if delta > 0)
        fewer = sorted(name for name, delta in found.items() if delta < 0)
        if more and fewer:
            what = f"{kind} '{member}'" if member else kind
            yield Notice(
                REFERENCES,
                f"{', '.join(more)} now keeps what {', '.join(fewer)} now gives back ({what}): an object that the old code "
                "of the one has handled may reach the new code of the other, and be given back twice or never",
            )
