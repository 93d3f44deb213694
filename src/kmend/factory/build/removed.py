"""Functions that a fix takes away: a livepatch cannot take code out of a kernel, so whoever calls them still goes on doing so."""

from __future__ import annotations

from kmend.factory.build.compare import Comparison
from kmend.factory.build.refusal import Refusal, RefusalCode
from kmend.factory.build.unit import Element, Unit

_EXPORT = "__ksymtab_"
"""`___EXPORT_SYMBOL`, `include/linux/export.h` (6.1), defines a symbol of this name and the exported one's."""


def removed_functions(comparison: Comparison) -> tuple[list[Refusal], list[str]]:
    """Refusals for exported functions that are gone, and what is to be said of others that other files may call."""
    before, after = _exports(comparison.original), _exports(comparison.patched)
    left = {name for element in comparison.patched.elements for name in element.names}
    refusals: list[Refusal] = []
    notes: list[str] = []
    for element in comparison.original.functions:
        if id(element) in comparison.patched_of:
            continue
        gone = [name for name in element.names if name not in left]
        exported = [name for name in gone if name in before]
        if exported:
            refusals.append(_refusal(comparison.original.source, element, exported[0]))
        elif element.is_global and gone:
            notes.append(
                f"{comparison.original.source} no longer has {gone[0]} ({element.size} bytes in {element.section.name}); "
                "code that the fix does not change goes on calling the kernel's own"
            )
    for name in sorted((before - after) & left):
        notes.append(
            f"{name} is no longer exported by the fix; the running kernel goes on exporting its own to modules"
        )
    return refusals, notes


def _exports(unit: Unit) -> set[str]:
    return {s.name.removeprefix(_EXPORT) for s in unit.image.symbols if s.name.startswith(_EXPORT) and not s.undefined}


def _refusal(source: str, element: Element, name: str) -> Refusal:
    return Refusal(
        RefusalCode.REMOVED_EXPORT,
        f"the exported function {name} is removed; the running kernel keeps it, and modules go on calling it unchanged",
        hint="keep it and let it do what is right (return an error, call the new function), or state why nobody's use of it "
        f"matters: 'Kmend-Allow: removed-export {name} -- <reason>'",
        file=source,
        symbol=name,
        section=element.section.name,
        offset=element.start,
    )
