"""The fix that adds a line, the draw, and the evidence for what differs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.factory.compiling import compile_c

from kmend.factory.build.unit import Element, Unit
from kmend.factory.elf import read_object
from kmend.factory.fixes import apply_series, with_line_directives
from kmend.factory.survey.selfcheck import LINE, draw, first_difference, line_more


@given(
    st.lists(st.sampled_from([b"int a;", b"", b"/* x", b"*/", b"\x0c\xff", b"-- a"]), min_size=1, max_size=8),
    st.booleans(),
)
def test_the_fix_adds_the_line_and_nothing_else(lines: list[bytes], ended: bool) -> None:
    content = b"\n".join(lines) + (b"\n" if ended else b"")
    if not content:
        return
    (applied,) = apply_series(lambda path: content, [line_more("a/b.c", content)]).values()
    assert applied.path == "a/b.c"
    assert applied.patched == LINE + b"\n" + content
    assert with_line_directives(applied).startswith(LINE + b"\n#line 1\n")


def test_the_draw_follows_from_the_seed() -> None:
    paths = [f"dir/file{n}.c" for n in range(200)]
    drawn = draw(paths, 50, 3)
    assert len(set(drawn)) == 50
    assert drawn == draw(list(reversed(paths)), 50, 3)
    assert drawn != draw(paths, 50, 4)
    assert draw(paths[1:], 50, 3)[:40] == tuple(path for path in drawn if path != paths[0])[:40]


def _function(text: str) -> Element:
    (found,) = [f for f in Unit("a.c", read_object(compile_c(text))).functions if f.name == "f"]
    return found


@pytest.mark.parametrize(
    ("other", "offset", "told"),
    [
        ("int g(int); int h(int); int f(int x) { return g(x) + 2; }", True, "bytes "),
        ("int g(int); int h(int); int f(int x) { return h(x) + 1; }", True, "g+0x0 against h+0x0"),
        ("int g(int); int h(int); int f(int x) { return g(x) + h(x) + g(3) * h(7); }", True, "bytes against"),
        ("int g(int); int h(int); int f(int x) { return g(x) + 1; }", False, "an entry of a table"),
    ],
)
def test_where_two_versions_differ(other: str, offset: bool, told: str) -> None:
    found, message = first_difference(
        _function("int g(int); int h(int); int f(int x) { return g(x) + 1; }"), _function(other)
    )
    assert (found >= 0) == offset
    assert told in message
