"""Kernel packages, made here with dpkg-deb, unpacked into the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmend.core.process import run
from kmend.lab.errors import KernelPackageError
from kmend.lab.kernelpackage import unpack

RELEASE = "6.1.0-99-test"
CONTROL = "Package: linux-image-test\nVersion: 1\nArchitecture: amd64\nMaintainer: Nobody <nobody@example.org>\nDescription: x\n"


def package(folder: Path, files: dict[str, bytes]) -> Path:
    root = folder / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(CONTROL)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    run(["dpkg-deb", "--build", "--root-owner-group", "-Znone", root, folder / "kernel.deb"])
    return folder / "kernel.deb"


@pytest.mark.parametrize("prefix", ["", "usr/"])
def test_a_kernel_package(cache: Path, tmp_path: Path, prefix: str) -> None:
    deb = package(
        tmp_path,
        {
            f"boot/vmlinuz-{RELEASE}": b"bzImage",
            f"{prefix}lib/modules/{RELEASE}/kernel/note": b"",
            f"{prefix}lib/modules/{RELEASE}/modules.builtin": b"kernel/fs/ext4/ext4.ko\n",
            f"{prefix}lib/modules/{RELEASE}/modules.order": b"",
        },
    )
    kernel = unpack(deb)
    assert kernel.release == RELEASE
    assert kernel.image.read_bytes() == b"bzImage"
    assert (kernel.modules / "modules.dep").is_file()
    assert kernel.folder.is_relative_to(cache)
    assert unpack(deb) == kernel


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"usr/share/x": b""}, "no kernel images"),
        ({"boot/vmlinuz-a": b"", "boot/vmlinuz-b": b""}, "2 kernel images"),
        ({f"boot/vmlinuz-{RELEASE}": b""}, "no modules"),
    ],
)
def test_other_packages_are_refused(cache: Path, tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(KernelPackageError, match=message):
        unpack(package(tmp_path, files))
    assert [path for path in (cache / "lab/kernels").iterdir() if path.is_dir()] == []


def test_a_broken_package(cache: Path, tmp_path: Path) -> None:
    deb = package(tmp_path, {f"boot/vmlinuz-{RELEASE}": b"x" * 100_000})
    deb.write_bytes(deb.read_bytes()[:5000])
    with pytest.raises(KernelPackageError, match="cannot unpack") as caught:
        unpack(deb)
    assert "fetch it again" in caught.value.hint


def test_no_file(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(KernelPackageError, match="No such file"):
        unpack(tmp_path / "missing.deb")
