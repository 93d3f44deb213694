"""The livepatch held against the vendor's own fixed kernel: per function, identical, or different and why.

A fix that is derived from a newer kernel B should give B's code. Every function of the livepatch is looked up in B's shipped
vmlinux or module and compared: bytes with the fields that the linker fills in masked, what these fields lead to by name,
strings and constants by content. Where something differs, B's source says why: hunks that the fix left out, changes that B
does not have, or B's headers.
"""

from __future__ import annotations

import difflib
import enum
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kmend.core.manifest import HeldFunction, VendorRecord
from kmend.factory.build.compare import base_name, parent_name
from kmend.factory.build.moduleview import ShippedModule
from kmend.factory.build.unit import Element, Unit
from kmend.factory.build.vendorobject import VendorModule, VendorObject, VendorVmlinux
from kmend.factory.build.vendorplace import Difference, VendorPlacement, own_calls, own_instructions
from kmend.factory.derive import functions
from kmend.factory.kernels.modulefiles import ModuleFileError
from kmend.factory.kernels.prepared import KernelIndex
from kmend.factory.kernels.sources import source_files

VMLINUX = "vmlinux"


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
    """Function name -> how it differs from that object's, for those functions of a unit that do."""
    placement = VendorPlacement(unit, there)
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
        cause = _by_source(name, self._file.original, self._file.patched, source)
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


def _by_source(name: str, original: bytes, patched: bytes, vendor: bytes) -> tuple[Cause, str] | None:
    """The cause that the sources show for one function, if they do."""
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
