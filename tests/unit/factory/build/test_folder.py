"""The folder that a livepatch is put into."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from tests.unit.sample_livepatch import livepatch, source_of

from kmend.core.document import encode
from kmend.core.errors import KmendError, SystemProblemError
from kmend.factory.build.builder import Built
from kmend.factory.build.folder import OutputFolderError, reserved_folder, write_build
from kmend.trust.signing.publishing import read_build

CVES = ["CVE-2026-2001", "CVE-2026-2002"]


def built(cves: list[str] = CVES) -> Built:
    """What `write_build` looks at of a livepatch."""
    manifest, module = livepatch(1, cves)
    return cast(Built, SimpleNamespace(manifest=manifest, module=module, source=source_of(cves)))


STEPS = 18
"""How often writing a livepatch makes something durable."""


def content(folder: Path) -> dict[str, bytes]:
    """Every file below it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_new_folder_with_its_parents(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    write_build(built(), folder)
    assert read_build(folder).manifest == built().manifest
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["manifest.json", "source", f"{built().manifest.module.name}.ko"]
    )


def test_nothing_stays_behind_when_nothing_is_built(tmp_path: Path) -> None:
    with reserved_folder(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with reserved_folder(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()


def test_a_file_in_its_place_or_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputFolderError, match="is not a folder") as caught, reserved_folder(folder):
            pass
        assert caught.value.hint
        assert caught.value.exit_status == 2
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputFolderError, match="leads nowhere"), reserved_folder(tmp_path / "link"):
        pass
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(OutputFolderError, match=r"holds notes\.txt, which does not belong to a livepatch"):
        write_build(built(), tmp_path)
    assert content(tmp_path) == {"notes.txt": b"precious"}


def test_another_livepatch(tmp_path: Path) -> None:
    write_build(built(), tmp_path)
    before = content(tmp_path)
    with pytest.raises(OutputFolderError, match="holds another livepatch already"):
        write_build(built(CVES[:1]), tmp_path)
    assert content(tmp_path) == before


def test_the_same_one_again_and_a_half_written_one(tmp_path: Path) -> None:
    write_build(built(), tmp_path)
    before = content(tmp_path)
    write_build(built(), tmp_path)
    assert content(tmp_path) == before
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "source" / "0002-left.patch").write_text("of another build")
    (tmp_path / "kmend_9_0123abcd.ko").write_text("half")
    write_build(built(), tmp_path)
    assert content(tmp_path) == before


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("kmend.core.scratch.tempfile.mkdtemp", refuse)
    with pytest.raises(SystemProblemError, match="Permission denied"), reserved_folder(tmp_path / "new"):
        pytest.fail("the work must not begin")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fails", range(STEPS + 1))
def test_a_full_disk_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int) -> None:
    """The folder is as it was, or whole; and another try succeeds."""
    calls = 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == fails + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("kmend.core.durable.os.fsync", fsync)
        refused = pytest.raises(KmendError) if fails < STEPS else nullcontext()
        with refused as caught:
            write_build(built(), folder)
    assert calls >= min(fails + 1, STEPS)
    if caught is not None:
        assert caught.value.hint
        # Without a manifest it is taken for nothing.
        assert not (folder / "manifest.json").exists() or read_build(folder).manifest == built().manifest
        assert not list(tmp_path.rglob(".kmend-*"))
    write_build(built(), folder)
    assert (folder / "manifest.json").read_bytes() == encode(built().manifest)
    assert read_build(folder).module == built().module
