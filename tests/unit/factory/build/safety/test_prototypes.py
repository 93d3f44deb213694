"""Prototypes, taken from debug information and compared; who holds a function's address."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.factory.compiling import compile_c

from kmend.factory.build.layout import Prototype, read_types
from kmend.factory.build.safety.prototypes import address_takers, difference
from kmend.factory.build.unit import Unit
from kmend.factory.elf import read_object

HEAD = """
typedef unsigned int u32; typedef int s32; typedef _Bool bool; enum e { A, B }; enum f { C, D };
struct one { int a; }; struct two { long a, b; }; typedef struct one one_t; struct later;
"""


def prototype(declaration: str, folder: Path, name: str = "unit") -> Prototype:
    """The prototype of `f`, as the debug information has it."""
    path = folder / f"{name}.o"
    end = "{}" if declaration.startswith("void") else "{ for (;;) ; }"
    path.write_bytes(compile_c(f"{HEAD}{declaration} {end}\n", "-O2", "-g", "-w"))
    return read_types(path, folder).prototypes["f"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("int f(int a)", "unsigned f(u32 b)"),
        ("int f(enum e a)", "s32 f(enum f a)"),
        ("int f(struct one *a)", "int f(const one_t *const a)"),
        ("int f(void *a)", "int f(struct one *a)"),
        ("int f(char *a)", "int f(void *a)"),
        ("void f(int a)", "int f(int a)"),
        ("int f(struct later *a)", "int f(const struct later *a)"),
        ("int f(int (*a)(int))", "int f(int (*b)(int))"),
        ("int f(int a, ...)", "int f(int a, ...)"),
        ("static __attribute__((used, noinline)) int f(int a)", "int f(int a)"),
    ],
)
def test_what_agrees(old: str, new: str, tmp_path: Path) -> None:
    assert difference(prototype(old, tmp_path, "old"), prototype(new, tmp_path, "new")) == ""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("int f(int a)", "int f(int a, int b)", "from 1 to 2 parameters"),
        ("int f(int a, int b)", "int f(int a)", "from 2 to 1 parameters"),
        ("int f(int a)", "int f(long a)", "parameter 1 from int:4 to long int:8"),
        ("int f(int a)", "int f(bool a)", "parameter 1 from int:4 to bool"),
        ("int f(struct one *a)", "int f(struct two *a)", "parameter 1 from one * to two *"),
        ("int f(struct one *a)", "int f(struct one **a)", "parameter 1 from one * to one * *"),
        ("int f(struct one a)", "int f(struct two a)", "parameter 1 from one to two"),
        ("int f(int a)", "int f(void *a)", "parameter 1 from int:4 to void *"),
        ("int f(int a)", "void f(int a)", "its result from int:4 to void"),
        ("int f(int a)", "long f(int a)", "its result from int:4 to long int:8"),
        ("int f(int a, int b)", "int f(int a, ...)", "parameter 2 from int:4 to ..."),
        ("int f(int (*a)(int))", "int f(int (*a)(long))", "parameter 1 from"),
    ],
)
def test_what_differs(old: str, new: str, told: str, tmp_path: Path) -> None:
    assert difference(prototype(old, tmp_path, "old"), prototype(new, tmp_path, "new")).startswith(told)


def test_who_holds_an_address() -> None:
    text = """
    struct ops { int (*run)(int); };
    extern void later(void *);
    __attribute__((noinline)) static int run(int n) { asm volatile(""); return n; }
    __attribute__((noinline)) static int called(int n) { asm volatile("nop"); return n; }
    const struct ops table = { run };
    void hand_out(void) { later(run); }
    int caller(int n) { return run(n) + called(n); }
    """
    unit = Unit("unit.c", read_object(compile_c(text)))
    functions = {element.name: element for element in unit.functions}
    assert sorted(address_takers(unit, functions["run"])) == ["hand_out", "table"]
    assert list(address_takers(unit, functions["called"])) == []
