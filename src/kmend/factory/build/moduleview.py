"""A unit's place in a shipped module: where its elements lie, whether they are the shipped ones, how livepatch finds them.

The counterpart of `Placement` for code that lives in a module. A shipped module is itself relocatable, so references are compared
as references. Where the assembler resolved one inside the module's own `.text` (it could, without a section for each function),
the displacement stands in the bytes and is followed.
"""

from __future__ import annotations

from functools import cached_property

from kmend.factory.build.special import AUXILIARY, masked
from kmend.factory.build.unit import Element, External, Kind, Reference, Unit
from kmend.factory.build.verify import NOT_LINKED, Mismatch, VerifyError, best_blocks, field_ranges
from kmend.factory.elf import Section, Symbol, read_object
from kmend.factory.elf.constants import PC_RELATIVE, RELOCATION_WIDTH, STB_LOCAL, STB_WEAK, STT_FILE
from kmend.factory.kernels.modulefiles import module_image
from kmend.factory.kernels.prepared import KernelIndex

Place = tuple[int, int]
"""The `id` of a section of the shipped module, and an offset in it."""


class ShippedModule:
    """A module as the distro ships it, with what livepatch needs to know of its symbols."""

    def __init__(self, kernel: KernelIndex, name: str) -> None:
        self.name = name
        self.image = read_object(module_image(kernel, name))
        self.unit = Unit(name, self.image, with_references=False)

    @cached_property
    def _by_name(self) -> dict[str, list[Symbol]]:
        """Name -> defined symbols, in the file order in which `module_kallsyms_on_each_symbol` walks them."""
        table: dict[str, list[Symbol]] = {}
        for symbol in self.image.symbols:
            if symbol.name and not symbol.undefined and not symbol.is_section and symbol.type != STT_FILE:
                table.setdefault(symbol.name, []).append(symbol)
        return table

    def named(self, name: str) -> list[Symbol]:
        """Every defined symbol of that name."""
        return self._by_name.get(name, [])

    def sympos(self, name: str, place: Place) -> int | None:
        """As `Kallsyms.sympos`; None too for the module's init code and where the count changes when that is freed."""
        candidates = self.named(name)
        places = [n for n, symbol in enumerate(candidates, start=1) if place_of(symbol) == place]
        initial = any(symbol.section is not None and symbol.section.name.startswith(".init") for symbol in candidates)
        if not places or initial:
            return None
        return 0 if len(candidates) == 1 else places[0]

    def exported_place(self, name: str) -> Place | None:
        """Where the global symbol of that name lies."""
        found = [symbol for symbol in self.named(name) if symbol.bind != STB_LOCAL]
        return place_of(found[0]) if len(found) == 1 else None

    @cached_property
    def traceable(self) -> frozenset[Place]:
        """Where ftrace can attach: what `__mcount_loc` leads to."""
        table = self.image.section("__mcount_loc")
        return frozenset(
            (id(r.symbol.section), r.symbol.value + r.addend)
            for r in (table.relocations if table else ())
            if r.symbol.section is not None
        )

    @cached_property
    def file_blocks(self) -> list[tuple[str, dict[str, list[Symbol]]]]:
        """(source file's name without folders, its local symbols by name), in file order."""
        blocks: list[tuple[str, dict[str, list[Symbol]]]] = []
        for symbol in self.image.symbols:
            if symbol.type == STT_FILE:
                blocks.append((symbol.name, {}))
            elif blocks and symbol.bind == STB_LOCAL and symbol.name and not symbol.is_section:
                blocks[-1][1].setdefault(symbol.name, []).append(symbol)
        return blocks


def place_of(symbol: Symbol) -> Place:
    """A defined symbol's place."""
    return id(symbol.section), symbol.value


