"""A compiled unit found again in the vendor's own fixed kernel, which was built from other sources: by names and content.

Unlike `verify.Placement`, which proves that a unit *is* the shipped one, this looks for the nearest thing in a kernel where
the compiler numbered static locals and clones anew, where functions may be missing, and where only some code is the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import capstone

from kmend.factory.build.compare import base_name, without_identity
from kmend.factory.build.special import AUXILIARY, DESCRIPTORS, masked
from kmend.factory.build.unit import Element, External, Kind, Reference, Unit
from kmend.factory.build.vendorobject import Block, Imported, Landmark, Place, VendorObject
from kmend.factory.build.verify import field_ranges

_MAX_DEPTH = 8
_LINE_OF_DESCRIPTOR = (32, 36)
"""`lineno`, `class_id` and `flags` in `struct _ddebug` (include/linux/dynamic_debug.h, 6.1)."""
CALL = 0xE8
_LINE_IN_STRING = re.compile(rb"(?<=\.[ch]):\d+")
_MORE_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Instruction:
    """As far as two builds can be compared: `what` it does, without its operands, and where it is."""

    what: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing in which a function differs from the vendor's.

    Attributes:
        landmark: the vendor's function; None if its kernel has none that could be meant.
        reference: the code is the same, but something that it refers to is not.
        offset: where, in bytes from the function's start; -1 for the whole.
    """

    text: str
    landmark: Landmark | None = None
    reference: bool = False
    offset: int = -1


