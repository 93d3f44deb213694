"""Durable files: old or new after a failure, never in between."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kmend.core.durable import append_durably, make_folder, read_bounded, remove_durably, write_durably
from kmend.core.errors import SystemProblemError


def test_written_files_have_their_content_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_durably(path, b"one", mode=0o600)
    write_durably(path, b"two", mode=0o640)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("call", ["fsync", "fchmod"])
def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "state"
    write_durably(path, b"old")

    def fails(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(SystemProblemError, match="No space left") as caught:
        write_durably(path, b"new")
    assert caught.value.hint
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_lines_are_appended(tmp_path: Path) -> None:
    append_durably(tmp_path / "log", b"one")
    append_durably(tmp_path / "log", b"two")
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"


def test_folders_are_made_with_their_parents(tmp_path: Path) -> None:
    make_folder(tmp_path / "a/b/c", mode=0o700)
    assert (tmp_path / "a/b/c").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemProblemError):
        make_folder(tmp_path / "file")


def test_reading_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 11)
    with pytest.raises(SystemProblemError, match="larger than 10 bytes"):
        read_bounded(tmp_path / "big", max_bytes=10)
    with pytest.raises(SystemProblemError, match="cannot read"):
        read_bounded(tmp_path / "absent", max_bytes=10)


def test_removing_twice_is_fine(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    remove_durably(tmp_path / "x")
    remove_durably(tmp_path / "x")
