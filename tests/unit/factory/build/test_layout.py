"""Layouts of types, taken from debug information and compared."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.factory.compiling import compile_c

from kmend.core.errors import KmendError
from kmend.core.process import Finished
from kmend.factory.build import layout
from kmend.factory.build.layout import Aggregate, BtfError, layout_refusals, read_types
from kmend.factory.build.refusal import Refusal, RefusalCode

TYPES = """
struct later;
struct inner { int a; char b[8]; };
union either { int number; void *pointer; };
enum colour { RED, GREEN = 5 };
typedef struct { unsigned long bits; } flags_t;
typedef int (*callback_t)(struct inner *, int);
struct outer {
	struct inner inner;
	union { long wide; struct { short low, high; }; };
	unsigned one : 1, two : 3;
	const char *const names[3];
	callback_t callback;
	enum colour colour;
	flags_t flags;
	struct outer *next;
	volatile int *counter;
	struct later *later;
};
"""
USE = "union either e; int use(struct outer *o) { e.number = o->inner.a; return o->two + o->colour; }\n"


def types_of(text: str, folder: Path, name: str = "unit") -> dict[str, frozenset[Aggregate]]:
    """The types of a file."""
    path = folder / f"{name}.o"
    path.write_bytes(compile_c(text, "-O2", "-g", "-w"))
    return read_types(path, folder).aggregates


def refusals(old: str, new: str, folder: Path) -> list[Refusal]:
    """What is said of the difference of two files."""
    return layout_refusals("unit.c", types_of(old, folder, "old"), types_of(new, folder, "new"))


def test_what_is_read(tmp_path: Path) -> None:
    found = types_of(TYPES + USE, tmp_path)
    assert {"struct inner", "union either", "enum colour", "typedef flags_t", "struct outer"} <= found.keys()
    (outer,) = found["struct outer"]
    assert outer.size == 104
    assert [(member.name, member.place) for member in outer.members][:4] == [
        ("inner", 0),
        ("", 128),
        ("one", 192 | 1 << 24),
        ("two", 193 | 3 << 24),
    ]
    types = {member.name: member.type for member in outer.members}
    assert types["names"] == "const const const char:1 *[3]", "an array is spelled from its element outwards"
    assert types["next"] == "outer *"
    assert types["counter"] == "volatile int:4 *"
    (colour,) = found["enum colour"]
    assert [(member.name, member.place) for member in colour.members] == [("RED", 0), ("GREEN", 5)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("struct later;", "struct later { int now; };"),
        ("enum colour { RED, GREEN = 5 }", "enum colour { RED, GREEN = 5, BLUE }"),
        ("union either e;", "struct fresh { int a; } f; union either e;"),
        ("return o->two", "struct local { int a, b; } l = { o->two, 1 }; return l.a"),
    ],
    ids=["forward declaration", "enum gains a value", "new struct", "new local struct"],
)
def test_what_is_allowed(old: str, new: str, tmp_path: Path) -> None:
    text = TYPES + USE
    assert old in text
    assert refusals(text, text.replace(old, new), tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "symbol", "said"),
    [
        ("struct inner { int a;", "struct inner { int a, c;", "inner", "struct inner changes: from 12 to 16 bytes"),
        ("struct inner { int a; char b[8];", "struct inner { char b[8]; int a;", "inner", "member a (int:4, at bit 0) becomes b"),
        ("struct inner { int a;", "struct inner { unsigned a;", "inner", "member a (int:4, at bit 0) becomes a (unsigned int:4"),
        ("char b[8]; };", "char b[6]; short c; };", "inner", "member b (char:1[8], at bit 32) becomes b (char:1[6]"),
        ("{ int number;", "{ long number;", "either", "union either changes: member number (int:4"),
        ("{ RED, GREEN = 5 }", "{ RED, GREEN = 6 }", "colour", "enum colour changes: value GREEN = 5 becomes GREEN = 6"),
        ("{ RED, GREEN = 5 }", "{ RED, YELLOW, GREEN = 5 }", "", ""),
        ("{ RED, GREEN = 5 }", "{ RED }", "colour", "from 2 to 1 members"),
        ("short low, high", "short high, low", "outer", "struct outer changes"),
        ("one : 1, two : 3", "one : 2, two : 3", "outer", "member one"),
        ("volatile int *counter", "int *counter", "outer", "member counter (volatile int:4 *"),
        ("{ unsigned long bits; } flags_t", "{ unsigned int bits, more; } flags_t", "flags_t", "typedef flags_t changes"),
        ("names[3]", "names[4]", "outer", "from 104 to 112 bytes"),
        ("(struct inner *, int)", "(struct inner *, long)", "callback_t", "typedef callback_t changes: from int:4 ("),
    ],
)  # fmt: skip
def test_what_is_refused(old: str, new: str, symbol: str, said: str, tmp_path: Path) -> None:
    text = TYPES + USE
    assert old in text
    found = refusals(text, text.replace(old, new), tmp_path)
    if not symbol:
        assert found == [], "a value between others that keeps the rest is a gain"
        return
    refusal = next(refusal for refusal in found if refusal.symbol == symbol)
    assert refusal.code is RefusalCode.STRUCT_LAYOUT
    assert said in refusal.message
    assert "klp_shadow_get_or_alloc" in refusal.hint
    assert refusal.file == "unit.c"


def test_types_that_double_at_every_level_stay_short(tmp_path: Path) -> None:
    text = "struct { int a, b; } v1;\n" + "".join(
        f"struct {{ __typeof__(v{n}) *a, *b; }} v{n + 1};\n" for n in range(1, 60)
    )
    found = types_of(f"{text}struct holder {{ __typeof__(v60) *last; }} holder;\n", tmp_path)
    (holder,) = found["struct holder"]
    assert len(holder.members[0].type) < 10_000


def test_two_local_types_of_one_name(tmp_path: Path) -> None:
    text = (
        "int f(int n) { struct it { int a; } i = { n }; return i.a; }\n"
        "int g(int n) { struct it { long b; } i = { n }; return i.b; }\n"
    )
    assert len(types_of(text, tmp_path)["struct it"]) == 2
    assert refusals(text, f"int h;\n{text}", tmp_path) == []
    (refusal,) = refusals(text, text.replace("long b", "long b, c"), tmp_path)
    assert refusal.symbol == "it"


def _raw(name: int, info: int, size: int) -> bytes:
    """Three numbers: a type's entry, or a member's."""
    return struct.pack("<III", name, info, size)


def _btf(types: bytes, strings: bytes) -> bytes:
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return header + types + strings


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x9f\xeb" + bytes(40),
        struct.pack("<HBBIIIII", 0xEB9F, 2, 0, 24, 0, 0, 0, 0),
        _btf(_raw(1, 30 << 24, 0), b"\0a\0"),
        _btf(_raw(1, 4 << 24 | 9, 4), b"\0a\0"),
        _btf(_raw(99, 4 << 24, 4), b"\0a\0"),
        _btf(_raw(0, 4 << 24 | 1, 4) + _raw(1, 1, 0) + _raw(1, 8 << 24, 1), b"\0a\0"),
        _btf(b"".join(_raw(0, 2 << 24, n + 2) for n in range(100)) + _raw(1, 8 << 24, 1), b"\0a\0"),
    ],
)  # fmt: skip
def test_damaged_types(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BtfError):
        _read(content, tmp_path, monkeypatch)


def _read(content: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, frozenset[Aggregate]]:
    """Read types as if pahole had written these bytes."""

    def pahole(command: list[object], timeout: float) -> Finished:
        (folder / "unit.o.btf").write_bytes(content)
        return Finished(0, b"", b"")

    monkeypatch.setattr(layout, "run", pahole)
    return read_types(folder / "unit.o", folder).aggregates


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What pahole makes of the types above."""
    folder = tmp_path_factory.mktemp("blob")
    types_of(TYPES + USE, folder)
    return (folder / "unit.o.btf").read_bytes()


@given(st.data())
def test_any_damage_is_told_as_such(blob: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(blob)
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(blob) - 1), st.integers(0, 255)), max_size=6)):
        content[at] = value
    with pytest.MonkeyPatch.context() as patched:
        length = data.draw(st.integers(0, len(blob)))
        with contextlib.suppress(KmendError):
            _read(bytes(content[:length]), tmp_path_factory.getbasetemp(), patched)
