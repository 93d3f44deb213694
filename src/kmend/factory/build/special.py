"""Sections with a meaning of their own on x86-64: tables whose entries speak of code elsewhere, and what is never copied.

Sizes and layouts are those of Linux 6.1: `alt_instr` (arch/x86/include/asm/alternative.h), `paravirt_patch_site`
(asm/paravirt_types.h), `bug_entry` (asm-generic/bug.h), `exception_table_entry` (asm/extable.h), `jump_entry`
(linux/jump_label.h), `static_call_site` (linux/static_call_types.h), `orc_entry` (asm/orc_types.h).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kmend.factory.build.unit import Element, Reference, Unit
from kmend.factory.elf import ElfError, Section


@dataclass(frozen=True, slots=True)
class TableFormat:
    """A table of fixed-size entries.

    Attributes:
        size: of an entry, bytes.
        code: offset in the entry of the reference to the code that it speaks of.
        ignored: byte ranges that do not count as a change (line numbers).
    """

    size: int
    code: int = 0
    ignored: tuple[tuple[int, int], ...] = ()


TABLES = {
    "__mcount_loc": TableFormat(8),
    ".altinstructions": TableFormat(12),
    ".parainstructions": TableFormat(16),
    "__bug_table": TableFormat(12, ignored=((8, 10),)),
    "__ex_table": TableFormat(12),
    "__jump_table": TableFormat(16),
    ".static_call_sites": TableFormat(8),
    ".smp_locks": TableFormat(4),
    ".retpoline_sites": TableFormat(4),
    ".return_sites": TableFormat(4),
    "_kprobe_blacklist": TableFormat(8),
}
"""Entries are kept when the code that they speak of is included."""

COMPARED_TABLES = frozenset(
    {".altinstructions", ".parainstructions", "__bug_table", "__ex_table", "__jump_table", ".static_call_sites"}
)
"""Tables whose entries are part of what a function does; the others follow from its code."""

REPLACEMENTS = ".altinstr_replacement"
AUXILIARY = ".altinstr_aux"
"""Code that `static_cpu_has` runs before alternatives are applied; a module's are applied before its code can run."""
ORC, ORC_IP = ".orc_unwind", ".orc_unwind_ip"
ORC_SIZE = 6

DESCRIPTORS = frozenset({"__dyndbg", "__dyndbg_classes", "__verbose"})
"""Tables of named descriptors, each copied when included code refers to it."""

FIXED_CODE = (".noinstr.text", ".entry.text", ".static_call.text", ".head.text", ".kprobes.text.fixed", AUXILIARY)
"""Code that must not be replaced: it runs where ftrace must not."""
INIT_CODE = re.compile(r"\.(init|exit|meminit|memexit|cpuinit|devinit)\.(text|data|rodata|setup)\b|\.ref\.data\.init")

_NEVER = re.compile(
    r"___ksymtab.*|__ksymtab_strings|__kcrctab.*|__tracepoints|__tracepoints_ptrs|__tracepoints_strings|__bpf_raw_tp_map"
    r"|_ftrace_events|_ftrace_eval_map|__trace_printk_fmt|__syscalls_metadata|_error_injection_whitelist|\.BTF.*|\.modinfo"
    r"|\.discard\..*|\.static_call_tramp_key|\.static_call\.text|\.printk_index|\.note.*|___srcu_struct_ptrs|\.comment"
    r"|\.exitcall\.exit|\.eh_frame|\.orc_unwind|\.orc_unwind_ip|\.altinstr_replacement|\.altinstr_aux"
)
"""Definitions that belong to the kernel that runs: never copied, and their differences mean nothing to a livepatch."""
_BOOT = re.compile(
    r"\.pci_fixup.*|__param|__modver|\.initcall.*|\.init\..*|\.exit\..*|\.con_initcall.*|\.x86_cpu_dev\.init"
    r"|\.meminit.*|\.apicdrivers|\.iommu_table|__earlycon_table|\.acpi\..*|__clk_of_table|__thermal_table.*|\.runtime_.*"
)
"""Tables and code that were used up when the kernel booted."""


def never_copied(section: str) -> bool:
    """Whether elements of that section are the running kernel's own affair."""
    return _NEVER.fullmatch(section) is not None


def boot_table(section: str) -> bool:
    """Whether that section is a table that the kernel walked through when it booted (initcalls, parameters, quirks)."""
    return boot_time(section) and not section.startswith(
        (".init.text", ".init.data", ".init.rodata", ".exit.", ".meminit")
    )


