"""Patch files that are no patch files, through the real command: a clear error, status 2, and never a traceback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.build.conftest import Builder
from tests.fixmaker import Edit, FixMaker

VERSION = "fs/proc/version.c"


@pytest.fixture
def patch(maker: FixMaker) -> str:
    """A patch that is fine."""
    return maker.patch([Edit(VERSION, "\treturn 0;\n", "\treturn 1;\n", first=True)])


def _error(command: Builder, content: str | bytes, kind: str) -> str:
    """Build it; returns what the person is told, after checking that the machine is told the same."""
    outcome = command(content)
    assert outcome.status == 2, outcome.stderr
    error = outcome.document["error"]
    assert error["kind"] == kind
    assert error["message"] in outcome.stderr
    assert error["hint"]
    return str(error["message"])


def test_windows_line_ends(command: Builder, patch: str) -> None:
    assert "ends in CR LF" in _error(command, patch.replace("\n", "\r\n"), "fix-line-ends")


@pytest.mark.parametrize("path", ["../../etc/passwd", "fs/../../../etc/passwd", "/etc/passwd"])
def test_a_path_outside_the_tree(command: Builder, patch: str, path: str) -> None:
    prefix = "" if path.startswith("/") else "a/"
    hostile = patch.replace(f"a/{VERSION}", prefix + path).replace(f"b/{VERSION}", prefix + path)
    assert path.rpartition("../")[2] in _error(command, hostile, "fix-unsafe-path")


def test_bytes_at_random(command: Builder) -> None:
    assert "NUL bytes" in _error(command, os.urandom(65536) + b"\0", "fix-binary")


def test_bytes_at_random_inside_a_patch(command: Builder, patch: str) -> None:
    content = patch.encode().replace(b"\treturn 0;", b"\t" + bytes(range(128, 256)))
    outcome = command(content)
    assert outcome.status == 2
    (refusal,) = outcome.refusals("does-not-apply")
    assert refusal["file"] == VERSION


def test_50_megabytes(command: Builder, patch: str) -> None:
    large = patch + "+another line\n" * (50_000_000 // 14)
    assert "is larger than" in _error(command, large, "fix-too-large")


def test_nothing_in_it(command: Builder) -> None:
    assert "is empty" in _error(command, "", "fix-empty")


def test_prose(command: Builder) -> None:
    assert "holds no change" in _error(command, "Dear kernel,\n\nplease mend yourself.\n", "fix-no-hunks")


def test_cut_short(command: Builder, patch: str) -> None:
    assert "shorter than its @@ line says" in _error(command, patch[:-40].rpartition("\n")[0], "fix-broken-hunk")


def test_the_same_patch_twice_in_the_series(command: Builder, patch: str, tmp_path: Path) -> None:
    again = tmp_path / "again.patch"
    again.write_text(patch)
    (refusal,) = command(patch, str(again)).refusals("does-not-apply")
    assert "twice in the series" in refusal["hint"]


def test_a_file_that_is_not_there(command: Builder, patch: str, tmp_path: Path) -> None:
    outcome = command(patch, str(tmp_path / "nowhere.patch"))
    assert outcome.status == 2
    assert outcome.document["error"]["kind"] == "fix-unreadable"


def test_a_folder_that_cannot_be_written(command: Builder, patch: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = command(patch, output=tmp_path / "file" / "out")
    assert outcome.status == 2
    assert outcome.document["error"]["kind"] == "output-folder"


@pytest.mark.parametrize("level", ["0", "1000000", "-1"])
def test_a_level_that_is_none(command: Builder, patch: str, level: str) -> None:
    outcome = command(patch, f"--level={level}")
    assert outcome.status == 2
    assert outcome.document["error"]["kind"] == "usage"
    assert "is not in the range 1<=x<=999999" in outcome.document["error"]["message"]
