"""Folders of machines: theirs alone, and cleared away when their owner has died."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmend.lab.errors import LabError
from kmend.lab.runfolder import RunFolder


def test_made_and_removed(cache: Path) -> None:
    folder = RunFolder()
    assert folder.path.parent == cache / "lab/runs"
    (folder.path / "disk").write_bytes(b"x")
    folder.remove()
    assert not folder.path.exists()


def test_an_abandoned_one_goes_a_living_one_stays(cache: Path) -> None:
    living = RunFolder()
    dead = cache / "lab/runs/vm-dead"
    dead.mkdir()
    (dead / "lock").touch()
    (dead / "disk").write_bytes(b"x")
    unlocked = cache / "lab/runs/vm-started"
    unlocked.mkdir()
    another = RunFolder()
    assert living.path.exists()
    assert not dead.exists()
    assert not unlocked.exists()
    living.remove()
    another.remove()


def test_it_cannot_be_made(cache: Path) -> None:
    cache.mkdir()
    (cache / "lab").write_text("a file is in the way")
    with pytest.raises(LabError, match="cannot make a folder"):
        RunFolder()
