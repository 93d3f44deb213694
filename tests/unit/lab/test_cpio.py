"""Archives for the kernel, unpacked again by busybox, which has a reader of its own."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from kmend.core.process import run
from kmend.lab.cpio import Archive
from kmend.lab.errors import LabError


def test_what_is_put_in_comes_out(tmp_path: Path) -> None:
    archive = Archive()
    content = os.urandom(12345)
    archive.folder("empty", 0o700)
    archive.file("a/b/odd", content, 0o755)
    archive.file("a/b/none", b"")
    archive.link("a/link", "b/odd")
    run(["busybox", "cpio", "-i", "-d", "-m"], cwd=tmp_path, stdin=archive.finish())
    assert (tmp_path / "a/b/odd").read_bytes() == content
    assert (tmp_path / "a/link").read_bytes() == content
    assert (tmp_path / "a/b/none").read_bytes() == b""
    assert stat.S_IMODE((tmp_path / "a/b/odd").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o700
    assert {path.name for path in tmp_path.rglob("*")} == {"empty", "a", "b", "odd", "none", "link"}


def test_a_path_cannot_be_put_in_twice() -> None:
    archive = Archive()
    archive.file("x", b"")
    with pytest.raises(LabError, match="twice"):
        archive.file("/x", b"")


def test_equal_content_gives_equal_bytes() -> None:
    def made() -> bytes:
        archive = Archive()
        archive.file("etc/x", b"1")
        return archive.finish()

    assert made() == made()
    assert len(made()) % 4 == 0
