"""Deriving, from two source packages in the cache to a patch file, and the command around it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kmend.core.errors import MalformedError
from kmend.factory.commands.derive import command
from kmend.factory.derive import DeriveError, derive
from kmend.factory.fixes import FixError, apply_series, parse_fix

OLD_VERSION, NEW_VERSION = "6.1.10-1", "6.1.20-1"
OLD = b"".join(b"static int f%d(int x)\n{\n\treturn x + %d;\n}\n\n" % (n, n) for n in range(6))
NEW = OLD.replace(b"x + 1", b"x - 1").replace(b"x + 4", b"x - 4")
CHANGELOG = """\
linux (6.1.20-1) bookworm-security; urgency=high

  * New upstream stable update:
    - net: return less (CVE-2026-52928)

 -- Jane Doe <jane@example.org>  Mon, 07 Sep 2026 21:33:42 +0200
"""


@pytest.fixture(autouse=True)
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that already holds what is needed of the two packages; nothing is downloaded."""
    monkeypatch.setenv("KMEND_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "cache" / "sources"
    for version, content in ((OLD_VERSION, OLD), (NEW_VERSION, NEW)):
        for path in ("net/a.c", "net/b.c"):
            (root / version / "files" / path).parent.mkdir(parents=True, exist_ok=True)
            (root / version / "files" / path).write_bytes(content)
        (root / version / "files" / "net/same.c").write_bytes(OLD)
        (root / version / "absent" / "net").mkdir(parents=True)
        (root / version / "absent" / "net/none.c.absent").touch()
    (root / NEW_VERSION / "changelog").write_text(CHANGELOG)
    return root


def test_one_function_of_one_file() -> None:
    derived = derive(OLD_VERSION, NEW_VERSION, ["net/a.c"], wanted_functions=["f4"], cves=["CVE-2026-52928"])
    assert derived.content.decode() == (
        "Description: net: return less\n"
        " The difference between Debian's kernel sources 6.1.10-1 and 6.1.20-1:\n"
        " net/a.c: f4 (changes to this file left out: 1)\n"
        "Origin: vendor, Debian linux 6.1.20-1 (difference to 6.1.10-1)\n"
        "CVE: CVE-2026-52928\n"
        "Last-Update: 2026-09-07\n"
        "---\n"
        "--- a/net/a.c\n"
        "+++ b/net/a.c\n"
        "@@ -20,7 +20,7 @@ static int f4(int x)\n"
        " \n"
        " static int f4(int x)\n"
        " {\n"
        "-\treturn x + 4;\n"
        "+\treturn x - 4;\n"
        " }\n"
        " \n"
        " static int f5(int x)\n"
    )
    assert [str(change) for change in derived.taken] == ["net/a.c: hunk 2, line 23, f4 (-1 +1)"]
    assert [str(change) for change in derived.left] == ["net/a.c: hunk 1, line 8, f1 (-1 +1)"]
    fix = parse_fix(derived.content, "x")
    assert apply_series(lambda path: OLD, [fix])["net/a.c"].patched == OLD.replace(b"x + 4", b"x - 4")


def test_the_same_request_gives_the_same_bytes() -> None:
    cves = ["CVE-2026-52928", "CVE-2026-52928"]
    paths = ["net/b.c", "net/a.c", "net/b.c"]
    first = derive(OLD_VERSION, NEW_VERSION, paths, wanted_functions=["f1", "f4"], cves=cves)
    second = derive(OLD_VERSION, NEW_VERSION, ["net/a.c", "net/b.c"], wanted_functions=["f4", "f1"], cves=cves[:1])
    assert first == second
    assert [change.path for change in parse_fix(first.content, "x").files] == ["net/a.c", "net/b.c"]


def test_hunks_by_number() -> None:
    derived = derive(OLD_VERSION, NEW_VERSION, ["net/a.c"], wanted_hunks=[1], subject="  a\n title ")
    assert derived.title == "a title"
    assert [change.functions for change in derived.taken] == [("f1",)]
    with pytest.raises(DeriveError, match="does not differ in hunk 7"):
        derive(OLD_VERSION, NEW_VERSION, ["net/a.c"], wanted_hunks=[7])
    with pytest.raises(DeriveError, match="numbered by file"):
        derive(OLD_VERSION, NEW_VERSION, ["net/a.c", "net/b.c"], wanted_hunks=[1])


def test_a_cve_that_the_changelog_does_not_name_is_noted() -> None:
    derived = derive(OLD_VERSION, NEW_VERSION, ["net/a.c"], cves=["CVE-2026-99999"])
    assert derived.notes == (
        "the changelog up to 6.1.20-1 does not name CVE-2026-99999; check that this change closes it",
    )
    assert derived.title == "net/a.c: f1, f4 as in 6.1.20-1"


def test_a_function_that_does_not_differ_is_an_error_that_lists_those_that_do() -> None:
    with pytest.raises(DeriveError) as caught:
        derive(OLD_VERSION, NEW_VERSION, ["net/a.c"], wanted_functions=["f4", "f3"])
    assert caught.value.kind == "not-changed-there"
    assert "does not differ in f3" in caught.value.message
    assert caught.value.hint == (
        "what differs: net/a.c: hunk 1, line 8, f1 (-1 +1); net/a.c: hunk 2, line 23, f4 (-1 +1)"
    )


def test_files_that_do_not_differ_or_do_not_exist() -> None:
    for path, message in (("net/same.c", "is the same"), ("net/none.c", "does not exist in 6.1.10-1 and 6.1.20-1")):
        with pytest.raises(DeriveError, match=message) as caught:
            derive(OLD_VERSION, NEW_VERSION, [path])
        assert caught.value.kind == "nothing-differs"
    with pytest.raises(MalformedError):
        derive(OLD_VERSION, NEW_VERSION, ["../../etc/passwd"])
    with pytest.raises(MalformedError):
        derive("6.1", NEW_VERSION, ["net/a.c"])


def test_what_cannot_stand_in_a_header_is_refused() -> None:
    with pytest.raises(FixError):
        derive(OLD_VERSION, NEW_VERSION, ["net/a.c"], cves=["CVE-1\nOrigin: elsewhere"])
    with pytest.raises(FixError):
        derive(OLD_VERSION, NEW_VERSION, ["net/a.c"], subject="\x1b[31m")


def test_a_change_over_two_functions_names_both(sources: Path) -> None:
    merged = OLD.replace(b"\treturn x + 1;\n}\n\nstatic int f2(int x)\n{\n\treturn x + 2;\n", b"\treturn 7;\n")
    (sources / NEW_VERSION / "files" / "net/a.c").write_bytes(merged)
    with pytest.raises(DeriveError) as caught:
        derive(OLD_VERSION, NEW_VERSION, ["net/a.c"], wanted_functions=["f1"])
    assert "name them all: f1, f2" in caught.value.hint


def test_a_change_that_reaches_outside_is_taken_by_its_number(sources: Path) -> None:
    widened = OLD.replace(b"static int f1(int x)\n", b"static int table[4];\nstatic int f1(int y)\n")
    (sources / NEW_VERSION / "files" / "net/a.c").write_bytes(widened)
    with pytest.raises(DeriveError) as caught:
        derive(OLD_VERSION, NEW_VERSION, ["net/a.c"], wanted_functions=["f1"])
    assert "take it with --hunk 1" in caught.value.hint
    assert len(derive(OLD_VERSION, NEW_VERSION, ["net/a.c"], wanted_hunks=[1]).taken) == 1


def test_the_command(tmp_path: Path) -> None:
    output = tmp_path / "fix.patch"
    arguments = ["--from", OLD_VERSION, "--to", NEW_VERSION, "--file", "net/a.c", "--function", "f1", "-o", str(output)]
    done = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert report["output"] == str(output)
    assert report["digest"] == parse_fix(output.read_bytes(), "x").digest
    assert [change["functions"] for change in report["taken"]] == [["f1"]]
    assert [change["functions"] for change in report["left"]] == [["f4"]]
    assert "left out  net/a.c: hunk 2, line 23, f4 (-1 +1)" in done.stderr
