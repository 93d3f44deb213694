"""QEMU's command line and its process: started, watched, and ended together with whoever started it."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kmend.core.process import OUTPUT_TAIL
from kmend.lab import protocol
from kmend.lab.errors import PortTakenError, QemuError

GUEST_ADDRESS = "10.0.2.15"
HOST_ADDRESS = "10.0.2.4"
"""Where a guest reaches the host's loopback, on the ports that were granted. The usual 10.0.2.2 would open all of them."""
PREFIX_LENGTH = 24
_logger = logging.getLogger(__name__)
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
class Flash:
    """UEFI firmware in flash: its code, and the variables that it keeps."""

    code: Path
    variables: Path


@dataclass(frozen=True, slots=True)
class Machine:
    """A virtual machine as QEMU is told to make it.

    Attributes:
        accelerator: `tcg` or `kvm`.
        command_line: the kernel's.
        network: None for a machine without a network card; else ports of the host's loopback that the guest may reach.
        forwards: ports of the guest that the host reaches.
        flash: UEFI firmware to start the kernel; None for QEMU's own.
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
    flash: Flash | None = None

    def arguments(self, console: str, channel: int) -> list[str]:
        """QEMU's command line.

        Args:
            console: the character device behind the serial port, as `-chardev` takes it, without its ID.
            channel: file descriptor of the socket behind the runner's virtio port.
        """
        words = [_PROGRAM, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-M", "q35,smm=off"]
        if self.accelerator == "kvm":
            words += ["-accel", "kvm", "-cpu", "host"]
        else:
            words += ["-accel", "tcg,thread=multi", "-cpu", "max"]
        words += ["-smp", str(self.cpus), "-m", f"{self.memory_mib}M"]
        if self.flash is not None:
            words += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={_escaped(self.flash.code)}"]
            words += ["-drive", f"if=pflash,unit=1,format=raw,file={_escaped(self.flash.variables)}"]
        words += ["-kernel", os.fspath(self.kernel), "-initrd", os.fspath(self.initramfs)]
        words += ["-append", self.command_line]
        words += ["-chardev", f"{console},id=console", "-serial", "chardev:console"]
        words += ["-chardev", f"socket,id=channel,fd={channel}"]
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
    read_only = "on" if disk.read_only else "off"
    file = f"file.driver=file,file.filename={_escaped(disk.path)},cache.no-flush=on"
    return f"driver={disk.format},node-name={disk.serial},read-only={read_only},{file}"


def _escaped(path: Path) -> str:
    """A path inside an option of QEMU's, where a comma is doubled."""
    return os.fspath(path).replace(",", ",,")


def free_port() -> int:
    """A TCP port that is free on 127.0.0.1 at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def terminal_console(log: Path) -> str:
    """The character device that is our own terminal, with a copy in `log`; ^C goes to the guest."""
    return f"stdio,signal=off,logfile={_escaped(log)},logappend=on"


class Process:
    """A running QEMU. It is killed when the thread that started it ends (PR_SET_PDEATHSIG), so it never outlives us.

    Args:
        command: as `Machine.arguments` gives it.
        handed: the file descriptors that it mentions.
        errors: the file that takes what QEMU itself says.
        terminal: leave it our standard input and output.

    Raises:
        QemuError: it cannot be started.
    """

    def __init__(self, command: Sequence[str], handed: Sequence[int], errors: Path, *, terminal: bool) -> None:
        self._errors = errors
        self.line = shlex.join(command)
        _logger.debug("+ %s", self.line)
        try:
            with errors.open("wb") as stream:
                # A long-lived child with sockets handed to it, so not kmend.core.process.run.
                self._child = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", "--", *command],
                    stdin=None if terminal else subprocess.DEVNULL,
                    stdout=None if terminal else stream,
                    stderr=stream,
                    pass_fds=handed,
                    cwd=errors.parent,  # QEMU aborts where KVM is broken; its core file goes away with the folder
                )
        except FileNotFoundError:
            raise QemuError("setpriv is not installed", hint="install the package util-linux") from None
        except OSError as problem:
            raise QemuError(f"cannot start {_PROGRAM}: {problem.strerror}") from problem

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
        if "host forwarding rule" in text:
            return PortTakenError(f"a port of 127.0.0.1 cannot be forwarded: {text}")
        missing = "No such file or directory" in text and _PROGRAM in text
        if self.status == 127 or missing:
            return QemuError(f"{_PROGRAM} is not installed", hint="install the package qemu-system-x86")
        return QemuError(f"QEMU ended with status {self.status}: {text or 'it said nothing'}\n{self.line}")
