"""Take what a livepatch needs out of the patched units: changed and new functions, and all that they cannot reach otherwise.

The result is one ordinary relocatable object for all units. References to the running kernel that need livepatch's help
are undefined symbols named `.klp.sym.*`; the link step turns them into klp relocations.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

from kmend.factory.build.callbacks import Callback, callbacks_among
from kmend.factory.build.compare import HARMLESS_WRITABLE, Comparison, base_name, parent_name, without_identity
from kmend.factory.build.refusal import Refusal, RefusalCode
from kmend.factory.build.resolve import KLP_PREFIX, VMLINUX, Resolution, Resolver, Way
from kmend.factory.build.special import (
    AUXILIARY,
    DESCRIPTORS,
    ORC,
    ORC_IP,
    ORC_SIZE,
    REPLACEMENTS,
    TABLES,
    Entry,
    boot_time,
    masked,
    never_copied,
    replacement_of,
    unwind_entries,
)
from kmend.factory.build.unit import Element, External, Kind, Reference, is_branch
from kmend.factory.build.verify import field_ranges
from kmend.factory.elf import ObjectFile, Relocation, Section, Symbol
from kmend.factory.elf.constants import (
    R_X86_64_64,
    R_X86_64_PC8,
    R_X86_64_PC32,
    RELOCATION_WIDTH,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHT_NOBITS,
    SHT_PROGBITS,
    STB_GLOBAL,
    STB_LOCAL,
    STT_FUNC,
    STT_OBJECT,
    STT_SECTION,
)

NOPS = (b"\x0f\x1f\x44\x00\x00", b"\x66\x90")
"""The five- and the two-byte NOP that stand where a jump label is off (arch/x86/include/asm/nops.h)."""
ALIAS = "kmend_fn_"
"""Prefix of the global names by which the glue refers to replacement functions; the link step removes them."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """A function that the livepatch replaces: the original, its position among equal names, the alias of the new code, and the
    object (vmlinux or a module) that holds the original."""

    original: Element
    patched: Element
    sympos: int
    alias: str
    source: str
    object: str


@dataclass(frozen=True, slots=True)
class ClearTable:
    """The fields that klp relocations against a module write, listed for the glue, which zeroes them when the module goes.

    Attributes:
        module: whose going away it is for.
        symbol: global name of the table; count: its entries, each an address and a width of 8 bytes.
    """

    module: str
    symbol: str
    count: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What one reference became, for `--explain`: from which function, to what, and by which way."""

    source: str
    function: str
    target: str
    way: str


