"""A source package, read once: Makefiles are written, source files are named, what they include is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.factory.kernels.debs import Archive, children, tar_xz

from kmend.factory.kernels import outline as room
from kmend.factory.kernels.outline import Outline, outline
from kmend.factory.kernels.packages import Package, PackageProblemError, fetch_package

FILES = {
    "Kbuild": b"obj-y += net/\n",
    "net/Makefile": b"obj-y := a.o\n",
    "net/a.c": b'#include "b.c"\n' + b"x" * 3000,
    "net/b.c": b"",
    "net/c.S": b"",
    "net/d.h": b'#include "b.c"\n' + b" " * (512 - 15),
    "net/readme.txt": b'#include "b.c"\n',
    "arch/Kconfig": b"",
    "arch/x86/Makefile": b"BITS := 64\n",
    "arch/x86/x.c": b"",
    "arch/arm/Makefile": b"",
    "arch/arm/y.c": b"",
    "Documentation/z.c": b"",
    "scripts/link-vmlinux.sh": b"#!/bin/sh\n",
    "scripts/other.sh": b"#!/bin/sh\n",
}


def package(archive: Archive, tree: bytes) -> Package:
    archive.offer("linux-source-6.1", "6.1.8-1", {"./usr/src/linux-source-6.1.tar.xz": tree})
    return fetch_package("linux-source-6.1", "6.1.8-1")


def tree(files: dict[str, bytes] | None = None) -> bytes:
    return tar_xz({f"linux-source-6.1/{path}": content for path, content in (files or FILES).items()})


def test_one_pass(archive: Archive, tmp_path: Path) -> None:
    seen: list[int] = []
    found = outline(package(archive, tree()), tmp_path / "out", seen=seen.append)
    assert found == Outline(
        frozenset({"net/a.c", "net/b.c", "net/c.S", "arch/x86/x.c"}), {"net/b.c": ["net/a.c", "net/d.h"]}
    )
    written = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*.*")
        if path.is_file()
    }
    assert written == {"scripts/link-vmlinux.sh": b"#!/bin/sh\n"}
    for name in ("Kbuild", "net/Makefile", "arch/x86/Makefile"):
        assert (tmp_path / "out" / name).read_bytes() == FILES[name]
    assert not (tmp_path / "out/arch/arm").exists()
    assert seen == [0]
    assert children() == ""


@pytest.mark.parametrize("cut", [100, 200])
def test_a_package_that_is_cut_short(archive: Archive, tmp_path: Path, cut: int) -> None:
    whole = tree()
    with pytest.raises(PackageProblemError):
        outline(package(archive, whole[: len(whole) - cut]), tmp_path)
    assert children() == ""


def test_a_package_that_is_none(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(PackageProblemError):
        outline(package(archive, b"junk"), tmp_path)


def test_a_path_that_leaves_the_folder(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(PackageProblemError, match="unsafe path"):
        outline(package(archive, tree({"../../Makefile": b"x"})), tmp_path)


def test_what_is_too_much(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = package(archive, tree())
    with monkeypatch.context() as patched:
        patched.setattr(room, "MAX_FILES", 3)
        with pytest.raises(PackageProblemError, match="more than 3 files"):
            outline(one, tmp_path)
    monkeypatch.setattr(room, "MAX_FILE", 2000)
    with pytest.raises(PackageProblemError, match=r"net/a\.c in .* is 3015 bytes"):
        outline(one, tmp_path)
    assert children() == ""
