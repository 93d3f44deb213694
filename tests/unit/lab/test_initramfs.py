"""What is put into a guest's initial file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmend.core.process import run
from kmend.lab import initramfs
from kmend.lab.errors import KernelPackageError, UserlandError
from kmend.lab.initramfs import Settings, Shape
from kmend.lab.kernelpackage import UnpackedKernel

MODULES = ("virtio_pci", "virtio_console", "virtio_net", "virtio_blk", "tls")


@pytest.fixture
def kernel(tmp_path: Path) -> UnpackedKernel:
    kernel = UnpackedKernel(tmp_path / "kernel", "6.1-test", "0" * 64)
    (kernel.modules / "kernel").mkdir(parents=True)
    for name in MODULES:
        (kernel.modules / f"kernel/{name}.ko").write_bytes(name.encode())
    (kernel.modules / "modules.dep").write_text("".join(f"kernel/{name}.ko:\n" for name in MODULES))
    (kernel.modules / "modules.builtin").write_text("kernel/ext4.ko\n")
    return kernel


def unpacked(tmp_path: Path, archive: bytes) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    run(["busybox", "cpio", "-i", "-d"], cwd=folder, stdin=archive)
    return folder


def test_micro(tmp_path: Path, kernel: UnpackedKernel) -> None:
    settings = Settings(Shape.MICRO, modules=("tls",), address="10.0.2.15/24")
    root = unpacked(tmp_path, initramfs.build(kernel, settings, b"the runner"))
    assert (root / "lab/runner").read_bytes() == b"the runner"
    assert (root / "lab/modules").read_text().split() == [
        "kernel/virtio_pci.ko",
        "kernel/virtio_console.ko",
        "kernel/virtio_net.ko",
        "kernel/tls.ko",
    ]
    assert (root / "lib/modules/6.1-test/kernel/tls.ko").read_bytes() == b"tls"
    assert "network=10.0.2.15/24" in (root / "lab/settings").read_text()
    assert not (root / "lab/run").exists()
    assert run([root / "bin/busybox", "sh", "-n", root / "init"]).status == 0


def test_full_brings_its_disk_drivers_and_the_service(tmp_path: Path, kernel: UnpackedKernel) -> None:
    root = unpacked(tmp_path, initramfs.build(kernel, Settings(Shape.FULL, terminal=(24, 80)), b""))
    assert "kernel/virtio_blk.ko" in (root / "lab/modules").read_text()
    assert "virtio_net" not in (root / "lab/modules").read_text()
    units = root / "lab/run/systemd/system"
    assert (units / "sysinit.target.wants/kmend-lab-runner.service").resolve().is_file()
    assert "stty rows 24 cols 80" in (units / "kmend-lab-shell.service").read_text()


def test_settings_are_quoted_for_the_shell(tmp_path: Path, kernel: UnpackedKernel) -> None:
    root = unpacked(tmp_path, initramfs.build(kernel, Settings(Shape.MICRO, terminal=(24, 80)), b""))
    shown = run(["sh", "-c", '. "$0"; echo "$shape $release [$network] $shell"', root / "lab/settings"]).text
    assert shown == "micro 6.1-test [] rows 24 cols 80\n"


def test_a_module_that_the_kernel_lacks(kernel: UnpackedKernel) -> None:
    with pytest.raises(KernelPackageError, match="no module nonsense"):
        initramfs.build(kernel, Settings(Shape.MICRO, modules=("nonsense",)), b"")


def test_busybox_is_missing(tmp_path: Path, kernel: UnpackedKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_args, **_options: None)
    with pytest.raises(UserlandError, match="busybox is not installed") as caught:
        initramfs.build(kernel, Settings(Shape.MICRO), b"")
    assert "busybox-static" in caught.value.hint
