"""All safety reports on one livepatch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from kmend.core.manifest import Notice
from kmend.factory.build.compare import Comparison
from kmend.factory.build.exitpath import pin_reasons
from kmend.factory.build.extract import Extraction
from kmend.factory.build.layout import DebugTypes
from kmend.factory.build.moduleview import ModulePlacement
from kmend.factory.build.refusal import Refusal
from kmend.factory.build.resolve import VMLINUX, Modules
from kmend.factory.build.safety.balance import LOCKS, REFERENCES, balance_notices
from kmend.factory.build.safety.changes import FileChanges
from kmend.factory.build.safety.copies import COPIES, copy_notices
from kmend.factory.build.safety.escapes import escaping_data
from kmend.factory.build.safety.hunks import (
    INIT,
    LEFT_OUT,
    SAME,
    UNUSED,
    UnitView,
    hunk_notices,
)
from kmend.factory.build.safety.kernelsets import KernelSets, module_residents
from kmend.factory.build.safety.prototypes import JudgedUnit, prototype_refusals
from kmend.factory.build.safety.reach import REACH, reach_notices, reached
from kmend.factory.build.safety.stacks import RESIDENT, Resident, resident_notices, unseen_code
from kmend.factory.build.unit import Element
from kmend.factory.build.verify import Placement
from kmend.factory.elf.inlining import Inlining, read_inlining
from kmend.factory.fixes import AppliedFile
from kmend.factory.kernels.prepared import Kernel

NOTICE_CODES = frozenset({LOCKS, REFERENCES, COPIES, LEFT_OUT, INIT, UNUSED, SAME, RESIDENT, REACH})
"""The codes of the warnings that are given here."""


@dataclass(frozen=True)
class ReviewedUnit:
    """A compiled unit of the fix, in one object.

    Attributes:
        content: the patched object file, with its debug information.
        before, after: types of the original and of the patched object.
    """

    source: str
    content: bytes
    comparison: Comparison
    placement: Placement | ModulePlacement
    before: DebugTypes
    after: DebugTypes

    @cached_property
    def inlining(self) -> Inlining:
        """What the compiler put into what in the patched object."""
        return read_inlining(self.content)


@dataclass(slots=True)
class Review:
    """What was found.

    Attributes:
        pins: why the module must stay loaded.
        told: for `--explain`, (source file, sentence).
    """

    pins: list[str] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)


def old_prototypes(kernel: Kernel, units: Iterable[ReviewedUnit], modules: Modules) -> list[Refusal]:
    """Refusals for replaced functions that somebody still calls by the old prototype."""
    judged = [
        JudgedUnit(
            unit.comparison,
            unit.placement,
            unit.before.prototypes,
            unit.after.prototypes,
            None if unit.placement.object == VMLINUX else modules.shipped(unit.placement.object),
        )
        for unit in units
    ]
    return prototype_refusals(kernel, judged)


def review(
    kernel: Kernel,
    applied: Mapping[str, AppliedFile],
    units: Sequence[ReviewedUnit],
    extraction: Extraction,
    modules: Modules,
) -> Review:
    """Look at a livepatch that was extracted.

    Args:
        applied: the files that the series changes.
        units: those whose code changes, and those that the fix names.
    """
    found = Review()
    sets = KernelSets.of(kernel)
    found.pins += _pins(kernel, units, extraction, sets)
    files = [FileChanges(file) for file in applied.values()]
    views = [UnitView(unit.comparison, unit.placement.object != VMLINUX, unit.inlining) for unit in units]
    found.notices += resident_notices(residents(kernel, units, modules))
    brought = {name for view in views for name in view.brought_functions}
    for file in files:
        found.notices += balance_notices(file.before, file.after, brought)
    found.notices += hunk_notices(files, views, kernel.config)
    placed = [
        (unit.placement, unit.comparison.original.functions) for unit in units if isinstance(unit.placement, Placement)
    ]
    headers = {name for file in files if file.path.endswith(".h") for name in file.functions}
    found.notices += copy_notices(kernel, sorted(headers), placed)
    changed = frozenset().union(*(file.functions for file in files))
    for unit, view in zip(units, views, strict=True):
        found.told += ((unit.source, sentence) for sentence in reached(view, changed))
    found.notices += reach_notices(found.told)
    return found


def _pins(kernel: Kernel, units: Sequence[ReviewedUnit], extraction: Extraction, sets: KernelSets) -> Iterator[str]:
    def sleeps(name: str) -> bool:
        return name in sets.sleeping or not kernel.vmlinux.named(name)

    replaced = [(r.source, r.original.name) for r in extraction.replacements if r.object == VMLINUX]
    yield from pin_reasons(sets.exit_path, replaced)
    yield from (f"the kernel may keep the address of the new function {name}" for name in extraction.escaping)
    for unit in units:
        added = frozenset(name for source, name in extraction.added_functions if source == unit.source)
        brought: list[Element] = [new for _, new in unit.comparison.changed]
        brought += [element for element in unit.comparison.added if element.name in added]
        yield from escaping_data(unit.comparison, brought)
        yield from unseen_code(unit.comparison, added, sleeps)


def residents(kernel: Kernel, units: Sequence[ReviewedUnit], modules: Modules) -> Iterator[Resident]:
    """Replaced functions that some task is always in."""
    sets = KernelSets.of(kernel)
    for unit in units:
        placement = unit.placement
        of_module: Mapping[str, str] = {}
        if isinstance(placement, ModulePlacement) and unit.comparison.changed:
            of_module = module_residents(modules.shipped(placement.object), sets.waits)
        for old, _ in unit.comparison.changed:
            why = of_module.get(old.name)
            if isinstance(placement, Placement):
                why = next((sets.resident[a] for a in placement.addresses(old) if a in sets.resident), None)
            if why is not None:
                yield Resident(unit.source, old.name, why)
