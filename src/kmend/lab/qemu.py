"""QEMU's command line and its process: started, watched, and ended together with whoever started it."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kmend.core.process import OUTPUT_TAIL
from kmend.lab import protocol
from kmend.lab.errors import QemuError

GUEST_ADDRESS = "10.0.2.15"
HOST_ADDRESS = "10.0.2.4"
"""Where a guest reaches the host's loopback, on the ports that were granted. The usual 10.0.2.2 would open all of them."""
PREFIX_LENGTH = 24
_PROGRAM = "qemu-system-x86_64"


@dataclass(frozen=True, slots=True)
class Forward:
    """A TCP port of the guest that the host reaches at 127.0.0.1:`host_port`."""

    guest_port: int
    host_port: int


@dataclass(frozen=True, slots=True)
class Disk:
    """A virtio disk.

    Attributes:
        serial: by which the guest finds it.
        format: `raw` or `qcow2`.
    """

    path: Path
    serial: str
    format: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """A virtual machine as QEMU is told to make it.

    Attributes:
        accelerator: `tcg` or `kvm`.
        command_line: the kernel's.
        network: None for a machine without a network card; else ports of the host's loopback that the guest may reach.
        console: file descriptor of a socket for the serial port; None puts it on our own standard input and output.
        channel: file descriptor of a socket for the runner's virtio port.
    """

    accelerator: str
    cpus: int
    memory_mib: int
    kernel: Path
    initramfs: Path
    command_line: str
    disks: tuple[Disk, ...]
    network: tuple[int, ...] | None
    forwards: tuple[Forward, ...]
    console: int | None
    channel: int

    def arguments(self) -> list[str]:
        """QEMU's command line."""
        words = [_PROGRAM, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-M", "q35,smm=off"]
        if self.accelerator == "kvm":
            words += ["-accel", "kvm", "-cpu", "host"]
        else:
            words += ["-accel", "tcg,thread=multi", "-cpu", "max"]
        words += ["-smp", str(self.cpus), "-m", f"{self.memory_mib}M"]
        words += ["-kernel", os.fspath(self.kernel), "-initrd", os.fspath(self.initramfs)]
        words += ["-append", self.command_line]
        console = "stdio,id=console,signal=off" if self.console is None else f"socket,id=console,fd={self.console}"
        words += ["-chardev", console, "-serial", "chardev:console"]
        words += ["-chardev", f"socket,id=channel,fd={self.channel}"]
        words += [
            "-device",
            "virtio-serial-pci",
            "-device",
            f"virtserialport,chardev=channel,name={protocol.PORT_NAME}",
        ]
        for disk in self.disks:
            words += ["-blockdev", _block_device(disk)]
            words += ["-device", f"virtio-blk-pci,drive={disk.serial},serial={disk.serial},werror=report,rerror=report"]
        if self.network is not None:
            words += ["-netdev", self._netdev(self.network), "-device", "virtio-net-pci,netdev=net,romfile="]
        return words

    def _netdev(self, granted: Sequence[int]) -> str:
        # guestfwd with a character device carries one connection only; with a command, each connection has its own.
        parts = ["user,id=net,restrict=on,ipv6=off"]
        parts += [f"guestfwd=tcp:{HOST_ADDRESS}:{port}-cmd:busybox nc 127.0.0.1 {port}" for port in granted]
        parts += [f"hostfwd=tcp:127.0.0.1:{item.host_port}-:{item.guest_port}" for item in self.forwards]
        return ",".join(parts)


def _block_device(disk: Disk) -> str:
    # no-flush: a guest's flush reaches the host's page cache, which survives the end of QEMU; the host's own disk is
    # not waited for.
    name = os.fspath(disk.path).replace(",", ",,")
    read_only = "on" if disk.read_only else "off"
    file = f"file.driver=file,file.filename={name},cache.no-flush=on"
    return f"driver={disk.format},node-name={disk.serial},read-only={read_only},{file}"


def free_port() -> int:
    """A TCP port that is free on 127.0.0.1 at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A running QEMU. It is killed when the thread that started it ends (PR_SET_PDEATHSIG), so it never outlives us.

    Raises:
        QemuError: it cannot be started.
    """

    def __init__(self, machine: Machine, keep: Sequence[int], errors: Path) -> None:
        self._errors = errors
        words = machine.arguments()
        try:
            with errors.open("wb") as stream:
                # A long-lived child with sockets handed to it, so not kmend.core.process.run.
                self._child = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", "--", *words],
                    stdin=None if machine.console is None else subprocess.DEVNULL,
                    stdout=None if machine.console is None else stream,
                    stderr=stream,
                    pass_fds=keep,
                )
        except FileNotFoundError:
            raise QemuError("setpriv is not installed", hint="install the package util-linux") from None
        except OSError as problem:
            raise QemuError(f"cannot start {_PROGRAM}: {problem.strerror}") from problem
        self.line = shlex.join(words)

    @property
    def pid(self) -> int:
        """QEMU's process ID."""
        return self._child.pid

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._child.poll()

    def wait(self, timeout: float) -> bool:
        """Whether it ended within `timeout` seconds."""
        try:
            self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End it at once. A process stuck inside the kernel (a KVM that hangs) is left to its fate after 10 s."""
        if self._child.poll() is None:
            self._child.kill()
            self.wait(10)

    def complaint(self) -> str:
        """The end of what QEMU itself wrote to its standard error."""
        try:
            return self._errors.read_bytes()[-OUTPUT_TAIL:].decode(errors="replace").strip()
        except OSError:
            return ""

    def failure(self) -> QemuError:
        """The error for a QEMU that ended by itself with a status other than 0."""
        text = self.complaint()
        missing = "No such file or directory" in text and _PROGRAM in text
        if self.status == 127 or missing:
            return QemuError(f"{_PROGRAM} is not installed", hint="install the package qemu-system-x86")
        return QemuError(f"QEMU ended with status {self.status}: {text or 'it said nothing'}\n{self.line}")
