"""Tables whose entries speak of code: found, compared with it, and refused when they are broken."""

from __future__ import annotations

import struct

import pytest
from tests.unit.factory.build.test_compare import assert_unchanged, changed, compared
from tests.unit.factory.compiling import assemble, compile_c

from kmend.factory.build.compare import compare
from kmend.factory.build.policy import check_sections
from kmend.factory.build.refusal import RefusalCode
from kmend.factory.build.special import (
    INIT_CODE,
    ORC,
    ORC_IP,
    boot_table,
    boot_time,
    masked,
    never_copied,
    replacement_of,
    table_entries,
    unwind_entries,
)
from kmend.factory.build.unit import Unit
from kmend.factory.elf import ElfError, Relocation, Section, Symbol, read_object
from kmend.factory.elf.constants import R_X86_64_PC32, SHF_ALLOC, STT_SECTION

MACROS = """
extern int outside(int);
extern char key[16];
#define BUG_ENTRY(line, flags) asm volatile("1: ud2\\n.pushsection __bug_table,\\"aw\\"\\n2: .long 1b - ., %c0 - .\\n" \\
	".word " #line ", " #flags "\\n.org 2b + 12\\n.popsection" : : "i"("file.c"))
#define EX_ENTRY(type) asm volatile("1: movl (%0), %%eax\\n2: nop\\n.pushsection __ex_table,\\"a\\"\\n" \\
	".long 1b - ., 2b - .\\n.long " #type "\\n.popsection" : : "r"(0L) : "eax")
#define JUMP(flags) asm goto("1: .byte 0x0f,0x1f,0x44,0x00,0x00\\n.pushsection __jump_table,\\"aw\\"\\n.balign 8\\n" \\
	".long 1b - ., %l[yes] - .\\n.quad key + " #flags " - .\\n.popsection" : : : : yes)
"""


def text(body: str) -> str:
    """A file of two functions, of which one holds the special thing."""
    entry = f"int entry(int n) {{ {body}; return outside(n + 1); yes: return 7; }}\n"
    return f"{MACROS}\nint before(int n) {{ return outside(n); }}\n{entry}"


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        ("BUG_ENTRY(10, 3)", "BUG_ENTRY(11, 3)", False),
        ("BUG_ENTRY(10, 3)", "BUG_ENTRY(10, 1)", True),
        ("EX_ENTRY(3)", "EX_ENTRY(3)", False),
        ("EX_ENTRY(3)", "EX_ENTRY(4)", True),
        ("JUMP(0)", "JUMP(0)", False),
        ("JUMP(0)", "JUMP(2)", True),
        ("JUMP(0)", 'asm goto("1: .byte 0x0f,0x1f,0x44,0x00,0x00" : : : : yes)', True),
    ],
)
def test_entries_are_part_of_the_function(old: str, new: str, differs: bool) -> None:
    found = compared(text(old), text(new))
    assert changed(found) == ({"entry"} if differs else set())
    assert found.refusals == []


def _alternative(feature: int, code: str) -> str:
    """A function with an alternative, `alt_instr` as in Linux 6.1: 12 bytes."""
    return (
        ".text\n.type f,@function\nf: nop\nnop\nnop\n1: .byte 0x0f,0x1f,0x00\n2: ret\n.size f, .-f\n"
        '.section .altinstructions,"a",@progbits\n.long 1b - ., 3f - .\n'
        f'.short {feature}\n.byte 2b - 1b, 4f - 3f\n.section .altinstr_replacement,"ax",@progbits\n3: {code}\n4:\n'
    )


def test_alternatives() -> None:
    content = _alternative(5, "call helper")
    unit = Unit("unit.c", read_object(assemble(content)))
    (function,) = unit.functions
    (entry,) = table_entries(unit)[id(function)]
    assert entry.table == ".altinstructions"
    assert entry.code.target_offset == 3
    replacement = replacement_of(unit, entry)
    assert replacement is not None
    assert replacement.size == 5
    assert [getattr(reference.target, "name", "") for reference in replacement.references] == ["helper"]
    empty = Unit("unit.c", read_object(assemble(_alternative(5, ""))))
    (nothing,) = table_entries(empty)[id(empty.functions[0])]
    assert replacement_of(empty, nothing) is None


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (_alternative(5, "call helper"), False),
        (_alternative(6, "call helper"), True),
        (_alternative(5, "call another"), True),
        (_alternative(5, "nop"), True),
        (_alternative(5, ""), True),
    ],
)
def test_alternatives_are_compared_with_their_replacements(other: str, differs: bool) -> None:
    left, right = (
        Unit("unit.c", read_object(assemble(content))) for content in (_alternative(5, "call helper"), other)
    )
    assert changed(compare(left, right)) == ({"f"} if differs else set())


def test_broken_tables() -> None:
    image = read_object(compile_c(text("BUG_ENTRY(10, 3)")))
    table = image.section("__bug_table")
    assert table is not None
    table.content += b"\0"
    with pytest.raises(ElfError, match="not made of entries of 12 bytes"):
        table_entries(Unit("unit.c", image))
    image = read_object(compile_c(text("BUG_ENTRY(10, 3)")))
    table = image.section("__bug_table")
    assert table is not None
    table.relocations = [relocation for relocation in table.relocations if relocation.offset]
    with pytest.raises(ElfError, match="entry 0 of __bug_table refers to no code"):
        table_entries(Unit("unit.c", image))


