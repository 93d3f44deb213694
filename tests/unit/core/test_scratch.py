"""Temporary folders: gone when done, kept while their owner lives, removed once it is dead."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kmend.core import scratch
from kmend.core.errors import SystemProblemError
from kmend.core.scratch import abandoned_folders, remove_abandoned, scratch_folder

HOLDER = """
import sys
from pathlib import Path
from kmend.core.scratch import scratch_folder
with scratch_folder("trial", Path(sys.argv[1])) as folder:
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


def _holder(place: Path) -> tuple[subprocess.Popen[str], Path]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    return child, Path(child.stdout.readline().strip())


def test_it_is_gone_afterwards(tmp_path: Path) -> None:
    with scratch_folder("trial", tmp_path) as folder:
        assert folder.parent == tmp_path
        (folder / "file").write_text("x")
        assert abandoned_folders(tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


def test_one_that_was_renamed_stays(tmp_path: Path) -> None:
    with scratch_folder("trial", tmp_path) as folder:
        folder.rename(tmp_path / "lasting")
    assert (tmp_path / "lasting").is_dir()


def test_the_owner_lives_and_dies(tmp_path: Path) -> None:
    child, folder = _holder(tmp_path)
    assert remove_abandoned(tmp_path) == ()
    assert (folder / "deep" / "file").exists()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert abandoned_folders(tmp_path) == (folder,)
    assert remove_abandoned(tmp_path) == (folder,)
    assert list(tmp_path.iterdir()) == []


def test_the_next_one_in_the_same_place_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_swept", set())
    child, folder = _holder(tmp_path)
    child.kill()
    child.communicate()
    with scratch_folder("other", tmp_path):
        assert not folder.exists()


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    names = ["kmend-notes", "kmend-build.short", ".kmend-Build.12345678", "other-build.12345678"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "kmend-build.12345678").write_text("a file")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    (tmp_path / "kmend-build.abcdefgh").symlink_to(elsewhere)
    assert remove_abandoned(tmp_path) == ()
    assert (elsewhere / "precious").exists()
    assert remove_abandoned(tmp_path / "missing") == ()


def test_it_cannot_be_made(tmp_path: Path) -> None:
    with (
        pytest.raises(SystemProblemError, match="cannot make a temporary folder") as caught,
        scratch_folder("trial", tmp_path / "missing"),
    ):
        pass
    assert "TMPDIR" in caught.value.hint