@dataclass(slots=True)
class Extraction:
    """The object under construction and its account.

    Attributes:
        resolutions: symbols of the running kernel that are needed, by their name in the livepatch.
        new_data: (source, name, writable) of data that comes along.
        escaping: new functions whose address is taken, so that the kernel may keep it for longer than the livepatch is there.
    """

    image: ObjectFile = field(default_factory=ObjectFile)
    replacements: list[Replacement] = field(default_factory=list)
    resolutions: dict[str, Resolution] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    added_functions: list[tuple[str, str]] = field(default_factory=list)
    new_data: list[tuple[str, str, bool]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    escaping: list[str] = field(default_factory=list)
    clear_tables: list[ClearTable] = field(default_factory=list)
    callbacks: list[Callback] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


class Extractor:
    """Extracts unit after unit into one object."""

    def __init__(self) -> None:
        self.result = Extraction()
        self._sections: dict[str, Section] = {}
        self._section_symbols: dict[int, Symbol] = {}
        self._undefined: dict[str, Symbol] = {}
        self._definitions: dict[str, Symbol] = {}

    def add(
        self,
        number: int,
        comparison: Comparison,
        home: str,
        resolver: Resolver,
        elsewhere: frozenset[str],
        allowed_data: frozenset[str],
    ) -> None:
        """Take what unit `number` contributes.

        Args:
            comparison: of the unit; home: the object that holds it.
            resolver: for its references to the running kernel.
            elsewhere: global names that another unit of this fix newly defines.
            allowed_data: names of new writable objects that the fix's author vouches for.
        """
        _UnitExtraction(self, number, comparison, home, resolver, elsewhere, allowed_data).run()

    def section(self, name: str, like: Section) -> Section:
        """The output section of that name, made after the model of `like` when it is first used."""
        found = self._sections.get(name)
        if found is None:
            flags = like.flags & (SHF_ALLOC | SHF_WRITE | SHF_EXECINSTR)
            kind = SHT_NOBITS if like.type == SHT_NOBITS else SHT_PROGBITS
            found = self._sections[name] = Section(name, kind, flags, b"", like.align)
            self.result.image.sections.append(found)
            symbol = Symbol(name, type=STT_SECTION, bind=STB_LOCAL, section=found)
            self._section_symbols[id(found)] = symbol
            self.result.image.symbols.append(symbol)
        found.align = max(found.align, like.align)
        return found

    def append(self, section: Section, content: bytes, align: int) -> int:
        """Put `content` at the end of `section`; returns the offset where it went."""
        if section.type == SHT_NOBITS:
            start = section.nobits_size + -section.nobits_size % align
            section.nobits_size = start + len(content)
        else:
            start = len(section.content) + -len(section.content) % align
            section.content = section.content + bytes(start - len(section.content)) + content
        return start

    def section_symbol(self, section: Section) -> Symbol:
        """The symbol that stands for the section's start."""
        return self._section_symbols[id(section)]

    def define(self, symbol: Symbol) -> Symbol:
        """Add a symbol that this object defines."""
        self.result.image.symbols.append(symbol)
        if symbol.bind == STB_GLOBAL:
            self._definitions[symbol.name] = symbol
        return symbol

    def undefined(self, name: str) -> Symbol:
        """The undefined symbol of that name, or its definition where a unit of this fix has one."""
        if name in self._definitions:
            return self._definitions[name]
        found = self._undefined.get(name)
        if found is None:
            found = self._undefined[name] = Symbol(name, bind=STB_GLOBAL)
            self.result.image.symbols.append(found)
        return found

    def finish(self) -> Extraction:
        """Join references between units and drop what became unnecessary."""
        for name, symbol in list(self._undefined.items()):
            definition = self._definitions.get(name)
            if definition is None:
                continue
            self.result.image.symbols.remove(symbol)
            for section in self.result.image.sections:
                for relocation in section.relocations:
                    if relocation.symbol is symbol:
                        relocation.symbol = definition
        self._clear_tables()
        return self.result

    def _clear_tables(self) -> None:
        """List, for each module, where its klp relocations write (struct kmend_field in the glue)."""
        fields: dict[str, list[tuple[Section, Relocation]]] = {}
        for section in self.result.image.sections:
            for relocation in section.relocations:
                owner = relocation.symbol.name.rpartition("@")[2]
                if relocation.symbol.name.startswith(KLP_PREFIX) and owner != VMLINUX:
                    fields.setdefault(owner, []).append((section, relocation))
        for number, (module, places) in enumerate(sorted(fields.items())):
            table = self.section(f".rodata.kmend_clear_{number}", Section("", flags=SHF_ALLOC, align=8))
            for section, relocation in places:
                start = self.append(table, struct.pack("<QQ", 0, RELOCATION_WIDTH[relocation.type]), 8)
                table.relocations.append(
                    Relocation(start, R_X86_64_64, self.section_symbol(section), relocation.offset)
                )
            name = f"kmend_clear_{number}"
            self.define(Symbol(name, 0, table.size, STT_OBJECT, STB_GLOBAL, section=table))
            self.result.clear_tables.append(ClearTable(module, name, len(places)))


class _UnitExtraction:
    """The walk over one unit: from the changed functions along their references."""

    def __init__(
        self,
        extractor: Extractor,
        number: int,
        comparison: Comparison,
        home: str,
        resolver: Resolver,
        elsewhere: frozenset[str],
        allowed_data: frozenset[str],
    ) -> None:
        self._extractor = extractor
        self._home = home
        self._result = extractor.result
        self._number = number
        self._comparison = comparison
        self._unit = comparison.patched
        self._resolver = resolver
        self._elsewhere = elsewhere
        self._allowed_data = allowed_data
        self._placed: dict[int, tuple[Section, int, Symbol | None]] = {}
        self._todo: list[tuple[Element, str]] = []
        self._refused: set[int] = set()
        self._added = {id(element) for element in comparison.added}
        self._new_globals = [
            element
            for element in [*comparison.added, *comparison.new_objects]
            if element.is_global and not boot_time(element.section.name) and not never_copied(element.section.name)
        ]

    def run(self) -> None:
        for old, new in self._comparison.changed:
            symbol = self._place(new)
            if parent_name(new.name) is not None or symbol is None:
                continue
            position = self._resolver.sympos(old)
            if isinstance(position, Refusal):
                self._result.refusals.append(position)
                continue
            alias = self._alias(symbol, str(len(self._result.replacements)))
            self._result.replacements.append(Replacement(old, new, position, alias, self._unit.source, self._home))
        for kind, element in callbacks_among(self._comparison.added):
            symbol = self._place(element)
            if symbol is not None:
                alias = self._alias(symbol, f"{kind.value}_{len(self._result.callbacks)}")
                self._result.callbacks.append(Callback(kind, self._home, alias, self._unit.source))
        for element in self._new_globals:
            if element.is_function or element.name in self._elsewhere:
                self._place_new(element)
        while self._todo:
            element, why = self._todo.pop()
            self._relocate(element, element.references, *self._placed[id(element)][:2], why)
            if element.is_function:
                self._tables(element)
                self._unwind(element)

    def _alias(self, function: Symbol, name: str) -> str:
        """Give the copy of a function a global name for the glue."""
        alias = f"{ALIAS}{name}"
        self._extractor.define(
            Symbol(alias, function.value, function.size, STT_FUNC, STB_GLOBAL, section=function.section)
        )
        return alias

    def _place_new(self, element: Element) -> None:
        """Copy a new global function or object, unless it is one that a livepatch must not bring."""
        if self._may_come(element, self._unit.source):
            self._place(element)

    def _place(self, element: Element, why: str = "") -> Symbol | None:
        """Copy an element into the output (once) and queue its references."""
        known = self._placed.get(id(element))
        if known is not None:
            return known[2]
        section = self._extractor.section(self._section_name(element), element.section)
        # What the assembler had settled is relocated anew, and the kernel's loader wants such fields to be zero.
        content = masked(element.content, field_ranges(element)) if element.is_function else element.content
        start = self._extractor.append(section, content, max(1, element.section.align))
        symbol = None
        if element.name:
            kind = STT_FUNC if element.is_function else STT_OBJECT
            shared = element in self._new_globals and element.name in self._elsewhere
            bind = STB_GLOBAL if shared else STB_LOCAL
            symbol = Symbol(element.name, start, element.size, kind, bind, section=section)
            self._extractor.define(symbol)
        self._placed[id(element)] = (section, start, symbol)
        self._todo.append((element, why or element.name))
        if element.is_function and id(element) in self._added:
            self._result.added_functions.append((self._unit.source, element.name))
        return symbol

    def _section_name(self, element: Element) -> str:
        name = element.section.name
        if element.is_function:
            return f".text.kmend{self._number}.{element.name}"
        if name in DESCRIPTORS or name in (REPLACEMENTS, ".data..percpu"):
            return name
        if element.section.type == SHT_NOBITS:
            return ".bss.kmend"
        if element.section.writable:
            return ".data.kmend"
        return ".rodata.str.kmend" if element.kind is Kind.STRING else ".rodata.kmend"

    def _relocate(
        self, holder: Element, references: Sequence[Reference], section: Section, start: int, why: str
    ) -> None:
        for reference in references:
            resolved = self._symbol_for(holder, reference, why)
            if resolved is not None:
                symbol, addend = resolved
                section.relocations.append(Relocation(start + reference.offset, reference.type, symbol, addend))

    def _symbol_for(self, holder: Element, reference: Reference, why: str) -> tuple[Symbol, int] | None:
        """The symbol and addend of a reference in the output; None if it is dropped or refused."""
        target = reference.target
        if reference.type == R_X86_64_PC8:
            self._refuse_short_jump(holder, target)
            return None
        if isinstance(target, External):
            if target.name in self._elsewhere:
                return self._extractor.undefined(target.name), reference.addend
            return self._outside(holder, target, reference, why)
        if target.section.name == AUXILIARY and holder.is_function:
            return None
        if self._comes_along(target, holder, reference):
            if not self._may_come(target, why):
                return None
            symbol = self._place(target, why)
            if target.is_function and not is_branch(holder, reference) and target.name not in self._result.escaping:
                self._result.escaping.append(target.name)
            section, start, _ = self._placed[id(target)]
            if symbol is not None:
                return symbol, reference.addend
            return self._extractor.section_symbol(section), start + reference.addend
        original = self._comparison.original_of.get(id(target))
        return self._outside(holder, original if original is not None else External(target.name), reference, why)

    def _comes_along(self, target: Element, holder: Element, reference: Reference) -> bool:
        """Whether the target is copied; otherwise the running kernel's own is meant."""
        if without_identity(target):
            return not never_copied(target.section.name)
        if target.is_function and id(target) in self._comparison.changed_ids:
            # A pointer that the kernel may keep must be the original's: it outlives this module, and ftrace leads it here.
            return is_branch(holder, reference)
        return id(target) not in self._comparison.original_of and not never_copied(target.section.name)

    def _refuse_short_jump(self, holder: Element, target: Element | External) -> None:
        refusal = Refusal(
            RefusalCode.SHORT_JUMP,
            f"{holder.name} goes over to its neighbour {target.name} in {holder.section.name} by a jump of two bytes, "
            "which cannot lead out of a livepatch",
            hint="give the function another instruction at its end, so that the jump becomes a call, or change its callers",
            file=self._unit.source,
            symbol=holder.name,
            section=holder.section.name,
        )
        if refusal not in self._result.refusals:
            self._result.refusals.append(refusal)

    def _may_come(self, target: Element, why: str) -> bool:
        """Whether the element may be copied; if not, it is refused, once."""
        if id(target) in self._refused:
            return False
        refusal = self._data_refusal(target, why)
        if refusal is not None:
            self._refused.add(id(target))
            self._result.refusals.append(refusal)
        return refusal is None

    def _data_refusal(self, target: Element, why: str) -> Refusal | None:
        if id(target) in self._placed or target.is_function or not target.size:
            return None
        base = base_name(target.name) or "(without a name)"
        writable = target.section.writable and not target.section.name.startswith(
            (".data.rel.ro", ".data..ro_after_init")
        )
        new = (self._unit.source, target.name, writable)
        if not without_identity(target) and new not in self._result.new_data:
            self._result.new_data.append(new)
        if (
            writable
            and base not in HARMLESS_WRITABLE
            and not base.startswith("__UNIQUE_ID_")
            and base not in self._allowed_data
        ):
            return Refusal(
                RefusalCode.NEW_WRITABLE_DATA,
                f"{why} uses the new variable {base}; while one level replaces another, old and new code would each "
                "have their own copy of it",
                hint=f"keep it in a shadow variable, or state in the fix 'Kmend-Allow: new-writable-data {base} -- <why two "
                "copies do no harm>'",
                file=self._unit.source,
                symbol=target.name,
                section=target.section.name,
            )
        return None

    def _outside(
        self, holder: Element, target: Element | External, reference: Reference, why: str
    ) -> tuple[Symbol, int] | None:
        found = self._resolver.resolve(target)
        if isinstance(found, Refusal):
            if found not in self._result.refusals:
                self._result.refusals.append(found)
            return None
        self._result.resolutions[found.symbol] = found
        decision = Decision(self._unit.source, why or holder.name, target.name, _describe(found))
        if decision not in self._result.decisions:
            self._result.decisions.append(decision)
        return self._extractor.undefined(found.symbol), reference.addend

    def _tables(self, function: Element) -> None:
        """Copy the entries of special sections that speak of an included function."""
        section, start, symbol = self._placed[id(function)]
        for entry in self._comparison.entries.get(id(function), []):
            self._table_entry(
                function, entry, symbol or self._extractor.section_symbol(section), 0 if symbol else start
            )

    def _table_entry(self, function: Element, entry: Entry, symbol: Symbol, base: int) -> None:
        form = TABLES[entry.table]
        if self._home != VMLINUX and self._leaves_out(function, entry):
            return
        out = self._extractor.section(entry.table, entry.element.section)
        content = entry.element.content.ljust(form.size, b"\0")
        start = self._extractor.append(out, content, 1 if form.size % 8 else 8)
        for reference in entry.element.references:
            place = start + reference.offset
            if isinstance(reference.target, Element) and reference.target is function:
                out.relocations.append(Relocation(place, reference.type, symbol, base + reference.addend))
            elif entry.table == ".altinstructions" and reference.offset == 4:
                self._replacement(function, entry, out, place)
            elif self._is_included_code(reference.target):
                # A jump label or a fixup may lead into the function's own cold part.
                inside = self._place(reference.target, function.name)
                if inside is not None:
                    out.relocations.append(Relocation(place, reference.type, inside, reference.addend))
            else:
                resolved = self._symbol_for(entry.element, reference, function.name)
                if resolved is not None:
                    out.relocations.append(Relocation(place, reference.type, *resolved))

    def _leaves_out(self, function: Element, entry: Entry) -> bool:
        """Whether an entry with a key in the patched module is dropped (or refused).

        Such a key can be reached only once the module is there, but the kernel reads the livepatch's tables when the livepatch
        is loaded. A call without its static-call entry goes through the trampoline, which is always right. A tracepoint's jump
        without its entry stays as it is compiled: off.
        """
        keys = [reference.target for reference in entry.others if not self._is_included_code(reference.target)]
        names = [key.name for key in keys if self._in_module(key)]
        if not names or entry.table not in ("__jump_table", ".static_call_sites"):
            return False
        if entry.table == ".static_call_sites":
            key = names[0].removeprefix("__SCK__").removeprefix("__SCT__")
            self._result.notes.append(f"the static call {key} goes through its trampoline in {function.name}")
            return True
        code = function.content[entry.code.target_offset : entry.code.target_offset + 5]
        if names[0].startswith("__tracepoint_") and code.startswith(NOPS):
            self._result.notes.append(
                f"the tracepoint {names[0].removeprefix('__tracepoint_')} is silent in {function.name}"
            )
            return True
        self._result.refusals.append(
            Refusal(
                RefusalCode.MODULE_STATIC_KEY,
                f"{function.name} branches on the static key {names[0]} of the module {self._home}, which may come and go",
                hint="test it with static_key_enabled() in the fix",
                file=self._unit.source,
                symbol=function.name,
                section=entry.table,
                offset=entry.element.start,
            )
        )
        return True

    def _in_module(self, target: Element | External) -> bool:
        """Whether a symbol lies in the patched module or in one that it depends on."""
        if isinstance(target, Element):
            original = self._comparison.original_of.get(id(target))
            if original is None:
                return False
            target = original
        found = self._resolver.resolve(target)
        return not isinstance(found, Refusal) and found.way is Way.KLP and found.object != VMLINUX

    def _is_included_code(self, target: Element | External) -> TypeGuard[Element]:
        if isinstance(target, External) or not target.is_function:
            return False
        return id(target) in self._comparison.changed_ids or id(target) in self._added

    def _replacement(self, function: Element, entry: Entry, table: Section, place: int) -> None:
        code = replacement_of(self._unit, entry)
        model = self._unit.image.section(REPLACEMENTS)
        if model is None:
            return
        out = self._extractor.section(REPLACEMENTS, model)
        start = self._extractor.append(out, code.content if code is not None else b"", 1)
        table.relocations.append(Relocation(place, R_X86_64_PC32, self._extractor.section_symbol(out), start))
        if code is not None:
            self._relocate(code, code.references, out, start, function.name)

    def _unwind(self, function: Element) -> None:
        """The function's ORC entries, closed by an undefined one so that the state does not leak into what follows."""
        entries = unwind_entries(self._unit, function)
        if not entries:
            return
        places = self._extractor.section(ORC_IP, Section(ORC_IP, flags=SHF_ALLOC, align=4))
        states = self._extractor.section(ORC, Section(ORC, flags=SHF_ALLOC, align=2))
        section, start, _ = self._placed[id(function)]
        symbol = self._extractor.section_symbol(section)
        for offset, state in [*((e.offset, e.state) for e in entries), (function.size, bytes(ORC_SIZE))]:
            place = self._extractor.append(places, bytes(4), 4)
            self._extractor.append(states, state, 1)
            places.relocations.append(Relocation(place, R_X86_64_PC32, symbol, start + offset))


def _describe(found: Resolution) -> str:
    if found.way.value == "export":
        return f"export, CRC {found.crc:#010x}" + (f", namespace {found.namespace}" if found.namespace else "")
    where = "" if found.object == VMLINUX else f" in {found.object}"
    return f"klp relocation, sympos {found.sympos}{where}"
