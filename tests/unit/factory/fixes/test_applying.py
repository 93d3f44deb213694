"""Applying is exact: what diff(1) makes is undone or done to the byte, and nothing is ever bent to fit."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmend.factory.fixes import AppliedFile, ChangeKind, DoesNotApplyError, Fix, apply_series, parse_fix

SOURCE = b"".join(b"line %d\n" % number for number in range(1, 41))


def difference(old: bytes, new: bytes, path: str = "x.c") -> bytes:
    with tempfile.TemporaryDirectory() as name:
        Path(name, "old").write_bytes(old)
        Path(name, "new").write_bytes(new)
        return subprocess.run(
            ["diff", "-u", "--text", "--label", f"a/{path}", "--label", f"b/{path}", "old", "new"],
            cwd=name,
            capture_output=True,
        ).stdout


def patched_by_patch(old: bytes, patch: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        Path(name, "x.c").write_bytes(old)
        subprocess.run(
            ["patch", "-p1", "--fuzz=0", "--silent", "--no-backup-if-mismatch"], cwd=name, input=patch, check=True
        )
        target = Path(name, "x.c")
        return target.read_bytes() if target.exists() else b""


def fix_of(old: bytes, new: bytes, name: str = "x.patch", path: str = "x.c") -> Fix:
    return parse_fix(difference(old, new, path), name)


def applied(source: bytes | None, *fixes: Fix) -> AppliedFile:
    return apply_series(lambda path: source, fixes)["x.c"]


LINE = st.sampled_from([b"\n", b"a\n", b"b\n", b"\tif (x)\n", b"{\n", b"}\n", b"\x85\x0c\x1c\n", b"--\n", b"++ c\n"])
TEXT = st.lists(LINE, max_size=40)


@st.composite
def edits(draw: st.DrawFn) -> tuple[bytes, bytes]:
    lines = draw(TEXT)
    edited = list(lines)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(edited)))
        end = min(len(edited), at + draw(st.integers(0, 4)))
        edited[at:end] = draw(st.lists(LINE, max_size=4))
    old, new = b"".join(lines), b"".join(edited)
    if draw(st.booleans()):
        old = old.removesuffix(b"\n")
    if draw(st.booleans()):
        new = new.removesuffix(b"\n")
    return old, new


@settings(max_examples=60, deadline=None)
@given(edits())
def test_what_diff_makes_applies_as_patch_applies_it(pair: tuple[bytes, bytes]) -> None:
    old, new = pair
    if old == new or not old:
        return
    fix = fix_of(old, new)
    result = applied(old, fix)
    assert result.patched == new == patched_by_patch(old, fix.content)
    assert result.original == old
    assert all(placement.offset == 0 for placement in result.placements)
    check_origins(result)


def check_origins(result: AppliedFile) -> None:
    """Every line that claims an origin is that line of the original, and origins rise."""
    before, after = result.original.split(b"\n"), result.patched.split(b"\n")
    claimed = [origin for origin in result.origins if origin]
    assert claimed == sorted(set(claimed))
    for line, origin in zip(after, result.origins, strict=False):
        if origin:
            assert line == before[origin - 1]


@settings(max_examples=40, deadline=None)
@given(edits(), st.data())
def test_a_series_of_two_gives_what_they_give_in_turn(pair: tuple[bytes, bytes], data: st.DataObject) -> None:
    old, middle = pair
    last = b"".join(data.draw(TEXT)) + middle
    if old == middle or last == middle or not old or not middle:
        return
    result = applied(old, fix_of(old, middle, "one"), fix_of(middle, last, "two"))
    assert result.patched == last
    check_origins(result)


def test_a_hunk_that_moved_is_applied_where_it_fits_and_says_so() -> None:
    fix = fix_of(SOURCE, SOURCE.replace(b"line 30\n", b"changed\n").replace(b"line 5\n", b"five\n"))
    result = applied(b"new\n" * 7 + SOURCE, fix)
    assert result.patched == b"new\n" * 7 + SOURCE.replace(b"line 30\n", b"changed\n").replace(b"line 5\n", b"five\n")
    assert [(placement.line, placement.offset) for placement in result.placements] == [(9, 7), (34, 0)]


def test_a_hunk_that_moved_and_fits_twice_is_refused() -> None:
    fix = fix_of(SOURCE, SOURCE.replace(b"line 30\n", b"changed\n"))
    with pytest.raises(DoesNotApplyError, match="fits in 2 other places: lines 29, 69"):
        applied(b"new\nnew\n" + SOURCE + SOURCE, fix)


def test_of_two_equal_places_the_line_number_decides() -> None:
    twice = SOURCE + SOURCE
    changed = SOURCE + SOURCE.replace(b"line 30\n", b"changed\n")
    assert applied(twice, fix_of(twice, changed)).patched == changed


def test_context_that_differs_is_refused_not_fuzzed() -> None:
    fix = fix_of(SOURCE, SOURCE.replace(b"line 20\n", b"changed\n"), "mark.patch")
    with pytest.raises(DoesNotApplyError) as caught:
        applied(SOURCE.replace(b"line 22\n", b"other\n"), fix)
    problem = caught.value
    assert (problem.fix, problem.path, problem.hunk, problem.line) == ("mark.patch", "x.c", 1, 22)
    assert problem.expected[5] == "line 22"
    assert problem.found[5] == "other"
    assert problem.message == (
        "hunk 1 of mark.patch (x.c, line 17) does not apply: line 22 should be 'line 22' and is 'other'"
    )
    assert "only the lines around the change differ" in problem.hint
    assert problem.kind == "does-not-apply"


def test_a_fix_that_is_already_there_is_told_so() -> None:
    fix = fix_of(SOURCE, SOURCE.replace(b"line 20\n", b"changed\n"))
    with pytest.raises(DoesNotApplyError) as caught:
        applied(SOURCE, fix, fix)
    assert "already has" in caught.value.hint


def test_a_fix_for_another_file_is_refused() -> None:
    fix = fix_of(SOURCE, SOURCE.replace(b"line 20\n", b"changed\n"))
    for source in (b"", b"\n", b"something\nelse\n", SOURCE[:60]):
        with pytest.raises(DoesNotApplyError):
            applied(source, fix)


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(DoesNotApplyError, match=r"no such file"):
        applied(None, fix_of(SOURCE, SOURCE + b"more\n"))


def test_files_may_come_and_go() -> None:
    made = parse_fix(b"--- /dev/null\n+++ b/x.c\n@@ -0,0 +1,2 @@\n+a\n+b\n", "made")
    result = applied(None, made)
    assert (result.kind, result.patched, result.origins) == (ChangeKind.CREATE, b"a\nb\n", (0, 0))
    gone = parse_fix(b"--- a/x.c\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-a\n-b\n", "gone")
    assert applied(b"a\nb\n", gone).kind is ChangeKind.DELETE
    with pytest.raises(DoesNotApplyError, match="already there"):
        applied(b"a\nb\n", made)
    with pytest.raises(DoesNotApplyError, match="leaves 1"):
        applied(b"a\nb\nc\n", gone)


def test_each_file_is_read_once() -> None:
    asked: list[str] = []

    def read(path: str) -> bytes:
        asked.append(path)
        return SOURCE

    one = fix_of(SOURCE, SOURCE.replace(b"line 20\n", b"changed\n"))
    two = fix_of(SOURCE, SOURCE.replace(b"line 3\n", b"changed\n"))
    other = fix_of(SOURCE, SOURCE + b"more\n", path="y.c")
    assert set(apply_series(read, [one, two, other])) == {"x.c", "y.c"}
    assert asked == ["x.c", "y.c"]


def test_an_end_of_file_in_the_middle() -> None:
    """The patch says that the file ends there; joining the lines would make other code of it."""
    content = b"--- a/x.c\n+++ b/x.c\n@@ -2 +2 @@\n-line 2\n+two\n\\ No newline at end of file\n"
    with pytest.raises(DoesNotApplyError, match=r"says that x\.c ends at line 2, and 38 lines follow there"):
        applied(SOURCE, parse_fix(content, "x.patch"))
