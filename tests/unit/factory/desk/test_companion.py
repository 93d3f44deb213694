"""Companions are found by name and build ID, in stores and in builds' folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.sample_livepatch import livepatch

from kmend.core.document import encode
from kmend.core.manifest import Manifest
from kmend.factory.desk.companion import Companion, CompanionError, find_companion, open_companion
from kmend.factory.elf import ObjectFile, Section, write_object
from kmend.factory.elf.constants import SHF_ALLOC

BUILD_ID = "ab" + "cd" * 19
NOTE = bytes.fromhex("040000001400000003000000474e5500") + bytes.fromhex(BUILD_ID)
TEXT = b"""\
int a;
#line 2 "fixed/fs/a.c"
int added;
#line 2 "fs/a.c"
int b;
int c;
#line 7
int d;
"""


@pytest.fixture
def manifest() -> Manifest:
    return livepatch(1, ["CVE-2026-1001"])[0]


def lay(folder: Path, manifest: Manifest) -> Path:
    """A companion in `folder`."""
    (folder / "patched/fs").mkdir(parents=True)
    note = Section(".note.gnu.build-id", flags=SHF_ALLOC, content=NOTE)
    (folder / f"{manifest.module.name}.ko.debug").write_bytes(write_object(ObjectFile([note])))
    (folder / "manifest.json").write_bytes(encode(manifest))
    (folder / "patched/fs/a.c").write_bytes(TEXT)
    return folder


def test_in_a_store_by_name_and_by_build_id(manifest: Manifest, tmp_path: Path) -> None:
    name = manifest.module.name
    folder = lay(tmp_path / "store" / "anything", manifest)
    link = tmp_path / "store/.build-id/ab" / f"{BUILD_ID[2:]}.debug"
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(folder / f"{name}.ko.debug", link.parent))
    assert find_companion(name, BUILD_ID, [tmp_path / "store"]).folder == folder.resolve()
    with pytest.raises(CompanionError, match="no debug companion"):
        find_companion(name, None, [tmp_path / "store"])
    folder.rename(tmp_path / "store" / name)
    assert find_companion(name, None, [tmp_path / "nowhere", tmp_path / "store"]).build_id == BUILD_ID


def test_in_a_builds_folder_and_in_a_folder_of_builds(manifest: Manifest, tmp_path: Path) -> None:
    lay(tmp_path / "builds/level-1/debug", manifest)
    for place in (tmp_path / "builds/level-1", tmp_path / "builds"):
        assert find_companion(manifest.module.name, None, [place]).folder == tmp_path / "builds/level-1/debug"
    assert open_companion(tmp_path / "builds") is None


def test_of_another_build(manifest: Manifest, tmp_path: Path) -> None:
    lay(tmp_path / "debug", manifest)
    with pytest.raises(CompanionError, match=f"has build ID {BUILD_ID}, the trace {'1' * 40}"):
        find_companion(manifest.module.name, "1" * 40, [tmp_path])
    with pytest.raises(CompanionError, match="no debug companion") as caught:
        find_companion("kmend_2_00000000", None, [tmp_path])
    assert "reproduce" in caught.value.hint


def test_damaged(manifest: Manifest, tmp_path: Path) -> None:
    folder = lay(tmp_path / "debug", manifest)
    (folder / f"{manifest.module.name}.ko.debug").write_bytes(b"\x7fELF")
    with pytest.raises(CompanionError, match="cannot be read"):
        find_companion(manifest.module.name, BUILD_ID, [tmp_path])
    (folder / "manifest.json").write_bytes(b"{")
    with pytest.raises(CompanionError, match="not a valid JSON document"):
        find_companion(manifest.module.name, None, [tmp_path])


def test_lines_of_patched_files(manifest: Manifest, tmp_path: Path) -> None:
    companion = Companion(lay(tmp_path / "debug", manifest), manifest)
    kept = {number: companion.text("fs/a.c", number, added=False) for number in (1, 2, 3, 4, 7)}
    assert kept == {1: "int a;", 2: "int b;", 3: "int c;", 4: None, 7: "int d;"}
    assert companion.text("fs/a.c", 2, added=True) == "int added;"
    for path in ("fs/absent.c", "../manifest.json", "/etc/passwd"):
        assert companion.text(path, 1, added=False) is None
