"""Any choice of changes makes a patch that applies to the old file alone; all of them give the new file."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kmend.factory.derive import compare
from kmend.factory.derive.difference import Change, hunks
from kmend.factory.fixes import apply_series, parse_fix

OLD = b"""\
static int first(void)
{
	one();
	two();
	return 0;
}

static int second(void)
{
	return 1;
}
"""


def patched(old: bytes, new: bytes, changes: list[Change]) -> bytes:
    fix = parse_fix(b"--- a/x.c\n+++ b/x.c\n" + hunks(old, new, changes), "x")
    result = apply_series(lambda path: old, [fix])["x.c"]
    assert all(placement.offset == 0 for placement in result.placements)
    return result.patched


LINE = st.sampled_from([b"\n", b"}\n", b"{\n", b"\ta();\n", b"int f(void)\n", b"\tb(1);\n", b"#if 1\n", b"#endif\n"])
TEXT = st.lists(LINE, max_size=40).map(b"".join)


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT, st.booleans(), st.booleans())
def test_all_changes_give_the_new_file(old: bytes, new: bytes, old_cut: bool, new_cut: bool) -> None:
    old, new = old.removesuffix(b"\n") if old_cut else old, new.removesuffix(b"\n") if new_cut else new
    if not old or not new or old == new:
        return
    assert patched(old, new, compare(old, new)) == new


@settings(max_examples=60, deadline=None)
@given(TEXT, st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2), st.lists(LINE, max_size=3))), st.data())
def test_any_choice_applies_to_the_old_file(
    old: bytes, edits: list[tuple[int, int, list[bytes]]], data: st.DataObject
) -> None:
    lines = old.splitlines(keepends=True)
    for at, gone, come in edits:
        lines[at : at + gone] = come
    new = b"".join(lines)
    changes = compare(old, new)
    chosen = [change for change in changes if data.draw(st.booleans())]
    if not chosen or not old:
        return
    result = patched(old, new, chosen)
    assert len(result.splitlines()) - len(old.splitlines()) == sum(
        (c.new_end - c.new_start) - (c.old_end - c.old_start) for c in chosen
    )
    if chosen == changes:
        assert result == new


def test_each_change_knows_its_function_and_hunk() -> None:
    new = OLD.replace(b"one", b"ONE").replace(b"return 1", b"return 2") + b"\nint more;\n"
    changes = compare(OLD, new)
    assert [(change.functions, change.hunk) for change in changes] == [(("first",), 1), (("second",), 1), (("",), 1)]


def test_a_new_function_is_one_change_in_itself() -> None:
    added = b"static int middle(void)\n{\n\treturn 5;\n}\n\n"
    at = OLD.index(b"static int second")
    changes = compare(OLD, OLD[:at] + added + OLD[at:])
    assert [change.functions for change in changes] == [("middle",)]


def test_a_comment_above_a_function_belongs_to_it() -> None:
    added = b"/* what it\n * does */\nstatic int middle(void)\n{\n\treturn 5;\n}\n\n"
    at = OLD.index(b"static int second")
    assert [change.functions for change in compare(OLD, OLD[:at] + added + OLD[at:])] == [("middle",)]
    assert [change.functions for change in compare(OLD, b"/* about the file */\n" + OLD)] == [("",)]


def test_an_added_block_starts_with_its_text_not_with_the_empty_line() -> None:
    old = b"int f(void)\n{\n\ta();\n\n\tb();\n}\n"
    (change,) = compare(old, b"int f(void)\n{\n\ta();\n\n\tif (x)\n\t\treturn;\n\n\tb();\n}\n")
    assert (change.old_start, change.new_start, change.new_end) == (4, 4, 7)


def test_a_hunk_is_headed_by_its_function() -> None:
    new = OLD.replace(b"return 1", b"return 2")
    assert hunks(OLD, new, compare(OLD, new)).startswith(b"@@ -7,5 +7,5 @@ static int second(void)\n")


def test_equal_files_have_no_changes() -> None:
    assert compare(OLD, OLD) == []
