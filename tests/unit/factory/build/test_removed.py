"""Functions that a fix takes away."""

from __future__ import annotations

from tests.unit.factory.compiling import compile_c

from kmend.factory.build.compare import compare
from kmend.factory.build.refusal import Refusal, RefusalCode
from kmend.factory.build.removed import removed_functions
from kmend.factory.build.unit import Unit
from kmend.factory.elf import read_object

_EXPORT = 'asm(".pushsection ___ksymtab_gpl+{0}, \\"a\\"\\n__ksymtab_{0}: .long {0} - .\\n.popsection\\n");\n'
"""As EXPORT_SYMBOL_GPL does."""
TEXT = """
extern int outside(int);
__attribute__((noinline)) static int quiet(int n) { return outside(n) + 1; }
int shared(int n) { return outside(n) + 2; }
int offered(int n) { return outside(n) + 3; }
int stays(int n) { return quiet(n) + 4; }
""" + _EXPORT.format("offered")
OFFERED = "int offered(int n) { return outside(n) + 3; }\n"


def removed(new: str) -> tuple[list[Refusal], list[str]]:
    """What is said when TEXT becomes `new`."""
    left, right = (Unit("unit.c", read_object(compile_c(text))) for text in (TEXT, new))
    return removed_functions(compare(left, right))


def test_nothing_removed() -> None:
    assert removed(TEXT) == ([], [])
    assert removed(TEXT.replace("+ 3", "+ 33")) == ([], [])


def test_an_exported_function() -> None:
    (refusal,), notes = removed(TEXT.replace(OFFERED, "").replace(_EXPORT.format("offered"), ""))
    assert notes == []
    assert (refusal.code, refusal.symbol, refusal.file) == (RefusalCode.REMOVED_EXPORT, "offered", "unit.c")
    assert refusal.section == ".text.offered"
    assert refusal.offset == 0
    assert "Kmend-Allow: removed-export offered" in refusal.hint


def test_a_function_that_other_files_may_call() -> None:
    refusals, (note,) = removed(TEXT.replace("int shared(int n) { return outside(n) + 2; }\n", ""))
    assert refusals == []
    assert "no longer has shared" in note


def test_a_function_of_the_file_alone_does_not_matter() -> None:
    gone = TEXT.replace("__attribute__((noinline)) static int quiet(int n) { return outside(n) + 1; }\n", "")
    assert removed(gone.replace("quiet(n)", "outside(n)")) == ([], [])


def test_one_that_is_only_made_static_is_still_there() -> None:
    assert removed(TEXT.replace("int shared(", "__attribute__((used)) static int shared(")) == ([], [])


def test_an_export_that_is_dropped() -> None:
    refusals, (note,) = removed(TEXT.replace(_EXPORT.format("offered"), ""))
    assert refusals == []
    assert "offered is no longer exported" in note
