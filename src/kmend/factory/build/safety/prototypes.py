"""Prototypes: who calls a replaced function from code that stays must call it as before.

Callers in the same file were compiled anew, and differ where they must. Callers elsewhere, and whoever reaches the function
through a pointer, were compiled for the old prototype. How parameters are handed over is compared (System V ABI for x86-64,
3.2.3), not how they are spelled: `int` for `unsigned int`, `const` or another typedef's name change nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kmend.factory.build.compare import Comparison, parent_name
from kmend.factory.build.layout import Passed, Prototype
from kmend.factory.build.moduleview import ModulePlacement, ShippedModule
from kmend.factory.build.refusal import Refusal, RefusalCode
from kmend.factory.build.special import DESCRIPTORS, ORC, ORC_IP, TABLES, boot_time, never_copied
from kmend.factory.build.unit import Element, Unit, is_branch
from kmend.factory.build.verify import Placement
from kmend.factory.kernels.prepared import Kernel

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class JudgedUnit:
    """A unit whose replaced functions are looked at.

    Attributes:
        before, after: prototypes in the original and in the patched object.
        module: the shipped module that holds the unit; None for vmlinux.
    """

    comparison: Comparison
    placement: Placement | ModulePlacement
    before: Mapping[str, Prototype]
    after: Mapping[str, Prototype]
    module: ShippedModule | None


def difference(old: Prototype, new: Prototype) -> str:
    """How the new prototype breaks callers that were compiled for the old one; empty if it does not."""
    if len(old.parameters) != len(new.parameters):
        return f"from {len(old.parameters)} to {len(new.parameters)} parameters"
    for number, (a, b) in enumerate(zip(old.parameters, new.parameters, strict=True), start=1):
        if not _agree(a, b):
            return f"parameter {number} from {a.type} to {b.type}"
    # Nobody looks at the result of a function that had none.
    if old.result.form != "void" and not _agree(old.result, new.result):
        return f"its result from {old.result.type} to {new.result.type}"
    return ""


def _agree(old: Passed, new: Passed) -> bool:
    if old.form == new.form:
        return True
    return "pointer to void" in (old.form, new.form) and old.form.startswith("pointer") == new.form.startswith(
        "pointer"
    )


def prototype_refusals(kernel: Kernel, units: Sequence[JudgedUnit]) -> list[Refusal]:
    """A refusal for every replaced function whose prototype differs while somebody still calls it by the old one."""
    replaced = frozenset(old.name for unit in units for old, _ in unit.comparison.changed)
    found = []
    for unit in units:
        for old, new in unit.comparison.changed:
            before, after = unit.before.get(old.name), unit.after.get(new.name)
            if parent_name(old.name) is not None or before is None or after is None:
                continue
            told = difference(before, after)
            callers = _old_callers(kernel, unit, old, replaced) if told else []
            if callers:
                found.append(_refusal(unit, old, told, callers))
    return found


def _refusal(unit: JudgedUnit, old: Element, told: str, callers: Collection[str]) -> Refusal:
    names = sorted(callers)
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return Refusal(
        RefusalCode.PROTOTYPE,
        f"the prototype of {old.name} changes ({told}), and code that stays calls it by the old one: "
        f"{', '.join(names[:_MOST_NAMED])}{more}",
        hint="keep the old prototype, and put the new one on a new function that the changed callers use",
        file=unit.comparison.original.source,
        symbol=old.name,
        section=old.section.name,
        offset=old.start,
    )


def _old_callers(kernel: Kernel, unit: JudgedUnit, old: Element, replaced: frozenset[str]) -> list[str]:
    found = [f"{name}, by its address" for name in address_takers(unit.comparison.original, old)]
    if old.is_global:
        export = kernel.exports.get(old.name)
        if export is not None:
            found.append(f"any module, since {export.owner} exports it")
        here = {element.name for element in unit.comparison.original.functions}
        found += [name for name in _callers_elsewhere(kernel, unit, old) if name not in replaced | here]
    return list(dict.fromkeys(found))


def address_takers(unit: Unit, function: Element) -> Iterator[str]:
    """Names of what holds the function's address, in this unit: tables of operations, code that hands it on."""
    for element in unit.elements:
        section = element.section.name
        if section in TABLES or section in DESCRIPTORS or section in (ORC, ORC_IP):
            continue
        if never_copied(section) or (boot_time(section) and not element.is_function):
            continue
        if any(r.target is function and not is_branch(element, r) for r in element.references):
            yield element.name


def _callers_elsewhere(kernel: Kernel, unit: JudgedUnit, old: Element) -> list[str]:
    if unit.module is not None:
        return _callers_in_module(unit.module, old.name)
    if isinstance(unit.placement, ModulePlacement):
        return []
    vmlinux = kernel.vmlinux
    found = []
    for address in unit.placement.addresses(old):
        for place in vmlinux.places_of_references(address):
            section = vmlinux.section_at(place)
            name = section.name if section is not None else ""
            if name and not name.startswith("__ksymtab") and not _is_aside(name):
                holder = vmlinux.symbol_before(place)
                found.append(holder.name if holder is not None else name)
    return found


def _is_aside(section: str) -> bool:
    """Whether what that section refers to is not called from there, or not any more."""
    return section in TABLES or never_copied(section) or boot_time(section)


def _callers_in_module(module: ShippedModule, name: str) -> list[str]:
    found = []
    for section in module.image.sections:
        if not section.allocated or _is_aside(section.name):
            continue
        for entry in section.relocations:
            if entry.symbol.name == name:
                holder, _ = module.unit.element_at(section, entry.offset)
                found.append(holder.name or section.name)
    return found
