"""Two builds of a few lines of C, compared symbol by symbol."""

from __future__ import annotations

import pytest
from tests.unit.factory.compiling import compile_c

from kmend.factory.build.compare import Comparison, base_name, compare, parent_name
from kmend.factory.build.refusal import RefusalCode
from kmend.factory.build.unit import Unit
from kmend.factory.elf import read_object


def compared(old: str, new: str) -> Comparison:
    """The comparison of two texts."""
    left, right = (Unit("unit.c", read_object(compile_c(text))) for text in (old, new))
    return compare(left, right)


def changed(comparison: Comparison) -> set[str]:
    """Names of the functions that differ."""
    return {old.name for old, _ in comparison.changed}


def codes(comparison: Comparison) -> list[tuple[str, str]]:
    """(code, symbol) of the refusals."""
    return [(refusal.code.value, refusal.symbol) for refusal in comparison.refusals]


def assert_unchanged(comparison: Comparison) -> None:
    """Nothing is different."""
    assert (changed(comparison), comparison.added, comparison.removed, comparison.refusals) == (set(), [], [], [])
    assert comparison.new_objects == []


PLAIN = """
extern int outside(const char *, int);
static int limit = 5;
static const int table[] = { 1, 2, 3 };
__attribute__((noinline)) static int inner(int n) { return outside("inner", n) + limit; }
int entry(int n) { return n ? inner(n) : table[n & 1] + limit++; }
int other(int n) { return outside("other", n) + table[n & 1]; }
"""


def test_the_same_text() -> None:
    assert_unchanged(compared(PLAIN, PLAIN))
    assert_unchanged(compared(PLAIN, f"\n\n/* comment */\nstruct unused;\n{PLAIN}"))


def test_a_changed_body() -> None:
    found = compared(PLAIN, PLAIN.replace("n ? inner", "n > 1 ? inner"))
    assert changed(found) == {"entry"}
    assert found.refusals == []


def test_a_changed_string_is_a_changed_function() -> None:
    found = compared(PLAIN, PLAIN.replace('"inner"', '"longer"'))
    assert changed(found) == {"inner"}
    assert found.refusals == []


def test_another_callee_and_another_argument() -> None:
    assert changed(compared(PLAIN, PLAIN.replace('outside("other", n)', "inner(n)"))) == {"other"}
    assert changed(compared(PLAIN, PLAIN.replace("+ limit++", "+ limit--"))) == {"entry"}


def test_a_new_function_and_one_that_is_gone() -> None:
    found = compared(PLAIN, PLAIN.replace("inner", "renamed").replace('"renamed"', '"inner"'))
    assert changed(found) == {"entry"}
    assert [element.name for element in found.added] == ["renamed"]
    assert found.removed == ["inner"]


def test_order_does_not_matter() -> None:
    lines = PLAIN.strip().splitlines()
    assert_unchanged(compared(PLAIN, "\n".join([*lines[:4], lines[5], lines[4]])))


def test_a_function_that_only_moves_to_another_section_is_the_same() -> None:
    moved = PLAIN.replace("int other(int n) {", '__attribute__((section(".text.unlikely"))) int other(int n) {')
    assert_unchanged(compared(PLAIN, moved))


def test_a_function_made_global_is_still_the_same() -> None:
    old = (
        "extern int outside(int);\n__attribute__((noinline)) static int inner(int n) { return outside(n); }\n"
        "int entry(int n) { return inner(n + 1); }"
    )
    found = compared(old, old.replace("static ", ""))
    assert found.added == []
    assert found.removed == []


@pytest.mark.parametrize(
    ("old", "new", "symbol"),
    [
        ("static int limit = 5", "static int limit = 6", "limit"),
        ("{ 1, 2, 3 }", "{ 1, 2, 4 }", "table"),
        ("{ 1, 2, 3 }", "{ 1, 2, 3, 4 }", "table"),
    ],
)
def test_changed_data(old: str, new: str, symbol: str) -> None:
    found = compared(PLAIN, PLAIN.replace(old, new))
    assert codes(found) == [("changed-data", symbol)]
    (refusal,) = found.refusals
    assert (refusal.file, refusal.section) == ("unit.c", f".{'data' if symbol == 'limit' else 'rodata'}.{symbol}")


def test_a_changed_pointer_in_data() -> None:
    old = (
        "int one(void) { return 1; } int two(void) { return 2; }\nstruct ops { int (*f)(void); const char *n; };\n"
        'const struct ops ops = { one, "x" };'
    )
    assert codes(compared(old, old.replace("{ one,", "{ two,"))) == [("changed-data", "ops")]
    assert codes(compared(old, old.replace('"x"', '"y"'))) == [("changed-data", "ops")]


def test_data_made_global_is_the_same_object() -> None:
    """Were it taken for a new one, the livepatch would bring a copy of the kernel's state."""
    assert_unchanged(compared(PLAIN, PLAIN.replace("static int limit", "int limit")))