class VendorPlacement:
    """Where the elements of one unit lie in the vendor's object, as far as they are there."""

    def __init__(self, unit: Unit, there: VendorObject, any_line: bool = False) -> None:
        """`any_line`: strings that differ in the number of a header's line alone (`list.h:588`) count as the same."""
        self._any_line = any_line
        self._unit = unit
        self._there = there
        self._locals = self._file_block()
        self._by_class: dict[str, list[Landmark]] = {}
        for landmarks in self._locals.values():
            for landmark in landmarks:
                self._by_class.setdefault(base_name(landmark.name), []).append(landmark)
        self._identities: dict[int, Place] = {}
        self._taken: dict[Place, int] = {}

    def _file_block(self) -> Block:
        """The local symbols of the block that has most in common with this file, names counted by class."""
        wanted = {base_name(e.name) for e in self._unit.elements if not e.is_global and e.name}
        found = []
        for block in self._there.blocks(self._unit.source.rsplit("/", 1)[-1]):
            common = wanted & {base_name(name) for name in block}
            found.append((2 * len(common) - len(block), block))
        found.sort(key=lambda entry: entry[0], reverse=True)
        if not found or (len(found) > 1 and found[0][0] == found[1][0]):
            return {}
        return found[0][1]

    def difference(self, element: Element) -> Difference | None:
        """None if the vendor's object has that function, byte by byte and reference by reference."""
        candidates = self._candidates(element)
        if not candidates:
            return Difference(f"the vendor's kernel has no {element.name} in this file")
        found = []
        for landmark in candidates:
            difference = self._difference_at(element, landmark)
            if difference is None:
                return None
            found.append(difference)
        return min(found, key=lambda difference: not difference.reference)

    def _candidates(self, element: Element) -> list[Landmark]:
        """What of the vendor's may be `element`: by exact name if there is one of that name, else by class."""
        if element.is_global:
            names = dict.fromkeys((element.name, *element.names))
            found = [landmark for name in names for landmark in self._there.globals(name)]
            if found:
                return found[:1]
        exact = self._locals.get(element.name, [])
        if exact and (len(exact) == 1 or element.is_function):
            return exact
        alike = self._by_class.get(base_name(element.name), [])
        return [landmark for landmark in alike if landmark.is_function == element.is_function]

    def _difference_at(self, element: Element, landmark: Landmark) -> Difference | None:
        shipped = self._there.content(landmark.place, min(element.size, landmark.size)) or b""
        fields = field_ranges(element)
        ours, theirs = masked(element.content, fields), masked(shipped, fields)
        if landmark.size != element.size or ours != theirs:
            pairs = zip(ours, theirs, strict=False)
            offset = next((n for n, (a, b) in enumerate(pairs) if a != b), min(element.size, landmark.size))
            what = "other code"
            if landmark.size != element.size:
                what = f"{element.size} bytes here, {landmark.size} in the vendor's kernel"
            return Difference(f"{what}, from offset {offset:#x} on", landmark, False, offset)
        for reference in element.references:
            problem = self._wrong_reference(element, reference, landmark.place, 0)
            if problem:
                return Difference(problem, landmark, True, reference.offset)
        return None

    def _wrong_reference(self, holder: Element, reference: Reference, start: Place, depth: int) -> str | None:
        """A complaint if the vendor's counterpart of a reference leads to another thing; `start` is that of the holder's."""
        target = reference.target
        if isinstance(target, Element) and target.section.name == AUXILIARY:
            return None
        where = f"the reference at offset {reference.offset:#x}"
        actual = self._there.led_to(start.plus(reference.offset), reference)
        if actual is None:
            return f"{where} has no counterpart"
        if isinstance(actual, Imported):
            same = target.name == actual.name and reference.target_offset == actual.offset
            return None if same else f"{where} leads to {target.name} here, to {actual.name} there"
        begin = actual.plus(-reference.target_offset)
        if isinstance(target, External):
            expected = [landmark.place for landmark in self._there.globals(target.name)]
            same = begin in expected or (not expected and target.weak)
            return None if same else f"{where} leads to {target.name} here, to something else there"
        if without_identity(target):
            problem = self._other_content(target, begin, depth)
            return f"{where} leads to {problem}" if problem else None
        return None if self._is_at(target, begin) else f"{where} leads to {target.name} here, to something else there"

    def _is_at(self, target: Element, begin: Place) -> bool:
        """Whether the vendor's `target` starts there; what was once found must be found at the same place again."""
        if not any(landmark.place == begin for landmark in self._candidates(target)):
            return False
        known = self._identities.setdefault(id(target), begin)
        return known == begin and self._taken.setdefault(begin, id(target)) == id(target)

    def _other_content(self, target: Element, begin: Place, depth: int) -> str | None:
        """A complaint if a string, a constant or a descriptor has another content there."""
        if target.size == 0 or depth > _MAX_DEPTH:
            return None
        shipped = self._there.content(begin, target.size)
        fields = field_ranges(target)
        if target.section.name in DESCRIPTORS and target.size > _LINE_OF_DESCRIPTOR[1]:
            fields.append(_LINE_OF_DESCRIPTOR)
        same = not any(target.content) if shipped is None else masked(shipped, fields) == masked(target.content, fields)
        if same and shipped is not None:
            same = all(self._wrong_reference(target, inner, begin, depth + 1) is None for inner in target.references)
        if same:
            return None
        if self._any_line and target.kind is Kind.STRING and self._same_but_line(target.content, begin):
            return None
        if target.kind is Kind.STRING:
            return f"another string ({_printable(target.content)} here, {_printable(shipped)} there)"
        return f"another {target.name or 'constant'}"

    def _same_but_line(self, content: bytes, begin: Place) -> bool:
        # The number may have more or fewer digits there.
        shipped = self._there.content(begin, len(content) + _MORE_DIGITS) or self._there.content(begin, len(content))
        ours, theirs = (text.partition(b"\0")[0] for text in (content, shipped or b""))
        return _LINE_IN_STRING.search(ours) is not None and (
            _LINE_IN_STRING.sub(b"", ours) == _LINE_IN_STRING.sub(b"", theirs)
        )

    def calls(self, landmark: Landmark) -> tuple[str, ...]:
        """Names of the functions that the vendor's one calls directly, clones by class, sorted."""
        code = self._there.content(landmark.place, landmark.size) or b""
        return tuple(
            sorted(
                base_name(self._there.callee(landmark.place.plus(entry.offset + 1)))
                for entry in disassemble(code)
                if entry.what == "call" and entry.size == 5 and code[entry.offset] == CALL
            )
        )

    def instructions(self, landmark: Landmark) -> tuple[str, ...]:
        """What the instructions of the vendor's function do, in order."""
        code = self._there.content(landmark.place, landmark.size) or b""
        return tuple(entry.what for entry in disassemble(code))


def own_calls(element: Element) -> tuple[str, ...]:
    """Names of the functions that an element calls directly, clones by class, sorted."""
    code = element.content
    return tuple(
        sorted(
            base_name(reference.target.name)
            for reference in element.references
            if reference.offset and code[reference.offset - 1] == CALL
        )
    )


def own_instructions(element: Element) -> tuple[str, ...]:
    """What its instructions do, in order."""
    return tuple(entry.what for entry in disassemble(element.content))


def disassemble(code: bytes) -> Iterator[Instruction]:
    """The instructions of a function, by their mnemonics."""
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.skipdata = True
    found: Iterable[tuple[int, int, str, str]] = decoder.disasm_lite(code, 0)
    for offset, size, mnemonic, _ in found:
        yield Instruction(mnemonic, offset, size)


def _printable(content: bytes | None) -> str:
    text = (content or b"").rstrip(b"\0").decode(errors="replace")
    return repr(text if len(text) <= 60 else text[:57] + "...")
