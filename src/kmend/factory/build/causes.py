"""Why a function of a livepatch is not the vendor's: a closed list, and what the sources say."""

from __future__ import annotations

import difflib
import enum
from collections import Counter

from kmend.factory.derive import functions


class Cause(enum.Enum):
    """Why a function is not the vendor's; scripts may test these words."""

    ABSENT = "absent"
    """The vendor's kernel has no such function in this file: it was inlined there, or is not the vendor's."""
    ALIEN_CHANGE = "alien-change"
    """The function's source has lines that neither kernel has, or lacks lines that both have."""
    HUNKS_NOT_TAKEN = "hunks-not-taken"
    """The vendor changed this function's source in a way that the fix leaves out."""
    HUNKS_ELSEWHERE = "hunks-elsewhere"
    """The function's source is the vendor's, but other parts of the file are not (inlined functions, macros, types)."""
    LINE_NUMBERS = "line-numbers"
    """The same code, but for `__LINE__`: kmend keeps the line numbers of the kernel that is patched."""
    SHORT_JUMPS = "short-jumps"
    """The same code, but for jumps that the assembler makes shorter when functions share a section."""
    OFFSETS = "offsets"
    """The same instructions with other offsets or constants: types or macros of headers that the vendor changed."""
    INLINING = "inlining"
    """The file is the vendor's, but other functions are called: headers decide differently what is inlined."""
    CODE = "code"
    """The file is the vendor's, but the code is not: functions or macros of headers that the vendor changed."""
    REFERENCE = "reference"
    """The same code, but something that it refers to is another thing there."""


def by_source(name: str, original: bytes, patched: bytes, vendor: bytes) -> tuple[Cause, str] | None:
    """The cause that the sources show for one function, with details; None if the whole file is the vendor's.

    Args:
        original: before the fix; patched: after it; vendor: the vendor's own.
    """
    if patched == vendor:
        return None
    before, ours, theirs = (_bodies(content) for content in (original, patched, vendor))
    changed = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if name in changed:
        alien, missing = _weigh(before.get(name, []), ours.get(name, []), theirs.get(name, []))
        told = f"{missing} lines of the vendor's change are not taken"
        if alien:
            more = f"; {told}" if missing else ""
            return Cause.ALIEN_CHANGE, f"{alien} lines are not the vendor's{more}"
        return Cause.HUNKS_NOT_TAKEN, told
    where = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
    return Cause.HUNKS_ELSEWHERE, f"the file differs in {where or 'parts outside functions'}"


def _bodies(content: bytes) -> dict[str, list[bytes]]:
    """Function name -> its lines (of both definitions, where `#if` chooses between two)."""
    lines = content.splitlines()
    found: dict[str, list[bytes]] = {}
    for function in functions(content):
        found.setdefault(function.name, []).extend(lines[function.start - 1 : function.end])
    return found


def _weigh(before: list[bytes], ours: list[bytes], theirs: list[bytes]) -> tuple[int, int]:
    """Lines that are ours alone, and lines of the vendor's change that are not taken; `before` tells which is which."""
    alien = missing = 0
    known = Counter(before)
    for tag, a1, a2, b1, b2 in difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        for line in ours[a1:a2]:
            # A line that the old source has too is one that the vendor took out.
            alien, missing = (alien, missing + 1) if known[line] else (alien + 1, missing)
        for line in theirs[b1:b2]:
            alien, missing = (alien + 1, missing) if known[line] else (alien, missing + 1)
    return alien, missing
