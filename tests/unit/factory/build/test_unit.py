"""A compiled file cut into elements along its symbols."""

from __future__ import annotations

import pytest
from tests.unit.factory.compiling import assemble, compile_c

from kmend.factory.build.unit import Element, External, Kind, Unit, is_branch
from kmend.factory.elf import ElfError, read_object
from kmend.factory.elf.constants import STB_GLOBAL, STB_LOCAL, STB_WEAK


def unit_of(text: str) -> Unit:
    """A unit of C."""
    return Unit("unit.c", read_object(compile_c(text)))


def element(unit: Unit, name: str) -> Element:
    """The element of that name."""
    (found,) = [one for one in unit.elements if name in one.names]
    return found


def test_kinds_and_bindings() -> None:
    unit = unit_of(
        "static int quiet; int loud = 4; __attribute__((weak)) int soft(void) { return 1; }\n"
        "__attribute__((noinline)) static int inner(void) { return quiet++; } int outer(void) { return inner() + soft() + loud; }"
    )
    assert {one.name: (one.kind, one.bind) for one in unit.elements} == {
        "quiet": (Kind.OBJECT, STB_LOCAL),
        "loud": (Kind.OBJECT, STB_GLOBAL),
        "soft": (Kind.FUNCTION, STB_WEAK),
        "inner": (Kind.FUNCTION, STB_LOCAL),
        "outer": (Kind.FUNCTION, STB_GLOBAL),
    }
    assert element(unit, "quiet").content == bytes(4)
    assert element(unit, "soft").is_global
    assert {one.name for one in unit.functions} == {"soft", "inner", "outer"}
    calls = [r for r in element(unit, "outer").references if is_branch(element(unit, "outer"), r)]
    assert [r.target.name for r in calls] == ["inner", "soft"]


def test_aliases_are_one_element() -> None:
    unit = unit_of('int real(void) { return 1; } int other(void) __attribute__((alias("real")));')
    (function,) = unit.functions
    assert set(function.names) == {"real", "other"}


def test_a_section_of_many_symbols_is_cut_along_them() -> None:
    unit = unit_of(
        '__attribute__((section(".data..read_mostly"))) int a = 1, b = 2;\n'
        "int *one(void) { return &a; }\nint *two(void) { return &b; }\nint get(void) { return a + b; }"
    )
    references = element(unit, "get").references
    assert {r.target.name for r in references if isinstance(r.target, Element)} == {"a", "b"}
    assert all(r.target_offset == 0 for r in references if r.target.name in ("a", "b"))


def test_strings_and_constants() -> None:
    unit = unit_of(
        'extern int outside(const char *, const char *);\nint entry(void) { return outside("tail", "head"); }'
    )
    strings = [r.target for r in element(unit, "entry").references if isinstance(r.target, Element)]
    assert {(one.kind, one.content) for one in strings} == {(Kind.STRING, b"tail\0"), (Kind.STRING, b"head\0")}
    again = [r.target for r in element(unit, "entry").references if isinstance(r.target, Element)]
    assert [id(one) for one in again] == [id(one) for one in strings]


def test_an_address_at_the_end_of_an_object_is_still_its_own() -> None:
    """The bound of a loop over an array points just past it, where another object may lie."""
    content = (
        ".data\n.type a,@object\na: .skip 16\n.size a, 16\n.skip 8\n.type b,@object\nb: .skip 8\n.size b, 8\n"
        ".text\n.type f,@function\nf: lea a+16(%rip), %rax\nlea b+8(%rip), %rdx\nlea b(%rip), %rcx\nret\n.size f, .-f\n"
    )
    unit = Unit("unit.c", read_object(assemble(content)))
    found = [(r.target.name, r.target_offset) for r in unit.functions[0].references]
    assert found == [("a", 16), ("b", 8), ("b", 0)]
    data = unit.image.section(".data")
    assert data is not None
    gap, inside = unit.element_at(data, 20)
    assert (gap.kind, gap.name, gap.start, gap.size, inside) == (Kind.CONSTANT, "", 16, 8, 4)
    assert unit.element_at(data, 18)[0] is gap


def test_a_named_symbol_is_meant_however_far_the_addend_leads() -> None:
    content = (
        ".data\n.type before,@object\nbefore: .skip 16\n.size before, 16\n"
        ".globl table\n.type table,@object\ntable: .skip 16\n.size table, 16\n"
        ".text\n.type f,@function\nf: mov table-4000(,%rdi,4), %eax\nret\n.size f, .-f\n"
    )
    (reference,) = Unit("unit.c", read_object(assemble(content))).functions[0].references
    assert isinstance(reference.target, Element)
    assert (reference.target.name, reference.target_offset, reference.addend) == ("table", -4000, -4000)


def test_symbols_of_other_files() -> None:
    unit = unit_of(
        "extern int there; extern int maybe(void) __attribute__((weak));\nint get(void) { return there + (maybe ? maybe() : 0); }"
    )
    assert {r.target for r in element(unit, "get").references} == {External("there"), External("maybe", weak=True)}


def test_a_string_without_an_end() -> None:
    unit = unit_of('extern int outside(const char *);\nint entry(void) { return outside("text"); }')
    section = next(one for one in unit.image.sections if one.strings)
    section.content = section.content.rstrip(b"\0")
    with pytest.raises(ElfError, match="is not to a string"):
        Unit("unit.c", unit.image)
