"""The initial file system of a guest: busybox, the runner, the modules to load, and `init.sh`.

A micro guest lives in it. For a full guest it loads what the disks and the network need, mounts them, puts the runner's
service into `/run` and hands over to systemd; so the userland on disk stays a plain Debian.
"""

from __future__ import annotations

import enum
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from kmend.lab.cpio import Archive
from kmend.lab.kernelpackage import UnpackedKernel
from kmend.lab.modules import modules_to_load
from kmend.lab.programs import program

_RUNNER_UNIT = """\
[Unit]
Description=kmend lab: run commands for the host
DefaultDependencies=no
After=systemd-remount-fs.service systemd-tmpfiles-setup.service local-fs.target
Conflicts=shutdown.target
[Service]
ExecStart=/run/kmend-lab/runner
Restart=no
OOMScoreAdjust=-900
TasksMax=infinity
LimitNOFILE=65536
KillMode=mixed
"""
_SHELL_UNIT = """\
[Unit]
Description=kmend lab: a shell on the console
After=multi-user.target
[Service]
Environment=HOME=/root TERM=vt102
WorkingDirectory=/root
ExecStart=/bin/sh -c "stty {size}; exec bash -l"
ExecStopPost=/bin/systemctl --no-block poweroff
StandardInput=tty
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
"""


class Shape(enum.Enum):
    """What runs in a guest: `micro` is busybox in memory, up in seconds; `full` is Debian with systemd and Python."""

    MICRO = "micro"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the initial file system is made for.

    Attributes:
        modules: loaded before anything else runs, with all that they need.
        address: the guest's address with its prefix length; None leaves it without a network.
        terminal: its rows and columns, to start a shell on the serial console; the end of that powers the guest off.
    """

    shape: Shape
    modules: tuple[str, ...] = ()
    address: str | None = None
    terminal: tuple[int, int] | None = None

    @property
    def all_modules(self) -> tuple[str, ...]:
        """`modules` and those that the lab itself needs."""
        own = ["virtio_pci", "virtio_console"]
        own += ["virtio_net"] if self.address else []
        own += ["virtio_blk", "ext4"] if self.shape is Shape.FULL else []
        return (*own, *self.modules)


def build(kernel: UnpackedKernel, settings: Settings, runner: bytes) -> bytes:
    """The initial file system, as the kernel takes it.

    Raises:
        KernelPackageError: the kernel lacks a module that is wanted.
        UserlandError: busybox is not installed.
    """
    archive = Archive()
    for folder in ("dev", "proc", "sys", "run", "tmp", "root", "etc", "sbin", "usr/bin", "usr/sbin"):
        archive.folder(folder)
    archive.file("bin/busybox", program("busybox").read_bytes(), 0o755)
    archive.file("init", resources.files(__package__).joinpath("init.sh").read_bytes(), 0o755)
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
    archive.file("etc/group", b"root:x:0:\ntty:x:5:\nnogroup:x:65534:\n")
    archive.file("lab/runner", runner, 0o755)
    archive.file("lab/settings", _assignments(kernel, settings))
    files = modules_to_load(kernel.modules, settings.all_modules)
    archive.file("lab/modules", "".join(f"{name}\n" for name in files).encode())
    for name in files:
        archive.file(f"lib/modules/{kernel.release}/{name}", (kernel.modules / name).read_bytes())
    if settings.shape is Shape.FULL:
        _add_units(archive, settings)
    return archive.finish()


def _assignments(kernel: UnpackedKernel, settings: Settings) -> bytes:
    values = {
        "shape": settings.shape.value,
        "release": kernel.release,
        "network": settings.address or "",
        "shell": _size(settings.terminal) if settings.terminal else "",
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()).encode()


def _add_units(archive: Archive, settings: Settings) -> None:
    archive.folder("lab/run/kmend-lab")
    units: Sequence[tuple[str, str, str]] = [("kmend-lab-runner.service", _RUNNER_UNIT, "sysinit.target")]
    if settings.terminal:
        units = [
            *units,
            ("kmend-lab-shell.service", _SHELL_UNIT.format(size=_size(settings.terminal)), "multi-user.target"),
        ]
    for name, text, target in units:
        archive.file(f"lab/run/systemd/system/{name}", text.encode())
        archive.link(f"lab/run/systemd/system/{target}.wants/{name}", f"../{name}")


def _size(terminal: tuple[int, int]) -> str:
    """The words by which stty sets a terminal's size."""
    return f"rows {terminal[0]} cols {terminal[1]}"
