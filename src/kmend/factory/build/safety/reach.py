"""Why functions are replaced in which the fix changes no line: what the compiler put into them, mostly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kmend.core.manifest import Notice
from kmend.factory.build.compare import parent_name
from kmend.factory.build.safety.hunks import UnitView, function_name

REACH = "many-functions"
WIDE = 25
"""More functions than this without a changed line of their own deserve a word."""


def reached(unit: UnitView, changed: frozenset[str]) -> Iterator[str]:
    """One sentence for each replaced function without a changed line of its own.

    Args:
        changed: the functions in which a line changes.
    """
    promoted = {caller for _, callers in unit.comparison.promoted for caller in callers}
    for old, _ in unit.comparison.changed:
        name = function_name(old.name)
        if name in changed or old.name in promoted or parent_name(old.name) is not None:
            continue
        inside = sorted(unit.inlining.inlined.get(name, frozenset()) & changed)
        why = "a macro, a type or the compiler's choice of what to inline reaches it"
        if inside:
            why = f"{', '.join(inside)} {'is' if len(inside) == 1 else 'are'} inlined into it"
        yield f"{name} has no changed line of its own: {why}"


def reach_notices(told: Sequence[tuple[str, str]]) -> Iterator[Notice]:
    """A warning if such functions are many."""
    if len(told) > WIDE:
        yield Notice(
            REACH, f"{len(told)} functions are replaced that have no changed line of their own; --explain says why"
        )
