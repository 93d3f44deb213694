"""What may be replaced: a refusal for every changed function that a livepatch could not replace safely."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kmend.factory.build.compare import Comparison, parent_name
from kmend.factory.build.moduleview import ModulePlacement
from kmend.factory.build.refusal import Refusal, RefusalCode
from kmend.factory.build.special import (
    DESCRIPTORS,
    FIXED_CODE,
    INIT_CODE,
    ORC,
    ORC_IP,
    TABLES,
    boot_time,
    never_copied,
)
from kmend.factory.build.unit import Element
from kmend.factory.build.verify import Placement


def check_functions(
    comparison: Comparison,
    placement: Placement | ModulePlacement,
    allowed: frozenset[tuple[RefusalCode, str]],
    otherwise_proved: Callable[[Element], bool],
) -> tuple[list[Refusal], list[str]]:
    """Refusals for the changed functions of a unit, and the names of those whose original was proved to be the shipped one.

    Args:
        allowed: (code, symbol) pairs that the fix's author vouches for.
        otherwise_proved: whether an original that is not byte for byte the shipped one is proved by other means.
    """
    refusals: list[Refusal] = []
    proved: list[str] = []
    kept = []
    for old, new in comparison.changed:
        refusal = _code_refusal(comparison.original.source, old)
        if refusal is None:
            kept.append((old, new))
        elif (refusal.code, old.name) not in allowed:
            refusals.append(refusal)
    for old in [*(old for old, _ in kept), *comparison.copied]:
        mismatch = placement.verify(old)
        if mismatch is None or (not mismatch.overridden and otherwise_proved(old)):
            proved.append(old.name)
            if parent_name(old.name) is None and old not in comparison.copied:
                refusals += _trace_refusal(comparison.original.source, old, placement)
        elif mismatch.overridden:
            refusals.append(
                _function_refusal(
                    RefusalCode.NOT_LINKED, comparison.original.source, old,
                    f"{old.name} of this file is not part of {placement.object}: {mismatch.reason}",
                    hint="patch the definition that overrides it",
                )
            )  # fmt: skip
        else:
            refusals.append(
                _function_refusal(
                    RefusalCode.ORIGINAL_DIFFERS, comparison.original.source, old,
                    f"the original {old.name} differs from the one in the shipped {placement.object}: {mismatch.reason}",
                )
            )  # fmt: skip
    comparison.changed[:] = kept
    return refusals, proved


def drop_discarded(comparison: Comparison, placement: Placement | ModulePlacement) -> list[str]:
    """Take changed functions out of the comparison that no kernel runs: `__exit` code of what is built in. Returns notes."""
    if not isinstance(placement, Placement):
        return []
    gone = [old.name for old, _ in comparison.changed if old.section.name.startswith(".exit.text")]
    comparison.changed[:] = [
        (old, new) for old, new in comparison.changed if not old.section.name.startswith(".exit.text")
    ]
    return [
        f"{name} is __exit code of what is built in; no kernel runs it, and its change is left out" for name in gone
    ]


def _code_refusal(source: str, old: Element) -> Refusal | None:
    section = old.section.name
    if INIT_CODE.match(section):
        fate = (
            "__exit code, which is marked notrace, so livepatch cannot redirect it"
            if section.startswith(".exit")
            else "__init code, which is gone since the kernel booted or the module was loaded"
        )
        return _function_refusal(
            RefusalCode.INIT_CODE, source, old,
            f"{old.name} is {fate}",
            hint="redo its effect in a function that still runs, or state 'Kmend-Allow: init-code "
            f"{old.name} -- <why its change does not matter now>'",
        )  # fmt: skip
    if section.startswith(FIXED_CODE):
        return _function_refusal(
            RefusalCode.FIXED_SECTION, source, old,
            f"{old.name} lies in {section}, where the kernel must not be traced, so livepatch cannot redirect it",
            hint="change its callers instead",
        )  # fmt: skip
    return None


def _trace_refusal(source: str, old: Element, placement: Placement | ModulePlacement) -> list[Refusal]:
    if placement.is_traceable(old):
        return []
    return [
        _function_refusal(
            RefusalCode.NOT_TRACEABLE, source, old,
            f"{old.name} does not begin with a call to __fentry__ in the shipped kernel (notrace, inline, or a folder compiled "
            "without tracing), so livepatch cannot redirect it",
            hint="change its callers, if they can be traced",
        )
    ]  # fmt: skip


def _function_refusal(code: RefusalCode, source: str, old: Element, message: str, hint: str = "") -> Refusal:
    return Refusal(code, message, hint, file=source, symbol=old.name, section=old.section.name, offset=old.start)


def check_sections(comparison: Comparison, included: Sequence[Element]) -> tuple[list[Refusal], list[str]]:
    """Refusals for sections that kmend does not know and that speak of included code; notes on new exports."""
    refusals = []
    inside = {id(element) for element in included}
    for section in comparison.patched.image.sections:
        name = section.name
        known = (
            not section.allocated
            or section.executable
            or name in TABLES
            or name in DESCRIPTORS
            or name in (ORC, ORC_IP)
            or never_copied(name)
            or boot_time(name)
            or name.startswith((".rodata", ".data", ".bss", ".init.", ".exit.", ".ref.data"))
        )
        if known:
            continue
        for relocation in section.relocations:
            if relocation.symbol.section is None:
                continue
            target, _ = comparison.patched.element_at(relocation.symbol.section, relocation.symbol.value)
            if id(target) in inside:
                refusals.append(
                    Refusal(
                        RefusalCode.UNKNOWN_SECTION,
                        f"the section {name} speaks of {target.name}, and kmend does not know what it means",
                        hint="report the section's name and the kernel",
                        file=comparison.patched.source,
                        symbol=target.name,
                        section=name,
                        offset=relocation.offset,
                    )
                )
                break
    old_exports = {s.name for s in comparison.original.image.sections if s.name.startswith("___ksymtab")}
    notes = [
        f"the new export {section.name.partition('+')[2]} is not exported by the livepatch"
        for section in comparison.patched.image.sections
        if section.name.startswith("___ksymtab") and section.name not in old_exports
    ]
    return refusals, notes