PER_CPU = '__attribute__((section(".data..percpu")))'


def test_data_that_becomes_per_cpu_is_another_object() -> None:
    """The code that uses it may be the same, byte for byte."""
    found = compared(PLAIN, PLAIN.replace("static int limit", f"static {PER_CPU} int limit"))
    assert codes(found) == [("changed-data", "limit")]
    assert "another kind of memory" in found.refusals[0].message
    local = "int entry(void) {{ static {0} int count; return ++count; }}"
    assert [code for code, _ in codes(compared(local.format(""), local.format(PER_CPU)))] == ["static-local"]


def test_new_data() -> None:
    text = PLAIN.replace("int other(int n) {", "int fresh = 3;\nint other(int n) { fresh++;")
    found = compared(PLAIN, text)
    assert changed(found) == {"other"}
    assert [element.name for element in found.new_objects] == ["fresh"]
    assert found.refusals == []


LOCALS = """
int first(void) { static int count; return count++; }
int second(void) { static int count; static char name[8]; name[0]++; return count += 2; }
"""


def test_static_locals_are_found_again_when_they_are_renumbered() -> None:
    found = compared(LOCALS, f"int zeroth(void) {{ static int count; return count += 3; }}\n{LOCALS}")
    assert changed(found) == set()
    assert found.refusals == []
    (fresh,) = found.new_objects
    (zeroth,) = found.added
    assert zeroth.references[0].target is fresh
    names = {old.name: new.name for old in found.original.objects if (new := found.patched_of.get(id(old)))}
    assert set(names) == {element.name for element in found.original.objects}


def test_static_locals_of_a_changed_function_are_found_again() -> None:
    new = LOCALS.replace("return count += 2", "static const short table[] = { 7, 9 }; return count += table[count & 1]")
    found = compared(LOCALS, new)
    assert changed(found) == {"second"}
    assert found.refusals == []
    assert [base_name(element.name) for element in found.new_objects] == ["table"]


def test_a_static_local_that_cannot_be_found_again() -> None:
    found = compared(LOCALS, LOCALS.replace("static int count; static", "static long count; static"))
    assert [(code, base_name(symbol)) for code, symbol in codes(found)] == [("static-local", "count")]
    assert "split its state" in found.refusals[0].message
    found = compared(
        LOCALS, LOCALS.replace("int first(void) { static int count;", "int first(void) { static short count;")
    )
    assert {refusal.code for refusal in found.refusals} == {RefusalCode.STATIC_LOCAL}


def test_a_static_local_no_longer_used_is_nothing_new() -> None:
    found = compared(LOCALS, LOCALS.replace("name[0]++; ", ""))
    assert changed(found) == {"second"}
    assert found.refusals == []


COLD = """
extern void complain(const char *, int) __attribute__((cold));
extern int outside(int);
int entry(int n) {
	if (__builtin_expect(n < 0, 0)) { complain("negative", n); complain("again", n + 1); n = outside(n); }
	return outside(n) + 1;
}
int other(int n) { return outside(n) + 3; }
"""


@pytest.mark.parametrize(
    ("old", "new"), [('"again"', '"twice"'), ("outside(n) + 1", "outside(n) + 2")], ids=["cold", "hot"]
)
def test_a_function_and_its_cold_part_change_together(old: str, new: str) -> None:
    found = compared(COLD, COLD.replace(old, new))
    assert changed(found) == {"entry", "entry.cold"}
    assert found.added == []
    assert {parent_name(name) for name in changed(found)} == {None, "entry"}


def test_a_cold_part_that_comes_and_goes() -> None:
    without = COLD.replace("__attribute__((cold))", "").replace("__builtin_expect(n < 0, 0)", "n < 0")
    found = compared(without, COLD)
    assert changed(found) == {"entry"}
    assert [element.name for element in found.added] == ["entry.cold"]
    back = compared(COLD, without)
    assert changed(back) == {"entry"}
    assert back.removed == ["entry.cold"]


CLONES = """
extern int outside(int, int);
struct pair { int a, b; };
static __attribute__((noinline)) int isra(struct pair *p, int n) { return outside(p->a, n) + n; }
static __attribute__((noinline)) int constprop(int n, int mode) { return outside(n, mode) + outside(mode, n) * mode; }
int entry(struct pair *p) { return isra(p, p->b) + constprop(p->a, 7); }
int again(struct pair *p, int n) { return isra(p, n) + constprop(n, 7); }
"""


def test_clones_are_matched_by_their_class() -> None:
    names = {element.name for element in compared(CLONES, CLONES).original.functions}
    assert any(name.startswith("isra.isra.") for name in names)
    assert any(name.startswith("constprop.constprop.") for name in names)
    assert_unchanged(compared(CLONES, CLONES))
    found = compared(CLONES, CLONES.replace("outside(p->a, n) + n", "outside(p->a, n) - n"))
    assert {base_name(name) for name in changed(found)} == {"isra.isra"}


