"""What a patch file may be, and each way in which it may not."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unidiff.patch import PatchSet

from kmend.factory.fixes import ChangeKind, Fix, FixError, HunkLine, Statement, parse_fix, read_fix
from kmend.factory.fixes.errors import BrokenHunkError
from kmend.factory.fixes.model import LineKind
from kmend.factory.fixes.reading import MAX_FIX_BYTES

HEADER = b"""\
Description: af_unix: Reject SIOCATMARK on non-stream sockets
 A datagram socket has no mark.
 .
 Nor has a seqpacket socket.
Origin: vendor, Debian linux 6.1.187-1
Author: Jane Doe <jane@example.org>
Bug-Debian: https://bugs.debian.org/1
CVE: CVE-2026-52928, CVE-2026-52929
Last-Update: 2026-09-07
Kmend-Allow: new-static-data table -- it is only ever read
---
"""
BODY = b"""\
--- a/net/unix/af_unix.c
+++ b/net/unix/af_unix.c
@@ -10,4 +10,5 @@ static int unix_ioctl(struct socket *sock)
 one
-two
+2
+2.5
 three
 four
"""


def test_a_dep3_patch_is_read_whole() -> None:
    fix = parse_fix(HEADER + BODY, "mark.patch")
    assert fix.digest == hashlib.sha256(HEADER + BODY).hexdigest()
    assert fix.title == "af_unix: Reject SIOCATMARK on non-stream sockets"
    assert fix.description == "A datagram socket has no mark.\n\nNor has a seqpacket socket."
    assert fix.cves == ("CVE-2026-52928", "CVE-2026-52929")
    assert fix.origin == "vendor, Debian linux 6.1.187-1"
    assert fix.author == "Jane Doe <jane@example.org>"
    assert fix.bugs == ("https://bugs.debian.org/1",)
    assert fix.last_update == "2026-09-07"
    assert fix.statements == (Statement("new-static-data", "table", "it is only ever read"),)
    (change,) = fix.files
    assert (change.path, change.kind) == ("net/unix/af_unix.c", ChangeKind.MODIFY)
    (hunk,) = change.hunks
    assert (hunk.old_start, hunk.new_start, hunk.section) == (10, 10, "static int unix_ioctl(struct socket *sock)")
    assert hunk.before == (b"one\n", b"two\n", b"three\n", b"four\n")
    assert hunk.after == (b"one\n", b"2\n", b"2.5\n", b"three\n", b"four\n")
    assert fix.record().files == ("net/unix/af_unix.c",)


def test_a_patch_of_git_is_read_whole() -> None:
    content = (
        b"From 0123456789abcdef0123456789abcdef01234567 Mon Sep 17 00:00:00 2001\n"
        b"From: =?UTF-8?q?J=C3=BCrgen?= <j@example.org>\n"
        b"Date: Mon, 7 Sep 2026 10:00:00 +0200\n"
        b"Subject: [PATCH 6.1 v2] [stable] af_unix: a long subject that\n goes on\n\n"
        b'The story.\n\nFixes: 0123 ("x")\nCVE: CVE-2026-1000\nCVE: CVE-2026-1001\nSigned-off-by: J <j@example.org>\n---\n'
        b" net/unix/af_unix.c | 3 ++-\n 1 file changed, 2 insertions(+), 1 deletion(-)\n\n"
        b"diff --git a/net/unix/af_unix.c b/net/unix/af_unix.c\nindex 1111111..2222222 100644\n"
        + BODY
        + b"-- \n2.39.5\n\n"
    )
    fix = parse_fix(content, "0001-x.patch")
    assert fix.title == "af_unix: a long subject that goes on"
    assert fix.description == "The story."
    assert fix.cves == ("CVE-2026-1000", "CVE-2026-1001")
    assert len(fix.files) == 1


@pytest.mark.parametrize("subject", [b"=?UTF-8?q?a=1bb?=", b"=?no-such-charset?q?a?=", b"=?UTF-8?b?!?="])
def test_a_subject_that_is_badly_encoded_does_no_harm(subject: bytes) -> None:
    assert "\x1b" not in parse_fix(b"Subject: " + subject + b"\n\n---\n" + BODY, "x").title


def test_without_a_header_the_name_is_the_title() -> None:
    assert parse_fix(BODY, "plain.patch").title == "plain.patch"


def test_several_files_and_the_forms_of_quilt() -> None:
    second = b"Index: linux/mm/mincore.c\n" + b"=" * 67 + b"\n" + BODY.replace(b"net/unix/af_unix.c", b"mm/mincore.c")
    dated = second.replace(b"a/mm/mincore.c\n", b"linux.orig/mm/mincore.c\t2026-01-01 00:00:00 +0000\n")
    assert [change.path for change in parse_fix(BODY + dated, "x").files] == ["net/unix/af_unix.c", "mm/mincore.c"]


def test_a_line_without_newline_at_the_end_of_the_file() -> None:
    body = b"--- a/x.c\n+++ b/x.c\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n"
    (change,) = parse_fix(body, "x").files
    assert change.hunks[0].lines[1:] == (HunkLine(LineKind.REMOVED, b"b"), HunkLine(LineKind.ADDED, b"c\n"))


def test_an_empty_line_stands_for_empty_context() -> None:
    (change,) = parse_fix(b"--- a/x.c\n+++ b/x.c\n@@ -1,3 +1,3 @@\n a\n\n-b\n+c\n", "x").files
    assert change.hunks[0].before == (b"a\n", b"\n", b"b\n")


def test_new_and_deleted_files_are_marked() -> None:
    made = (
        b"diff --git a/x.c b/x.c\nnew file mode 100644\nindex 0..1\n--- /dev/null\n+++ b/x.c\n@@ -0,0 +1,2 @@\n+a\n+b\n"
    )
    gone = b"--- a/y.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n"
    assert [(change.path, change.kind) for change in parse_fix(made + gone, "x").files] == [
        ("x.c", ChangeKind.CREATE),
        ("y.c", ChangeKind.DELETE),
    ]


def replaced_paths(old: bytes, new: bytes) -> bytes:
    return BODY.replace(b"a/net/unix/af_unix.c", old).replace(b"b/net/unix/af_unix.c", new)


GIT = b"diff --git a/x.c b/x.c\n"
REFUSED = {
    "empty": (b"", "fix-empty"),
    "only white space": (b"\n \n", "fix-empty"),
    "CRLF": (BODY.replace(b"\n", b"\r\n"), "fix-line-ends"),
    "CRLF in one line": (BODY.replace(b"one\n", b"one\r\n"), "fix-line-ends"),
    "path outside the tree": (replaced_paths(b"a/../../etc/passwd", b"b/../../etc/passwd"), "fix-unsafe-path"),
    "bare path outside the tree": (replaced_paths(b"../../etc/passwd", b"../../etc/passwd"), "fix-unsafe-path"),
    "path in a roundabout way": (replaced_paths(b"a/net/../x.c", b"b/net/../x.c"), "fix-unsafe-path"),
    "path with a dot": (replaced_paths(b"a/./x.c", b"b/./x.c"), "fix-unsafe-path"),
    "absolute path": (replaced_paths(b"/etc/passwd", b"/etc/passwd"), "fix-unsafe-path"),
    "absolute path after the prefix": (replaced_paths(b"a//etc/passwd", b"b//etc/passwd"), "fix-unsafe-path"),
    "no prefix": (replaced_paths(b"Makefile", b"Makefile"), "fix-unsafe-path"),
    "quoted path": (replaced_paths(b'"a/x\\ty.c"', b'"b/x\\ty.c"'), "fix-unsafe-path"),
    "path not ASCII": (replaced_paths("a/ü.c".encode(), "b/ü.c".encode()), "fix-unsafe-path"),
    "path with a backslash": (replaced_paths(b"a/x\\y.c", b"b/x\\y.c"), "fix-unsafe-path"),
    "path too long": (replaced_paths(b"a/" + b"x" * 5000, b"b/" + b"x" * 5000), "fix-unsafe-path"),
    "no file on either side": (replaced_paths(b"/dev/null", b"/dev/null"), "fix-unsafe-path"),
    "NUL bytes": (BODY + b"\0", "fix-binary"),
    "a program": (b"\x7fELF" + bytes(range(256)) * 10, "fix-binary"),
    "git's binary patch": (GIT + b"index 1..2 100644\nGIT binary patch\nliteral 4\nLc${Nk\n", "fix-binary"),
    "differing binary files": (GIT + b"Binary files a/x.c and b/x.c differ\n", "fix-binary"),
    "random bytes": (b"\xff\xfe\xfd garbage\n" + BODY, "fix-header"),
    "control characters in the header": (b"Description: \x1b[31mred\n---\n" + BODY, "fix-header"),
    "not a CVE": (b"CVE: 2026-1\n---\n" + BODY, "fix-header"),
    "statement without a reason": (b"Kmend-Allow: new-static-data table\n---\n" + BODY, "fix-header"),
    "unknown statement": (b"Kmend-Force: yes\n---\n" + BODY, "fix-header"),
    "no difference": (b"Description: words\n\nOnly words.\n", "fix-no-hunks"),
    "file without hunks": (b"--- a/x.c\n+++ b/x.c\n", "fix-no-hunks"),
    "rename": (GIT + b"similarity index 100%\nrename from x.c\nrename to y.c\n", "fix-unsupported-change"),
    "rename by name": (replaced_paths(b"a/x.c", b"b/y.c"), "fix-unsupported-change"),
    "copy": (GIT + b"copy from x.c\ncopy to y.c\n", "fix-unsupported-change"),
    "mode": (GIT + b"old mode 100644\nnew mode 100755\n", "fix-unsupported-change"),
    "symbolic link": (
        GIT + b"new file mode 120000\n--- /dev/null\n+++ b/x.c\n@@ -0,0 +1 @@\n+y\n",
        "fix-unsupported-change",
    ),
    "link changed": (GIT + b"index 1..2 120000\n--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n", "fix-unsupported-change"),
    "submodule": (GIT + b"index 1..2 160000\n--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n", "fix-unsupported-change"),
    "empty file made": (GIT + b"new file mode 100644\nindex 0..e\n", "fix-unsupported-change"),
    "diff -r": (BODY + b"Only in a: y.c\n", "fix-unsupported-change"),
    "too many lines in a hunk": (BODY + b"+evil\n", "fix-broken-hunk"),
    "too few lines in a hunk": (BODY[: -len(b" four\n")], "fix-broken-hunk"),
    "count too small": (BODY.replace(b"-10,4", b"-10,3"), "fix-broken-hunk"),
    "garbage in a hunk": (BODY.replace(b" three", b"three"), "fix-broken-hunk"),
    "garbage after a hunk": (BODY + b"garbage\n", "fix-broken-hunk"),
    "broken first line": (BODY.replace(b"@@ -10,4 +10,5 @@", b"@@ -10,x +10,5 @@"), "fix-broken-hunk"),
    "huge numbers": (BODY.replace(b"-10,4", b"-99999999999,4"), "fix-broken-hunk"),
    "line zero": (BODY.replace(b"-10,4", b"-0,4"), "fix-broken-hunk"),
    "hunk without a file": (BODY.split(b"\n", 2)[2], "fix-broken-hunk"),
    "no +++ line": (BODY.replace(b"+++ b/net/unix/af_unix.c\n", b""), "fix-broken-hunk"),
    "no +++ line in the second": (BODY + b"--- a/x.c\n@@ -1 +1 @@\n-a\n+b\n", "fix-broken-hunk"),
    "hunk that changes nothing": (b"--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n a\n", "fix-broken-hunk"),
    "addition without context": (b"--- a/x.c\n+++ b/x.c\n@@ -4,0 +5 @@\n+a\n", "fix-broken-hunk"),
    "new file with old lines": (b"--- /dev/null\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n", "fix-broken-hunk"),
    "overlapping hunks": (BODY + BODY.split(b"\n", 2)[2], "fix-broken-hunk"),
    "file named twice": (BODY + BODY, "fix-broken-hunk"),
    "second patch behind the signature": (BODY + b"-- \n2.39\n" + BODY, "fix-broken-hunk"),
    "newline missing in the middle": (
        BODY.replace(b" one\n", b" one\n\\ No newline at end of file\n"),
        "fix-broken-hunk",
    ),
    "long line": (BODY.replace(b" three", b" " + b"x" * 70_000), "fix-too-large"),
    "long header": (b"Description: x\n" + b" y\n" * 100_000 + b"---\n" + BODY, "fix-too-large"),
    "thousands of files": (
        b"".join(replaced_paths(b"a/%d.c" % number, b"b/%d.c" % number) for number in range(3000)),
        "fix-too-large",
    ),
    "thousands of hunks": (
        b"--- a/x.c\n+++ b/x.c\n" + b"".join(b"@@ -%d +%d @@\n-a\n+b\n" % (n, n) for n in range(1, 30_000)),
        "fix-too-large",
    ),
    "too large": (BODY + b" " * MAX_FIX_BYTES, "fix-too-large"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_is_not_a_usable_patch_is_refused(case: str) -> None:
    content, kind = REFUSED[case]
    with pytest.raises(FixError) as caught:
        parse_fix(content, "x.patch")
    assert caught.value.kind == kind, caught.value.message
    assert caught.value.exit_status == 2
    assert caught.value.message.isprintable()


def test_every_line_of_a_cut_patch_is_noticed_or_complete() -> None:
    whole = parse_fix(HEADER + BODY, "x").files
    for length in range(len(HEADER) + 60, len(HEADER + BODY)):
        try:
            fix = parse_fix((HEADER + BODY)[:length], "x")
        except FixError:
            continue
        assert length >= len(HEADER + BODY) - len("four\n")
        assert len(fix.files) == len(whole)


@given(st.binary(max_size=400))
def test_no_bytes_give_anything_but_a_fix_or_a_fix_error(noise: bytes) -> None:
    for content in (noise, HEADER + noise, BODY + noise, HEADER + BODY[: len(noise)] + noise):
        try:
            fix = parse_fix(content, "x")
        except FixError:
            continue
        assert isinstance(fix, Fix)


LINES = st.lists(st.sampled_from(["", "a", "-- b", "++ c", "\tif (x)", "}", "@@ -1 +1 @@", "\\", "ü"]), max_size=12)


@given(st.lists(st.tuples(st.sampled_from(" -+"), LINES), min_size=1, max_size=6))
def test_a_well_formed_hunk_reads_as_unidiff_reads_it(parts: list[tuple[str, list[str]]]) -> None:
    lines = [(kind, text) for kind, texts in parts for text in texts]
    old = sum(kind != "+" for kind, _ in lines)
    new = sum(kind != "-" for kind, _ in lines)
    if old == 0 or new == len(lines) == old:
        return
    start_new = 5 if new else 4
    text = f"--- a/x.c\n+++ b/x.c\n@@ -5,{old} +{start_new},{new} @@\n" + "".join(f"{k}{t}\n" for k, t in lines)
    (ours,) = parse_fix(text.encode(), "x").files[0].hunks
    (theirs,) = PatchSet(text)[0]
    assert [line.kind.value + line.content.decode() for line in ours.lines] == [str(line) for line in theirs]


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mark.patch"
    path.write_bytes(HEADER + BODY)
    assert read_fix(path).name == "mark.patch"


def test_a_large_file_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "large.patch"
    with path.open("wb") as stream:
        stream.truncate(50_000_000)
    with pytest.raises(FixError) as caught:
        read_fix(path)
    assert caught.value.kind == "fix-too-large"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, tmp_path / "missing", pipe, Path("/dev/zero")):
        with pytest.raises(FixError) as caught:
            read_fix(path)
        assert caught.value.kind == "fix-unreadable"


def test_a_hunk_after_the_end_of_the_file() -> None:
    """Applied as it stands, the line without a newline would run into the next one."""
    content = b"--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n\\ No newline at end of file\n@@ -5 +5 @@\n-c\n+d\n"
    with pytest.raises(BrokenHunkError, match=r"line 7 of x\.patch: hunk 2 of x\.c follows after the end of the file"):
        parse_fix(content, "x.patch")


def test_an_empty_line_without_a_newline() -> None:
    content = b"--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+\n\\ No newline at end of file\n"
    with pytest.raises(BrokenHunkError, match=r"line 6 of x\.patch says of an empty line that it has no newline"):
        parse_fix(content, "x.patch")