class ModulePlacement:
    """Where the elements of one unit lie in a shipped module."""

    def __init__(self, unit: Unit, shipped: ShippedModule) -> None:
        self.object = shipped.name
        self._unit = unit
        self._shipped = shipped
        self._locals = self._file_block()

    def of(self, unit: Unit) -> ModulePlacement:
        """The place of another build of the same file."""
        return ModulePlacement(unit, self._shipped)

    def _file_block(self) -> dict[str, list[Symbol]]:
        wanted = {e.name for e in self._unit.functions if not e.is_global and not NOT_LINKED.match(e.name)}
        base = self._unit.source.rsplit("/", 1)[-1]
        found = [table for name, table in self._shipped.file_blocks if name == base and wanted <= table.keys()]
        if len(found) > 1:
            found = best_blocks(self._unit, found)
        if len(found) > 1 or (wanted and not found):
            raise VerifyError(
                f"{len(found)} blocks of local symbols in the shipped module {self.object} fit {self._unit.source}",
                hint="the compiled original differs from the distro's; check the compiler and its flags",
            )
        return found[0] if found else {}

    def places(self, element: Element) -> tuple[Place, ...]:
        """Where the shipped module may hold that function or object: once, if all is well."""
        if element.is_global:
            return tuple(place_of(s) for s in self._shipped.named(element.name) if s.bind != STB_LOCAL)
        return tuple(place_of(symbol) for symbol in self._locals.get(element.name, []))

    def sympos(self, element: Element) -> int | None:
        """The position among equal names of an original element; None if livepatch cannot find it."""
        places = self.places(element)
        return self._shipped.sympos(element.name, places[0]) if len(places) == 1 else None

    def external_sympos(self, name: str) -> int | None:
        """The position of a global symbol that another file of the module defines; None if there is none."""
        place = self._shipped.exported_place(name)
        return self._shipped.sympos(name, place) if place is not None else None

    def is_traceable(self, element: Element) -> bool:
        """Whether ftrace can attach to the shipped function."""
        places = self.places(element)
        return len(places) == 1 and places[0] in self._shipped.traceable

    def verify(self, element: Element) -> Mismatch | None:
        """None if the function is the shipped one, byte by byte and reference by reference."""
        places = self.places(element)
        if len(places) != 1:
            return Mismatch(
                element.name, f"the module {self.object} has {len(places)} symbols of that name for this file"
            )
        section = self._section(places[0])
        start = places[0][1]
        content = section.content[start : start + element.size]
        fields = field_ranges(element)
        ours, theirs = masked(element.content, fields), masked(content, fields)
        if ours != theirs:
            offset = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), -1)
            weak = element.bind == STB_WEAK
            reason = "another definition overrides this weak one" if weak else f"its code differs at offset {offset:#x}"
            return Mismatch(element.name, reason, offset, weak)
        shipped = {r.offset: r for r in self._shipped.unit.slice(section, start, element.size).references}
        for reference in element.references:
            problem = self._wrong_reference(reference, shipped.get(reference.offset), section, start, content)
            if problem:
                return Mismatch(element.name, problem, reference.offset)
        return None

    def _section(self, place: Place) -> Section:
        return next(section for section in self._shipped.image.sections if id(section) == place[0])

    def _wrong_reference(
        self, ours: Reference, theirs: Reference | None, section: Section, start: int, content: bytes
    ) -> str | None:
        target = ours.target
        if isinstance(target, Element) and (target.section.name == AUXILIARY or (target.size == 0 and not target.name)):
            return None
        if theirs is not None and isinstance(theirs.target, External):
            same = isinstance(target, External) and theirs.target.name == target.name and theirs.addend == ours.addend
            return (
                None
                if same
                else f"the reference at offset {ours.offset:#x} leads to {theirs.target.name} in the shipped module"
            )
        place = self._shipped_place(ours, theirs, section, start, content)
        if place is None:
            return f"the reference at offset {ours.offset:#x} has no counterpart in the shipped module"
        if isinstance(target, External):
            expected: tuple[Place, ...] = tuple(
                place_of(s) for s in self._shipped.named(target.name) if s.bind != STB_LOCAL
            )
            label = target.name
        elif target.kind in (Kind.FUNCTION, Kind.OBJECT):
            expected, label = self.places(target), target.name
        else:
            same = self._same_constant(target, (place[0], place[1] - ours.target_offset))
            return None if same else f"another constant than the shipped one at {ours.offset:#x}"
        if not expected and NOT_LINKED.match(label):
            return None
        if all((where[0], where[1] + ours.target_offset) != place for where in expected):
            return f"the reference at offset {ours.offset:#x} leads to {label} here, elsewhere in the shipped module"
        return None

    def _shipped_place(
        self, ours: Reference, theirs: Reference | None, section: Section, start: int, content: bytes
    ) -> Place | None:
        if theirs is not None:
            if isinstance(theirs.target, External):
                return None
            return id(theirs.target.section), theirs.target.start + theirs.target_offset
        if ours.type not in PC_RELATIVE:
            return None
        field = content[ours.offset : ours.offset + RELOCATION_WIDTH[ours.type]]
        displacement = int.from_bytes(field, "little", signed=True)
        return id(section), start + ours.offset + ours.bias + displacement

    def _same_constant(self, target: Element, place: Place) -> bool:
        section = self._section(place)
        shipped = section.content[place[1] : place[1] + target.size]
        if len(shipped) != target.size:
            return not any(target.content)
        fields = field_ranges(target)
        return masked(shipped, fields) == masked(target.content, fields)
