"""`#line` never changes what the compiler reads, and keeps the numbers of what a fix did not touch."""

from __future__ import annotations

import re
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmend.factory.fixes import ADDED, AppliedFile, ChangeKind, with_line_directives

SOURCE = b"""\
#define MARK(name) int name = __LINE__
/* a comment over
 * two lines */
MARK(v4);
#define LONG(x) do { \\
	int y = (x);	\\
} while (0)
MARK(v8);
#ifdef ABSENT
MARK(v10);
MARK(v11);
#else
MARK(v13);
MARK(v14);
#endif
MARK(v16);
int call(int a, ...);
int
plain(int x)
{
	call(1,
		2,
		3);
	LONG(
		x
		);
	if (x &&
		call(4)) {
		MARK(v29);
		return v29;
	}
	const char *s = "a \\
b";
	(void)s;
	MARK(v35);
	return v35;
}
MARK(v38);
#if 0
MARK(v40);
it's not code
#elif 1
MARK(v43);
#endif
MARK(v45);
// the end \\
of it
MARK(v48);
"""
LINES = SOURCE.splitlines(keepends=True)


def edited(edits: list[tuple[int, int, int]], new: bytes = b"/* new %d */\n") -> AppliedFile:
    """Delete and insert whole lines: (line, how many go, how many come), from the end so that numbers stay true."""
    lines: list[tuple[bytes, int]] = [(line, number) for number, line in enumerate(LINES, 1)]
    for number, (at, gone, come) in enumerate(sorted(edits, reverse=True)):
        lines[at : at + gone] = [(new % number, 0)] * come
    return AppliedFile(
        "x.c",
        ChangeKind.MODIFY,
        SOURCE,
        b"".join(line for line, _ in lines),
        tuple(origin for _, origin in lines),
        (),
    )


def preprocessed(content: bytes, *options: str) -> list[str]:
    done = subprocess.run(["gcc", "-E", "-P", "-x", "c", *options, "-"], input=content, capture_output=True, check=True)
    return done.stdout.decode().split()


def numbers(content: bytes, *options: str) -> dict[int, int]:
    """For each `MARK(vN)` that the compiler sees: N -> the line that it thinks this is."""
    text = " ".join(preprocessed(content, *options))
    return {int(name): int(line) for name, line in re.findall(r"int v(\d+) = (\d+)", text)}


def without_numbers(content: bytes, *options: str) -> list[str]:
    return re.sub(r"(int v\d+ =) \d+", r"\1", " ".join(preprocessed(content, *options))).split()


SAFE_CUTS = [0, 3, 4, 7, 8, 9, 10, 12, 13, 15, 16, 28, 34, 37, 38, 39, 42, 44, 47, 48]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(SAFE_CUTS), st.just(0), st.integers(1, 3)), max_size=5, unique_by=lambda edit: edit[0]
    ),
    st.booleans(),
    st.sampled_from(["", "a/x.c"]),
)
def test_added_lines_move_no_number(edits: list[tuple[int, int, int]], defined: bool, name: str) -> None:
    applied = edited(edits)
    options = ["-DABSENT"] if defined else []
    rewritten = with_line_directives(applied, name)
    assert without_numbers(rewritten, *options) == without_numbers(applied.patched, *options)
    for number, line in numbers(rewritten, *options).items():
        assert line == number


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(LINES)), st.just(0), st.integers(1, 2)), max_size=4),
    st.sampled_from(["", "a/x.c"]),
)
def test_lines_added_anywhere_leave_the_code_as_it_is(edits: list[tuple[int, int, int]], name: str) -> None:
    applied = edited(edits)
    plain = subprocess.run(["gcc", "-E", "-P", "-x", "c", "-"], input=applied.patched, capture_output=True)
    if plain.returncode:
        return
    rewritten = with_line_directives(applied, name)
    assert without_numbers(rewritten) == without_numbers(applied.patched)


@pytest.mark.parametrize("at", [3, 7, 15, 37])
def test_a_removed_line_moves_no_number(at: int) -> None:
    applied = edited([(at, 1, 0)])
    for name, line in numbers(with_line_directives(applied)).items():
        assert line == name


def test_nothing_changed_nothing_added() -> None:
    assert with_line_directives(edited([])) == SOURCE


@pytest.mark.parametrize(
    ("at", "new", "directive_after"),
    [
        (5, b"\tfoo(%d); \\\n", b"} while (0)\n"),  # inside a macro's definition
        (2, b" * more %d\n", b" * two lines */\n"),  # inside a comment
        (21, b"\t%d,\n", b"\t\t3);\n"),  # among arguments
        (24, b"\t%d +\n", b"\t\t);\n"),  # among a macro's arguments
        (27, b"\t%d &&\n", b"\t\tcall(4)) {\n"),  # inside a condition
        (18, b"/* new %d */\n", b"plain(int x)\n"),  # behind a word
    ],
)
def test_the_directive_waits_for_a_safe_place(at: int, new: bytes, directive_after: bytes) -> None:
    applied = edited([(at, 0, 1)], new)
    lines = with_line_directives(applied).splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if line.startswith(b"#line"))
    assert lines[place - 1] == directive_after
    origin = LINES.index(directive_after) + 2
    assert lines[place] == b"#line %d\n" % origin


def test_after_a_skipped_group_the_number_is_given_again() -> None:
    lines = with_line_directives(edited([(9, 0, 1)])).splitlines()
    assert [line for line in lines if line.startswith(b"#line")] == [b"#line 10", b"#line 13", b"#line 16"]


def test_added_lines_have_a_file_of_their_own_that_macros_do_not_show() -> None:
    applied = edited([(3, 0, 2), (28, 1, 1)], b"const char *f%d_at = __FILE__; MARK(v1000);\n")
    rewritten = with_line_directives(applied, "a/x.c")
    found = [line for line in rewritten.splitlines() if line.startswith(b"#line")]
    assert found == [
        b'#line 4 "fixed/a/x.c"',
        b'#line 4 "a/x.c"',
        b'#line 31 "fixed/a/x.c"',
        b'#line 30 "a/x.c"',
    ], "an added line carries its number in the patched file, any other the one that it had"
    shown = " ".join(preprocessed(rewritten, f"-fmacro-prefix-map={ADDED}="))
    assert shown.count('= "a/x.c"') == 3
    assert ADDED not in shown
