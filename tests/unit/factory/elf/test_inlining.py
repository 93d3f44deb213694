"""Which functions the compiler put into which, as the debug information says."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.factory.compiling import compile_c

from kmend.factory.elf.inlining import Inlining, read_inlining
from kmend.factory.elf.objects import ElfError
from kmend.factory.elf.reader import read_object

TEXT = """
struct big { int a[4]; struct { long b; } inner; };
extern int outside(int);
static inline int unused(int n) { return outside(n); }
static inline int leaf(int n) { return outside(n) + 1; }
static inline int middle(struct big *b) { return leaf(b->a[0]) + 1; }
static __attribute__((noinline)) int apart(int n) { return outside(n * 2); }
int user(struct big *b) { int n = b->a[1]; { int k = n; if (k) n += middle(b); } return n; }
int other(struct big *b) { return apart(b->a[2]) + leaf(1); }
int plain(int n) { return n + 1; }
"""
FLAGS = ("-O2", "-ffunction-sections", "-w", "-fno-pic")


@pytest.mark.parametrize("version", ["-gdwarf-4", "-gdwarf-5"])
def test_what_went_where(version: str) -> None:
    found = read_inlining(compile_c(TEXT, *FLAGS, version))
    assert found.inlined["user"] == {"middle", "leaf"}
    assert found.inlined["other"] == {"leaf"}
    assert found.inlined["plain"] == frozenset()
    assert "apart" in found.inlined, "it has code of its own"
    assert found.holders("leaf") == {"user", "other"}
    assert found.holders("apart") == frozenset()
    assert {"user", "other", "plain", "leaf", "middle", "apart"} <= found.known
    assert "unused" not in found.known
    assert "leaf" not in found.inlined


def test_parts_and_clones_belong_to_their_function() -> None:
    text = """
    extern void report(int) __attribute__((cold)); extern int outside(int);
    int work(int n) { if (n < 0) { report(n); report(n + 1); } return outside(n); }
    """
    content = compile_c(text, *FLAGS, "-g")
    assert any(symbol.name.startswith("work.cold") for symbol in read_object(content).symbols)
    assert read_inlining(content).inlined.keys() == {"work"}


def test_without_debug_information() -> None:
    assert read_inlining(compile_c(TEXT, *FLAGS)) == Inlining({}, frozenset())


def test_no_object() -> None:
    with pytest.raises(ElfError):
        read_inlining(b"nothing")


OBJECT = compile_c(TEXT, *FLAGS, "-g")


@given(st.data())
def test_any_damage_is_told_as_such(data: st.DataObject) -> None:
    content = bytearray(OBJECT)
    for at, value in data.draw(st.lists(st.tuples(st.integers(64, len(content) - 1), st.integers(0, 255)), max_size=8)):
        content[at] = value
    with contextlib.suppress(ElfError):
        read_inlining(bytes(content))
