"""The livepatch held against the vendor's own fixed kernel: per function, identical, or different and why.

A fix that is derived from a newer kernel B should give B's code. Every function of the livepatch is looked up in B's shipped
vmlinux or module and compared: bytes with the fields that the linker fills in masked, what these fields lead to by name,
strings and constants by content. Where something differs, B's source says why: hunks that the fix left out, changes that B
does not have, or B's headers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kmend.core.manifest import HeldFunction, VendorRecord
from kmend.factory.build.causes import Cause, by_source
from kmend.factory.build.compare import base_name, parent_name
from kmend.factory.build.moduleview import ShippedModule
from kmend.factory.build.unit import Element, Unit
from kmend.factory.build.vendorobject import VendorModule, VendorObject, VendorVmlinux
from kmend.factory.build.vendorplace import Difference, VendorPlacement, own_calls, own_instructions
from kmend.factory.kernels.modulefiles import ModuleFileError
from kmend.factory.kernels.prepared import KernelIndex
from kmend.factory.kernels.sources import source_files

VMLINUX = "vmlinux"


@dataclass(frozen=True, slots=True)
class Vendor:
    """The vendor's own fixed kernel.

    Attributes:
        source: gives a file of its source; None if it has none of that path.
    """

    index: KernelIndex
    source: Callable[[str], bytes | None]

    @classmethod
    def of(cls, index: KernelIndex) -> Vendor:
        """With the source package of the kernel's own version."""
        return cls(index, lambda path: source_files(index.package, [path])[path])

    def object(self, name: str) -> VendorObject | None:
        """Its vmlinux or the module of that name; None if it has no such module."""
        return object_of(self.index, name)


def object_of(index: KernelIndex, name: str) -> VendorObject | None:
    """A kernel's vmlinux or the module of that name; None if it has no such module.

    Raises:
        PackageGoneError: the modules' package is no longer to be had.
    """
    if name == VMLINUX:
        return VendorVmlinux(index.vmlinux)
    try:
        return VendorModule(ShippedModule(index, name))
    except ModuleFileError:
        return None


@dataclass(frozen=True, slots=True)
class PatchedFile:
    """What the livepatch has of one source file.

    Attributes:
        unit: compiled from the patched source.
        functions: of `unit` that the livepatch brings.
        original, patched: the source before and after the fix.
        plainly: compiles the patched source just as the vendor compiles its own: without `#line`, functions not
            in sections of their own. None if it cannot be compiled so.
    """

    object: str
    unit: Unit
    functions: tuple[Element, ...]
    original: bytes
    patched: bytes
    plainly: Callable[[], Unit | None]


def hold(vendor: Vendor, files: Sequence[PatchedFile]) -> VendorRecord:
    """Compare every function of a livepatch with the vendor's.

    Raises:
        KmendError: the vendor's source cannot be had.
    """
    held = [function for file in files for function in _Holder(vendor, file).run()]
    return VendorRecord(vendor.index.identity, tuple(held))


def differences(unit: Unit, there: VendorObject) -> dict[str, Difference]:
    """Function name -> how it differs from that object's, for those functions of a unit that do.

    The number of a header's line inside a string is no difference.
    """
    placement = VendorPlacement(unit, there, any_line=True)
    found = {element.name: placement.difference(element) for element in unit.functions}
    return {name: difference for name, difference in found.items() if difference is not None}


class _Holder:
    """One file's functions against the vendor's."""

    def __init__(self, vendor: Vendor, file: PatchedFile) -> None:
        self._file = file
        self._vendor = vendor
        self._there = vendor.object(file.object)

    def run(self) -> list[HeldFunction]:
        there = self._there
        if there is None:
            missing = Difference(f"the vendor's kernel has no module {self._file.object}")
            return [self._held(element, Cause.ABSENT, missing.text) for element in self._file.functions]
        placement = VendorPlacement(self._file.unit, there)
        found = [(element, placement.difference(element)) for element in self._file.functions]
        plain: dict[str, Difference | None] = {}
        if any(difference is not None and difference.landmark is not None for _, difference in found):
            unit = self._file.plainly()
            if unit is not None:
                again = VendorPlacement(unit, there)
                names = {base_name(element.name) for element, difference in found if difference is not None}
                plain = {e.name: again.difference(e) for e in unit.functions if base_name(e.name) in names}
        held = []
        for element, difference in found:
            if difference is None:
                held.append(self._held(element, None, ""))
            elif element.name in plain and plain[element.name] is None:
                same_size = difference.landmark is None or difference.landmark.size == element.size
                held.append(
                    self._held(element, Cause.LINE_NUMBERS if same_size else Cause.SHORT_JUMPS, difference.text)
                )
            else:
                held.append(self._held(element, *self._cause(element, difference, placement)))
        return held

    def _held(self, element: Element, cause: Cause | None, detail: str) -> HeldFunction:
        word = cause.value if cause is not None else ""
        return HeldFunction(self._file.object, element.name, self._file.unit.source, cause is None, word, detail)

    def _cause(self, element: Element, difference: Difference, placement: VendorPlacement) -> tuple[Cause, str]:
        source = self._vendor.source(self._file.unit.source)
        if source is None:
            return Cause.ABSENT, "the vendor's source has no such file"
        name = parent_name(element.name) or base_name(element.name).partition(".")[0]
        cause = by_source(name, self._file.original, self._file.patched, source)
        if cause is not None:
            return cause[0], f"{cause[1]}; {difference.text}"
        landmark = difference.landmark
        if landmark is None:
            return Cause.ABSENT, difference.text
        if difference.reference:
            return Cause.REFERENCE, difference.text
        if own_instructions(element) == placement.instructions(landmark):
            return Cause.OFFSETS, difference.text
        ours, theirs = Counter(own_calls(element)), Counter(placement.calls(landmark))
        if ours != theirs:
            only = [f"{n} is called here" for n in sorted(ours - theirs)]
            only += [f"{n} is called there" for n in sorted(theirs - ours)]
            return Cause.INLINING, f"{', '.join(only[:4])}; {difference.text}"
        return Cause.CODE, difference.text
