"""Which of several blocks of local symbols is a file's, when files share a name."""

from __future__ import annotations

from tests.unit.factory.compiling import compile_c

from kmend.factory.build.unit import Unit
from kmend.factory.build.verify import best_blocks
from kmend.factory.elf import read_object


def _unit(text: str) -> Unit:
    return Unit("match.c", read_object(compile_c(text)))


def test_a_file_without_local_symbols_fits_any_block() -> None:
    blocks = [{"one": 1}, {"two": 2}, {}]
    assert len(best_blocks(_unit("int f(void) { return 1; }"), blocks)) == 1
    assert best_blocks(_unit("int f(void) { return 1; }"), []) == []


def test_objects_decide_where_functions_do_not() -> None:
    unit = _unit("static int mine[2]; static int also; int *f(int n) { return n ? &mine[n] : &also; }")
    right = {"mine": 1, "also": 2, "more": 3}
    assert best_blocks(unit, [{"other": 1}, right, {"mine": 4}]) == [right]
    assert len(best_blocks(unit, [right, dict(right)])) == 2
