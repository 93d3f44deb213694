"""Sources out of the distro's archive-in-a-package, taken once and kept."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import pytest
from tests.unit.factory.kernels.debs import Archive, tar_xz

from kmend.core.errors import MalformedError
from kmend.factory.kernels.packages import PackageGoneError, PackageProblemError
from kmend.factory.kernels.sources import (
    changelog,
    check_path,
    not_needed,
    source_file,
    source_files,
    source_package,
    unpack_sources,
)

VERSION = "6.1.20-1"
TREE = {
    "Makefile": b"all:\n",
    "kernel/sys.c": b"int sys;\n",
    "net/unix/af_unix.c": b"int unix;\n",
    "odd/-name *[x]": b"odd\n",
    "Documentation/Kconfig": b"config\n",
    "Documentation/admin/x.rst": b"x\n",
    "arch/Kconfig": b"arch\n",
    "arch/x86/Makefile": b"x86\n",
    "arch/arm/Makefile": b"arm\n",
    "arch/arm/common/x.c": b"arm\n",
    "arch/arm/crypto/Kconfig": b"arm\n",
    "arch/arm/crypto/x.c": b"arm\n",
    "arch/xtensa/Makefile": b"xtensa\n",
}


def offer(archive: Archive, *, cut: int = 0) -> None:
    tree = tar_xz({f"linux-source-6.1/{path}": content for path, content in TREE.items()})
    archive.offer(
        "linux-source-6.1",
        VERSION,
        {
            "./usr/share/doc/linux-source-6.1/changelog.Debian.gz": gzip.compress(b"linux (6.1.20-1) x\n"),
            "./usr/src/linux-source-6.1.tar.xz": tree[: len(tree) - cut],
        },
    )


def test_files_are_taken_out_once(archive: Archive) -> None:
    offer(archive)
    wanted = ["kernel/sys.c", "kernel/none.c", "kernel", "odd/-name *[x]", "kernel/sys.c/below"]
    expected = {path: TREE.get(path) for path in wanted}
    assert source_files(VERSION, wanted) == expected
    for path in Path(os.environ["KMEND_CACHE"]).glob("packages/*.deb"):
        path.unlink()
    archive.offers.clear()
    archive.publish()
    assert source_files(VERSION, wanted) == expected
    assert source_file(VERSION, "kernel/sys.c") == b"int sys;\n"
    with pytest.raises(PackageProblemError, match=r"has no file kernel/none\.c"):
        source_file(VERSION, "kernel/none.c")
    with pytest.raises(PackageGoneError):
        source_file(VERSION, "net/unix/af_unix.c")


def test_a_damaged_archive_is_an_error_and_nothing_is_said_to_be_missing(archive: Archive) -> None:
    offer(archive, cut=40)
    with pytest.raises(PackageProblemError, match="cannot be unpacked"):
        source_files(VERSION, ["kernel/sys.c", "kernel/none.c"])
    assert not list(Path(os.environ["KMEND_CACHE"]).glob("sources/*/absent/**/*.absent"))


def test_a_package_of_another_kind_is_an_error(archive: Archive) -> None:
    archive.offer("linux-source-6.1", VERSION, {"./usr/share/doc/x": b""})
    with pytest.raises(PackageProblemError):
        source_files(VERSION, ["kernel/sys.c"])
    with pytest.raises(PackageProblemError):
        changelog(VERSION)


def test_the_tree_without_what_x86_does_not_need(archive: Archive, tmp_path: Path) -> None:
    offer(archive)
    unpack_sources(VERSION, tmp_path)
    left_out = {"Documentation/admin/x.rst", "arch/arm/Makefile", "arch/arm/common/x.c", "arch/arm/crypto/x.c"}
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} - {"index.json"}
    tree = {path for path in found if not path.startswith(("archive/", "cache/"))}
    assert tree == set(TREE) - left_out - {"arch/xtensa/Makefile"}


def test_bulky_folders_that_the_configuration_leaves_out(archive: Archive, tmp_path: Path) -> None:
    assert "drivers/gpu/drm/amd/include" in not_needed({"CONFIG_DRM_AMDGPU": "n"})
    assert "drivers/gpu/drm/amd/include" not in not_needed({"CONFIG_DRM_AMDGPU": "m"})
    offer(archive)
    tree = tmp_path / "tree"
    tree.mkdir()
    unpack_sources(VERSION, tree, ("net", "odd"))
    assert (tree / "kernel/sys.c").is_file()
    assert not (tree / "net").exists()


def test_the_changelog(archive: Archive) -> None:
    offer(archive)
    assert changelog(VERSION) == "linux (6.1.20-1) x\n"
    calls = archive.calls()
    assert changelog(VERSION) == "linux (6.1.20-1) x\n"
    assert archive.calls() == calls


def test_the_package_of_a_version() -> None:
    assert source_package("6.1.176-1") == "linux-source-6.1"
    assert source_package("6.12.3-1~bpo12+1") == "linux-source-6.12"
    for version in ("", "6.1", "x", "../6.1.1-1", "6.1.1/1"):
        with pytest.raises(MalformedError):
            source_package(version)


@pytest.mark.parametrize(
    "path", ["", ".", "..", "/etc/passwd", "a/../b", "./a", "a//b", "a/", "a\nb", "a\\b", "x" * 5000]
)
def test_paths_that_leave_the_tree_are_refused(path: str) -> None:
    with pytest.raises(MalformedError):
        check_path(path)
    with pytest.raises(MalformedError):
        source_files(VERSION, [path])


def test_the_digest_of_a_package_is_that_of_its_file(archive: Archive) -> None:
    offer(archive)
    source_file(VERSION, "Makefile")
    (path,) = Path(os.environ["KMEND_CACHE"]).glob("packages/*.deb")
    assert archive.offers[0]["SHA256"] == hashlib.sha256(path.read_bytes()).hexdigest()