def boot_time(section: str) -> bool:
    """Whether that section was used up when the kernel booted."""
    return _BOOT.fullmatch(section) is not None


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a table.

    Attributes:
        table: the section's name.
        element: the entry's bytes and references.
        code: its reference to the code that it speaks of.
    """

    table: str
    element: Element
    code: Reference

    @property
    def others(self) -> list[Reference]:
        """Its references apart from the one to the code."""
        return [reference for reference in self.element.references if reference is not self.code]


def table_entries(unit: Unit) -> dict[int, list[Entry]]:
    """Every table entry of the unit, under the `id` of the function that it speaks of, in file order.

    Raises:
        ElfError: a table is not made of whole entries, or an entry refers to no code.
    """
    found: dict[int, list[Entry]] = {}
    for section in unit.image.sections:
        form = TABLES.get(section.name)
        if form is None:
            continue
        # The last paravirt entry may lack its padding (the assembler aligns before an entry, not after it).
        whole = len(section.content) + -len(section.content) % form.size
        if whole != len(section.content) and section.name != ".parainstructions":
            raise ElfError(f"{section.name} is not made of entries of {form.size} bytes")
        for start in range(0, whole, form.size):
            element = unit.slice(section, start, min(form.size, len(section.content) - start))
            code = next((r for r in element.references if r.offset == form.code), None)
            if code is None or not isinstance(code.target, Element):
                raise ElfError(f"entry {start // form.size} of {section.name} refers to no code")
            found.setdefault(id(code.target), []).append(Entry(section.name, element, code))
    return found


def replacement_of(unit: Unit, entry: Entry) -> Element | None:
    """The replacement instructions of an `.altinstructions` entry; None if it replaces by nothing.

    Raises:
        ElfError: the entry is malformed.
    """
    content = entry.element.content
    length = content[11]
    if length == 0:
        return None
    reference = next((r for r in entry.element.references if r.offset == 4), None)
    if reference is None or not isinstance(reference.target, Element) or reference.target.section.name != REPLACEMENTS:
        raise ElfError("an alternative has no replacement")
    return unit.slice(reference.target.section, reference.target.start + reference.target_offset, length)


@dataclass(frozen=True, slots=True)
class UnwindEntry:
    """One ORC entry: from `offset` (bytes from the function's start) on, the stack looks as `state` says."""

    offset: int
    state: bytes


def unwind_entries(unit: Unit, function: Element) -> list[UnwindEntry]:
    """The ORC entries that hold inside `function`, the first one at its start.

    objtool writes an entry only where the state changes, so in a section of several functions the state at a function's start
    may be the one left by its predecessor.

    Raises:
        ElfError: the two ORC sections do not belong together.
    """
    table = _orc_table(unit).get(id(function.section), [])
    inside = [entry for entry in table if function.start <= entry.offset < function.start + function.size]
    before = [entry for entry in table if entry.offset <= function.start]
    if not inside and not before:
        return []
    found = [UnwindEntry(entry.offset - function.start, entry.state) for entry in inside]
    if before and (not found or found[0].offset > 0):
        found.insert(0, UnwindEntry(0, before[-1].state))
    return found


def _orc_table(unit: Unit) -> dict[int, list[UnwindEntry]]:
    """Section's `id` -> its ORC entries by rising offset (offsets from the section's start)."""
    places, states = unit.image.section(ORC_IP), unit.image.section(ORC)
    if places is None or states is None:
        return {}
    if len(places.content) // 4 * ORC_SIZE != len(states.content):
        raise ElfError("the ORC sections do not belong together")
    table: dict[int, list[UnwindEntry]] = {}
    for relocation in places.relocations:
        home: Section | None = relocation.symbol.section
        if home is None:
            continue
        number = relocation.offset // 4
        state = states.content[number * ORC_SIZE : (number + 1) * ORC_SIZE]
        table.setdefault(id(home), []).append(UnwindEntry(relocation.symbol.value + relocation.addend, state))
    for entries in table.values():
        entries.sort(key=lambda entry: entry.offset)
    return table


def masked(content: bytes, ranges: Sequence[tuple[int, int]]) -> bytes:
    """`content` with the given `[start, end)` ranges zeroed."""
    if not ranges:
        return content
    changed = bytearray(content)
    for start, end in ranges:
        changed[start:end] = bytes(len(changed[start:end]))
    return bytes(changed)
