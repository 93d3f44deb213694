"""A compiled translation unit as elements: functions, objects, strings and constants, and what each refers to.

Work goes by symbols, never by sections: a section such as `.sched.text` or `.data..read_mostly` is shared, and is cut along
its symbols here, once, so that nothing later needs to know of sections.
"""

from __future__ import annotations

import bisect
import enum
from dataclasses import dataclass, field

from kmend.factory.elf import ElfError, ObjectFile, Relocation, Section, Symbol
from kmend.factory.elf.constants import (
    PC_RELATIVE,
    R_X86_64_PC8,
    R_X86_64_PC32,
    R_X86_64_PLT32,
    RELOCATION_WIDTH,
    SHF_MERGE,
    SHT_NOBITS,
    STB_LOCAL,
    STB_WEAK,
    STT_FILE,
    STT_FUNC,
    STT_NOTYPE,
)
from kmend.factory.elf.instructions import InstructionEnds, direct_branches


class Kind(enum.Enum):
    """What an element is."""

    FUNCTION = "function"
    OBJECT = "object"
    STRING = "string"
    CONSTANT = "constant"
    """Bytes without a symbol of their own: anonymous initialisers, mergeable constants."""


@dataclass(eq=False, slots=True)
class Element:
    """A part of a section that is compared, copied or referred to as a whole.

    Attributes:
        name: its symbol's name; empty for strings and constants.
        start: offset in the section; size: bytes.
        names: every symbol at its start, aliases among them.
    """

    kind: Kind
    name: str
    section: Section
    start: int
    size: int
    bind: int = STB_LOCAL
    names: tuple[str, ...] = ()
    references: list[Reference] = field(default_factory=list)

    @property
    def content(self) -> bytes:
        """Its bytes; zeros for what takes no room in the file."""
        if self.section.type == SHT_NOBITS:
            return bytes(self.size)
        return self.section.content[self.start : self.start + self.size]

    @property
    def is_function(self) -> bool:
        """Whether it is code."""
        return self.kind is Kind.FUNCTION

    @property
    def is_global(self) -> bool:
        """Whether other translation units may refer to it."""
        return self.bind != STB_LOCAL


@dataclass(frozen=True, slots=True)
class External:
    """A symbol that another object defines."""

    name: str
    weak: bool = False


@dataclass(frozen=True, slots=True)
class Reference:
    """A relocation inside an element, its meaning worked out.

    Attributes:
        offset: of the field, from the element's start.
        type: R_X86_64_*.
        target: what is referred to; target_offset: which byte of it.
        bias: bytes from the field to the end of its instruction; 0 for what is not relative to an instruction. The
            relocation's addend is `target_offset - bias`.
    """

    offset: int
    type: int
    target: Element | External
    target_offset: int
    bias: int

    @property
    def addend(self) -> int:
        """The addend against the target's start."""
        return self.target_offset - self.bias


