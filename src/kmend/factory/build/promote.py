"""Caller promotion: what ftrace cannot attach to is replaced through its callers.

A changed function without a `__fentry__` call (notrace, or an `inline` that the compiler kept out of line, as the bodies of
system calls are) cannot be redirected. If it is local to its file and every reference to it is a call or jump from functions of
that file, those callers are replaced instead, and bring their own copy of it; callers that cannot be traced either pass it on.
"""

from __future__ import annotations

from kmend.factory.build.compare import Comparison, parent_name
from kmend.factory.build.moduleview import ModulePlacement
from kmend.factory.build.special import INIT_CODE, boot_time, never_copied
from kmend.factory.build.unit import Element, Unit, is_branch
from kmend.factory.build.verify import Placement


def promote(comparison: Comparison, placement: Placement | ModulePlacement) -> None:
    """Turn changed functions that cannot be traced into copies inside their callers, which then count as changed.

    What cannot be promoted stays as it is; the policy refuses it.
    """
    callers = _callers(comparison.patched)
    pair_of = {
        id(new): (old, new)
        for old in comparison.original.functions
        if (new := comparison.patched_of.get(id(old))) is not None
    }
    original_callers = _callers(comparison.original)
    todo = list(comparison.changed)
    while todo:
        old, new = todo.pop()
        if parent_name(old.name) is not None or INIT_CODE.match(old.section.name) or placement.is_traceable(old):
            continue
        roots = callers.get(id(new))
        if old.is_global or new.is_global or not roots or original_callers.get(id(old)) is None:
            continue
        running = [caller for caller in roots if not INIT_CODE.match(caller.section.name)]
        pairs = [pair_of[id(caller)] for caller in running if id(caller) in pair_of]
        if len(pairs) != len([caller for caller in running if caller not in comparison.added]):
            continue
        names = [caller.name for caller in running if parent_name(caller.name) is None]
        comparison.promoted.append((new.name, tuple(names)))
        comparison.changed.remove((old, new))
        comparison.copied.append(old)
        for pair in [*pairs, *_cold_parts(pairs, pair_of)]:
            if id(pair[1]) not in comparison.changed_ids:
                comparison.changed_ids.add(id(pair[1]))
                comparison.changed.append(pair)
                todo.append(pair)


def _cold_parts(
    pairs: list[tuple[Element, Element]], pair_of: dict[int, tuple[Element, Element]]
) -> list[tuple[Element, Element]]:
    """The cold parts of functions, and the functions of cold parts: they are replaced together."""
    names = {new.name for _, new in pairs}
    parents = {parent_name(name) for name in names}
    return [pair for pair in pair_of.values() if parent_name(pair[1].name) in names or pair[1].name in parents]


def _callers(unit: Unit) -> dict[int, list[Element] | None]:
    """Function's `id` -> the functions that branch to it; None once anything else refers to it."""
    found: dict[int, list[Element] | None] = {}
    for element in unit.elements:
        if never_copied(element.section.name) or (boot_time(element.section.name) and not element.is_function):
            continue
        for reference in element.references:
            target = reference.target
            if not isinstance(target, Element) or not target.is_function or target is element:
                continue
            if not (element.is_function and is_branch(element, reference)):
                found[id(target)] = None
                continue
            group = found.setdefault(id(target), [])
            if group is not None and element not in group:
                group.append(element)
    return found