def test_a_clone_of_another_class_is_another_function() -> None:
    found = compared(CLONES, CLONES.replace("constprop(n, 7)", "constprop(n, 8)"))
    assert any(name.startswith("constprop.constprop") for name in found.removed)
    assert "constprop" in {element.name.partition(".")[0] for element in found.added}
    assert {"entry", "again"} <= changed(found)


WITHOUT_IDENTITY = """
extern int outside(const char *, int);
int entry(int n) {
	static _Bool __already_done __attribute__((section(".data.once")));
	if (!__already_done) { __already_done = 1; outside(__func__, 1); }
	switch (n) { case 1: return 31; case 2: return 77; case 3: return 5; case 4: return 18; case 5: return 99; case 6: return 3; }
	return 0;
}
"""


def test_what_has_no_identity_counts_by_its_content() -> None:
    names = {base_name(element.name) for element in compared(WITHOUT_IDENTITY, WITHOUT_IDENTITY).original.objects}
    assert {"__func__", "__already_done", "CSWTCH"} <= names
    assert_unchanged(compared(WITHOUT_IDENTITY, WITHOUT_IDENTITY))
    shifted = compared(
        WITHOUT_IDENTITY,
        f"int fresh(int n) {{ static int __already_done; return __already_done++ + n; }}\n{WITHOUT_IDENTITY}",
    )
    assert changed(shifted) == set()
    assert shifted.refusals == []
    found = compared(WITHOUT_IDENTITY, WITHOUT_IDENTITY.replace("return 99", "return 98"))
    assert changed(found) == {"entry"}, "a table that the compiler made is part of the function"
    assert found.refusals == []
    renamed = compared(WITHOUT_IDENTITY, WITHOUT_IDENTITY.replace("__func__", '"a string"'))
    assert changed(renamed) == {"entry"}


def test_recursion_and_cycles_come_to_an_end() -> None:
    text = (
        "int odd(int);\n__attribute__((noinline)) int even(int n) { return n ? odd(n - 1) + 1 : 1; }\n"
        "__attribute__((noinline)) int odd(int n) { return n ? even(n - 1) * 3 : 0; }\n"
        "struct node { struct node *next; int n; };\nstruct node b;\nstruct node a = { &b, 1 };\nstruct node b = { &a, 2 };"
    )
    assert_unchanged(compared(text, text))
    assert changed(compared(text, text.replace("* 3", "* 5"))) == {"odd"}


def test_tables_of_the_booting_kernel() -> None:
    table = 'int (*%s)(void) __attribute__((section(".initcall6.init"), used)) = start;\n'
    text = "int start(void) { return 0; }\n" + table % "first"
    assert_unchanged(compared(text, text))
    more = text + table % "second"
    (refusal,) = compared(text, more).refusals
    assert (refusal.code, refusal.section) == (RefusalCode.BOOT_TABLE, ".initcall6.init")
    assert "gains entries" in refusal.message
    assert "loses entries" in compared(more, text).refusals[0].message
    parameter = 'int level __attribute__((section(".init.data"))) = 3;\nint get(void) { return level; }'
    (refusal,) = compared(parameter, parameter.replace("3", "4")).refusals
    assert (refusal.code, refusal.symbol) == (RefusalCode.BOOT_TABLE, "level")


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("foo", "foo"),
        ("foo.3", "foo"),
        ("foo.isra.0", "foo.isra"),
        ("foo.constprop.12", "foo.constprop"),
        ("foo.part.0", "foo.part"),
        ("foo.part.0.cold", "foo.part.cold"),
        ("foo.cold", "foo.cold"),
        ("foo.isra.0.cold.7", "foo.isra.cold"),
        ("__UNIQUE_ID_ddebug123.4", "__UNIQUE_ID_ddebug"),
        ("__BTF_ID__struct__sock__571", "__BTF_ID__struct__sock__"),
        ("v2_of_it_3", "v2_of_it_3"),
    ],
)
def test_names_by_class(name: str, base: str) -> None:
    assert base_name(name) == base


def test_parents_of_cold_parts() -> None:
    assert parent_name("foo.isra.0.cold") == "foo.isra.0"
    assert parent_name("foo.cold.3") == "foo"
    assert parent_name("coldfoo") is None


NESTED = """
struct route { int to; int *from; };
struct routes { const char *name; struct route *list; };
struct routes known = { "a", (struct route[]){
    { 1, (int[]){ 10, 11, 0 } }, { 2, (int[]){ 20, 21, 0 } }, { 3, (int[]){ 30, 31, 0 } }, { 0 } } };
"""


def test_unnamed_objects_that_only_unnamed_objects_lead_to() -> None:
    assert_unchanged(compared(NESTED, f"struct unused;\n{NESTED}"))
    found = compared(NESTED, NESTED.replace("21", "22"))
    assert [code for code, _ in codes(found)] == ["changed-data"]
