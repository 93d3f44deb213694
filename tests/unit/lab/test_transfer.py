"""The archives in which files travel into a guest."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from kmend.lab import transfer
from kmend.lab.errors import CopyError


def listed(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as stream:
        return {entry.name: entry for entry in stream}


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/program").write_bytes(b"x" * 100)
    (tmp_path / "tree/sub/program").chmod(0o750)
    (tmp_path / "tree/link").symlink_to("sub/program")
    entries = listed(transfer.archive_path(tmp_path / "tree", "/opt/there"))
    assert set(entries) == {"opt/there", "opt/there/sub", "opt/there/sub/program", "opt/there/link"}
    assert entries["opt/there/sub/program"].mode == 0o750
    assert entries["opt/there/link"].linkname == "sub/program"
    assert all((entry.uid, entry.gid, entry.uname) == (0, 0, "root") for entry in entries.values())


def test_a_link_given_by_name_means_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert listed(transfer.archive_path(tmp_path / "link", "/x"))["x"].size == 7


def test_bytes() -> None:
    entry = listed(transfer.archive_bytes(b"abc", "/etc/secret", 0o600))["etc/secret"]
    assert (entry.size, entry.mode) == (3, 0o600)


@pytest.mark.parametrize("target", ["", "relative", "/", "/a/../b", "../x"])
def test_targets_that_make_no_sense(target: str) -> None:
    with pytest.raises(CopyError, match="not an absolute path"):
        transfer.archive_bytes(b"", target, 0o644)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CopyError, match="No such file"):
        transfer.archive_path(tmp_path / "missing", "/x")


def test_what_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "MAX_BYTES", 1000)
    (tmp_path / "file").write_bytes(os.urandom(1001))
    with pytest.raises(CopyError, match="larger than 1000 bytes"):
        transfer.archive_path(tmp_path / "file", "/x")


def test_a_target_on_the_host_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CopyError, match="copied from /etc/x"):
        transfer.store(b"", "/etc/x", tmp_path / "missing" / "file")