def test_the_last_paravirtual_entry_may_lack_its_padding() -> None:
    content = (
        ".text\n.type f,@function\nf: call *target(%rip)\nret\n.size f, .-f\n"
        '.section .parainstructions,"a",@progbits\n.quad f\n.byte 3, 6\n.balign 8\n.quad f+6\n.byte 3, 1\n'
    )
    unit = Unit("unit.c", read_object(assemble(content)))
    entries = table_entries(unit)[id(unit.functions[0])]
    assert [entry.code.target_offset for entry in entries] == [0, 6]
    assert [len(entry.element.content) for entry in entries] == [16, 10]


def _with_unwind(entries: list[tuple[int, bytes]]) -> Unit:
    """Two functions in one section, with ORC entries at these offsets of the section."""
    image = read_object(
        assemble(".text\n.type a,@function\na: .skip 16\n.size a, .-a\n.type b,@function\nb: .skip 32\n.size b, .-b\n")
    )
    code = image.section(".text")
    assert code is not None
    symbol = Symbol(".text", type=STT_SECTION, section=code)
    image.symbols.append(symbol)
    places = Section(ORC_IP, flags=SHF_ALLOC, content=bytes(4 * len(entries)))
    places.relocations = [Relocation(4 * n, R_X86_64_PC32, symbol, offset) for n, (offset, _) in enumerate(entries)]
    image.sections += [places, Section(ORC, flags=SHF_ALLOC, content=b"".join(state for _, state in entries))]
    return Unit("unit.c", image)


def test_unwind_entries_of_one_function() -> None:
    s = [bytes([n] * 6) for n in range(5)]
    unit = _with_unwind([(4, s[1]), (0, s[0]), (20, s[3]), (12, s[2]), (48, s[4])])
    a, b = unit.functions
    assert [(entry.offset, entry.state) for entry in unwind_entries(unit, a)] == [(0, s[0]), (4, s[1]), (12, s[2])]
    found = [(entry.offset, entry.state) for entry in unwind_entries(unit, b)]
    assert found == [(0, s[2]), (4, s[3])], "what held at the predecessor's end still holds at its start"


def test_unwind_entries_that_are_not_there_or_do_not_fit() -> None:
    unit = Unit("unit.c", read_object(compile_c("int f(void) { return 1; }")))
    assert unwind_entries(unit, unit.functions[0]) == []
    broken = _with_unwind([(0, bytes(6)), (4, bytes(5))])
    with pytest.raises(ElfError, match="do not belong together"):
        unwind_entries(broken, broken.functions[0])


def test_a_table_that_nobody_knows() -> None:
    body = 'asm volatile("1: nop\\n.pushsection .secret_table,\\"a\\"\\n.long 1b - .\\n.popsection")'
    found = compared(text(body), text(body + "; outside(9)"))
    assert changed(found) == {"entry"}
    refusals, _ = check_sections(found, [new for _, new in found.changed])
    (refusal,) = refusals
    assert (refusal.code, refusal.symbol, refusal.section) == (RefusalCode.UNKNOWN_SECTION, "entry", ".secret_table")
    untouched, _ = check_sections(found, [])
    assert untouched == []


def test_a_new_export_is_noted() -> None:
    export = 'asm(".section \\"___ksymtab+%s\\",\\"a\\"\\n.long entry - .\\n.previous");\n'
    found = compared(text("outside(3)"), text("outside(3)") + export % "entry")
    _, notes = check_sections(found, [])
    assert notes == ["the new export entry is not exported by the livepatch"]
    assert_unchanged(found)


@pytest.mark.parametrize(
    ("name", "never", "boot", "table"),
    [
        (".text.foo", False, False, False),
        (".data.foo", False, False, False),
        ("___ksymtab_gpl+foo", True, False, False),
        ("__tracepoints", True, False, False),
        (".discard.addressable", True, False, False),
        (".BTF_ids", True, False, False),
        (".orc_unwind_ip", True, False, False),
        (".init.data", False, True, False),
        (".init.text", False, True, False),
        (".init.setup", False, True, True),
        (".initcall6.init", False, True, True),
        ("__param", False, True, True),
        (".exit.text", False, True, False),
        (".pci_fixup_final", False, True, True),
    ],
)
def test_kinds_of_sections(name: str, never: bool, boot: bool, table: bool) -> None:
    assert (never_copied(name), boot_time(name), boot_table(name)) == (never, boot, table)


def test_code_of_the_booting_kernel() -> None:
    for name in (".init.text", ".exit.text", ".meminit.text", ".init.text.unlikely"):
        assert INIT_CODE.match(name)
    for name in (".text.init_module", ".text", ".sched.text"):
        assert not INIT_CODE.match(name)


def test_masking() -> None:
    content = struct.pack("<4I", 1, 2, 3, 4)
    assert masked(content, []) is content
    assert masked(content, [(0, 4), (8, 12)]) == struct.pack("<4I", 0, 2, 0, 4)
    assert masked(content, [(12, 99)]) == struct.pack("<4I", 1, 2, 3, 0)