class Unit:
    """The elements of one object file."""

    def __init__(self, source: str, image: ObjectFile, *, with_references: bool = True) -> None:
        """Cut `image` into elements.

        Args:
            with_references: work out every element's references now; a large module is only asked for a few slices.
        """
        self.source = source
        self.image = image
        self.elements: list[Element] = []
        self._starts: dict[int, list[int]] = {}
        self._in_section: dict[int, list[Element]] = {}
        self._anonymous: dict[tuple[int, int, int], Element] = {}
        self._ends = InstructionEnds()
        self._relocations: dict[int, tuple[list[int], list[Relocation]]] = {}
        for section in image.sections:
            if section.allocated:
                self._cut(section)
        for element in list(self.elements) if with_references else ():
            element.references = self._references(element.section, element.start, element.size)
            if element.is_function and len(self._in_section[id(element.section)]) > 1:
                self._add_settled_branches(element)

    @property
    def functions(self) -> list[Element]:
        """Its functions, in file order."""
        return [element for element in self.elements if element.is_function]

    @property
    def objects(self) -> list[Element]:
        """Its named data, in file order."""
        return [element for element in self.elements if element.kind is Kind.OBJECT]

    def _cut(self, section: Section) -> None:
        found: dict[int, list[Symbol]] = {}
        for symbol in self.image.symbols:
            if symbol.section is section and not symbol.is_section and symbol.type != STT_FILE and symbol.size:
                found.setdefault(symbol.value, []).append(symbol)
        parts: list[Element] = []
        for start in sorted(found):
            symbols = sorted(found[start], key=lambda s: (-s.size, s.type == STT_NOTYPE, s.bind == STB_LOCAL))
            first = symbols[0]
            if parts and start < parts[-1].start + parts[-1].size:
                continue
            code = first.type == STT_FUNC or (section.executable and first.type == STT_NOTYPE)
            bind = (
                max(symbol.bind for symbol in symbols if symbol.bind != STB_WEAK)
                if any(symbol.bind != STB_WEAK for symbol in symbols)
                else STB_WEAK
            )
            parts.append(
                Element(
                    Kind.FUNCTION if code else Kind.OBJECT,
                    first.name, section, start, first.size, bind, tuple(symbol.name for symbol in symbols),
                )
            )  # fmt: skip
        self._starts[id(section)] = [part.start for part in parts]
        self._in_section[id(section)] = parts
        self.elements += parts

    def element_at(self, section: Section, offset: int) -> tuple[Element, int]:
        """The element that holds byte `offset` of `section`, and the offset inside it.

        An offset that equals an element's end belongs to it when no other element starts there (loop bounds).
        """
        starts = self._starts.get(id(section), [])
        place = bisect.bisect_right(starts, offset) - 1
        if place >= 0:
            element = self._in_section[id(section)][place]
            if offset <= element.start + element.size:
                return element, offset - element.start
        return self._anonymous_at(section, offset)

    def _anonymous_at(self, section: Section, offset: int) -> tuple[Element, int]:
        if section.strings:
            end = section.content.find(b"\0", max(offset, 0))
            if offset < 0 or end < 0:
                raise ElfError(f"a reference to {section.name}+{offset:#x} is not to a string")
            start, size, kind = offset, end + 1 - offset, Kind.STRING
        elif section.flags & SHF_MERGE and section.entsize:
            start, size, kind = offset - offset % section.entsize, section.entsize, Kind.CONSTANT
        else:
            start, size, kind = self._gap(section, offset)
        key = (id(section), start, size)
        element = self._anonymous.get(key)
        if element is None:
            element = self._anonymous[key] = Element(kind, "", section, start, size)
            if kind is Kind.CONSTANT:
                element.references = self._references(section, start, size)
        return element, offset - start

    def _gap(self, section: Section, offset: int) -> tuple[int, int, Kind]:
        """The stretch without symbols around `offset`."""
        parts = self._in_section.get(id(section), [])
        start = max((part.start + part.size for part in parts if part.start + part.size <= offset), default=0)
        end = min((part.start for part in parts if part.start > offset), default=section.size)
        return start, end - start, Kind.CONSTANT

    def slice(self, section: Section, start: int, size: int) -> Element:
        """An element of exactly that range, for entries of special sections and instruction replacements."""
        element = Element(Kind.CONSTANT, "", section, start, size)
        element.references = self._references(section, start, size)
        return element

    def _references(self, section: Section, start: int, size: int) -> list[Reference]:
        found = []
        for entry in self._relocations_in(section, start, size):
            if RELOCATION_WIDTH.get(entry.type) == 0:
                continue
            found.append(self.reference(section, start, size, entry))
        return found

    def _add_settled_branches(self, function: Element) -> None:
        """Branches to neighbours in a shared section: the assembler settled them, and left no relocation to tell of it."""
        known = {reference.offset for reference in function.references}
        for branch in direct_branches(function.content):
            if branch.field in known or 0 <= branch.target < function.size:
                continue
            target, inside = self.element_at(function.section, function.start + branch.target)
            kind = R_X86_64_PLT32 if branch.width == 4 else R_X86_64_PC8
            function.references.append(Reference(branch.field, kind, target, inside, branch.width))
        function.references.sort(key=lambda reference: reference.offset)

    def _relocations_in(self, section: Section, start: int, size: int) -> list[Relocation]:
        """The section's relocations in that range, by rising offset."""
        known = self._relocations.get(id(section))
        if known is None:
            ordered = sorted(section.relocations, key=lambda entry: entry.offset)
            known = self._relocations[id(section)] = ([entry.offset for entry in ordered], ordered)
        offsets, ordered = known
        return ordered[bisect.bisect_left(offsets, start) : bisect.bisect_left(offsets, start + size)]

    def reference(self, section: Section, start: int, size: int, entry: Relocation) -> Reference:
        """Work out one relocation of the element `[start, start + size)` of `section`."""
        bias = 0
        if section.executable and entry.type in PC_RELATIVE:
            code = section.content[start : start + size]
            bias = self._ends.end_of(code, entry.offset - start, (id(section), start)) - (entry.offset - start)
        symbol = entry.symbol
        if symbol.section is None:
            target: Element | External = External(symbol.name, symbol.bind == STB_WEAK)
            return Reference(entry.offset - start, entry.type, target, entry.addend + bias, bias)
        position = symbol.value + entry.addend + bias
        if not symbol.is_section and not symbol.section.strings:
            # A named symbol is what is meant, however far the addend leads away from it.
            element, base = self.element_at(symbol.section, symbol.value)
            return Reference(entry.offset - start, entry.type, element, base + entry.addend + bias, bias)
        element, inside = self.element_at(symbol.section, position)
        return Reference(entry.offset - start, entry.type, element, inside, bias)


def is_branch(holder: Element, reference: Reference) -> bool:
    """Whether a reference is a direct call or jump, and not an address that is computed with or kept."""
    if reference.type == R_X86_64_PC8:
        return True
    if reference.type not in (R_X86_64_PC32, R_X86_64_PLT32) or not holder.section.executable:
        return False
    before = holder.content[max(0, reference.offset - 2) : reference.offset]
    return before[-1:] in (b"\xe8", b"\xe9") or (len(before) == 2 and before[0] == 0x0F and 0x80 <= before[1] <= 0x8F)
