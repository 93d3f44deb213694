"""A virtual machine: booted, used, powered off or cut off, and booted again from the same disk."""

from __future__ import annotations

import fcntl
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from kmend.core.cache import cache_root, locked
from kmend.lab import accelerator, initramfs, qemu, transfer
from kmend.lab.channel import Channel, Command, Result
from kmend.lab.errors import (
    BootTimeoutError,
    GuestError,
    GuestLostError,
    LabError,
    PanicError,
    PowerOffError,
    QemuError,
)
from kmend.lab.initramfs import Settings, Shape
from kmend.lab.kernelpackage import UnpackedKernel, unpack
from kmend.lab.qcow2 import create_overlay
from kmend.lab.runner import runner_program
from kmend.lab.serial import SerialLog
from kmend.lab.userland import modules_image, userland_image

BOOT_SECONDS = {Shape.MICRO: 90.0, Shape.FULL: 240.0}
"""How long a guest may take to come up; a busy machine without KVM needs several times what an idle one does."""
DEFAULT_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LANG": "C.UTF-8",
}
MAX_OUTPUT = 16 * 1024 * 1024
_COMMAND_LINE = "console=ttyS0 panic=-1 net.ifnames=0 loglevel=5 systemd.show_status=0"
_HOSTFWD_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Network:
    """A guest's network card. The guest is 10.0.2.15; its network is up before anything of the userland runs.

    Attributes:
        to_host: ports of the host's 127.0.0.1 that the guest reaches as `HOST_ADDRESS:port`; nothing else is reachable.
        to_guest: TCP ports of the guest that the host reaches; `Vm.host_port` tells where.
    """

    to_host: tuple[int, ...] = ()
    to_guest: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Definition:
    """What a virtual machine is made of.

    Attributes:
        kernel: the package to boot.
        shape: what runs in it.
        cpus: virtual processors.
        memory_mib: memory, in MiB.
        modules: kernel modules (by name) to load before anything else runs, with what they need.
        network: None for no network card.
        command_line: more words for the kernel's command line.
        packages: Debian packages that a full guest has besides the usual ones.
        accelerator: `kvm` or `tcg`; None takes KVM where it is known to work.
    """

    kernel: UnpackedKernel
    shape: Shape = Shape.MICRO
    cpus: int = 1
    memory_mib: int = 1024
    modules: tuple[str, ...] = ()
    network: Network | None = None
    command_line: str = ""
    packages: tuple[str, ...] = ()
    accelerator: str | None = None


class Vm:
    """One virtual machine with its disk. A context manager: leaving it cuts the power and removes the disk.

    Not started by its making; `start` boots it, and after `power_off` or `power_cut` boots it again from the same disk.
    A micro guest has no disk: each boot begins anew. Its methods may be used from several threads at once, but
    the thread that calls `start` must live as long as the guest (QEMU is killed when that thread ends).
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self._folder, self._lock = _run_folder()
        self._process: qemu.Process | None = None
        self._channel: Channel | None = None
        self._serial: SerialLog | None = None
        self._forwards: dict[int, int] = {}
        self._ending = False
        self.boot_id = ""
        """The guest kernel's boot ID; another one after each start."""
        self.boot_seconds = 0.0
        """From the start of QEMU to the runner's greeting, at the last start."""

    def __enter__(self) -> Vm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether QEMU runs."""
        return self._process is not None and self._process.status is None

    @property
    def serial_log(self) -> Path:
        """The serial console's log, of all boots; gone after `close`."""
        return self._folder / "serial.log"

    def start(self, timeout: float | None = None) -> None:
        """Boot, and wait until commands can be run.

        Args:
            timeout: seconds; None takes `BOOT_SECONDS`.

        Raises:
            BootTimeoutError: it did not come up in time (it is cut off then).
            PanicError, GuestLostError: its kernel panicked, or it ended.
            QemuError: QEMU is missing or does not start.
            KernelPackageError, UserlandError: what it is made of cannot be made.
        """
        if self.running:
            raise LabError("the virtual machine runs already")
        limit = BOOT_SECONDS[self.definition.shape] if timeout is None else timeout
        begun = time.monotonic()
        for attempt in range(_HOSTFWD_ATTEMPTS):
            begun = time.monotonic()
            self._launch(console=False)
            assert self._channel is not None
            assert self._process is not None
            ready = self._channel.wait_ready(limit)
            if ready is not None:
                break
            taken = self._process.wait(1) and "host forwarding rule" in self._process.complaint()
            if not taken or attempt + 1 == _HOSTFWD_ATTEMPTS:
                problem = self._boot_failure(limit)
                self.power_cut()
                raise problem
            self.power_cut()
        assert ready is not None
        self.boot_id = ready.boot_id
        self.boot_seconds = time.monotonic() - begun
        if ready.release != self.definition.kernel.release:
            raise GuestLostError(f"the guest runs {ready.release}, not {self.definition.kernel.release}")

    def shell(self) -> int:
        """Boot with a shell on our own terminal and wait for its end; returns QEMU's exit status."""
        if self.running:
            raise LabError("the virtual machine runs already")
        self._launch(console=True)
        assert self._process is not None
        while not self._process.wait(3600):
            pass
        status = self._process.status or 0
        self._detach()
        return status

    def start_command(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        folder: str = "/root",
        max_output: int = MAX_OUTPUT,
    ) -> Command:
        """Start a command in the guest and return at once; it goes on beside others until it ends or is killed.

        Args:
            command: program and arguments; no shell is involved.
            environment: added to `DEFAULT_ENVIRONMENT`.
            folder: working directory.
            max_output: bytes kept of each of its streams; it is killed if it writes more.
        """
        return self._live().start(command, {**DEFAULT_ENVIRONMENT, **(environment or {})}, folder, max_output)

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        folder: str = "/root",
        timeout: float = 60.0,
        check: bool = True,
        max_output: int = MAX_OUTPUT,
    ) -> Result:
        """Run a command in the guest to its end.

        Raises:
            CommandFailedError: it cannot be started, wrote too much, or (with `check`) its status is not 0.
            TimeLimitError: it was killed after `timeout` seconds.
            PanicError, GuestLostError: the guest did not survive it.
        """
        deadline = time.monotonic() + timeout
        running = self.start_command(command, environment=environment, folder=folder, max_output=max_output)
        running.send(stdin, timeout)
        running.end_input()
        return running.wait(max(0.0, deadline - time.monotonic()), check=check)

    def sh(self, script: str, *, timeout: float = 60.0, check: bool = True) -> Result:
        """Run a script by the guest's `/bin/sh`."""
        return self.run(["sh", "-c", script], timeout=timeout, check=check)

    def put(self, source: Path, target: str, *, timeout: float = 120.0) -> None:
        """Copy a file or a folder of the host to the path `target` in the guest; missing parents are made.

        Raises:
            CopyError: it cannot be read here or written there.
        """
        transfer.put(self, transfer.archive_path(source, target), target, timeout)

    def put_bytes(self, content: bytes, target: str, *, mode: int = 0o644, timeout: float = 120.0) -> None:
        """Write a file in the guest; missing parents are made.

        Raises:
            CopyError: it cannot be written.
        """
        transfer.put(self, transfer.archive_bytes(content, target, mode), target, timeout)

    def read(self, path: str, *, max_bytes: int = 64 * 1024 * 1024, timeout: float = 120.0) -> bytes:
        """The content of a file in the guest.

        Raises:
            CopyError: it cannot be read, or is larger than `max_bytes`.
        """
        return transfer.read(self, path, max_bytes, timeout)

    def get(self, source: str, target: Path, *, timeout: float = 120.0) -> None:
        """Copy a regular file of the guest to the host.

        Raises:
            CopyError: it cannot be read there or written here.
        """
        transfer.store(self.read(source, timeout=timeout), source, target)

    def host_port(self, guest_port: int) -> int:
        """The port of 127.0.0.1 on the host that leads to `guest_port` of the guest; another one after each start."""
        try:
            return self._forwards[guest_port]
        except KeyError:
            raise LabError(
                f"port {guest_port} of the guest is not forwarded", hint="name it in Network(to_guest=...)"
            ) from None

    def wait_settled(self, timeout: float = 180.0) -> str:
        """Wait until a full guest's systemd has started everything; returns its state: `running` or `degraded`."""
        return self.run(["systemctl", "is-system-running", "--wait"], timeout=timeout, check=False).text.strip()

    def kernel_log(self) -> str:
        """The guest kernel's log (`dmesg`)."""
        return self.run(["dmesg"]).text

    def power_off(self, timeout: float = 90.0) -> None:
        """Shut the guest down cleanly.

        Raises:
            PowerOffError: it did not end in time (it is cut off then).
            PanicError: its kernel panicked on the way.
        """
        process, channel = self._process, self._live()
        assert process is not None
        command = (
            ["poweroff", "-f"] if self.definition.shape is Shape.MICRO else ["systemctl", "--no-block", "poweroff"]
        )
        self._ending = True
        try:
            channel.start(command, DEFAULT_ENVIRONMENT, "/", MAX_OUTPUT)
        except GuestError as problem:
            if isinstance(problem, PanicError):
                raise
        ended = process.wait(timeout)
        tail = self.serial_tail()
        panic = self._detach()
        if panic is not None:
            raise PanicError(panic, serial_tail=tail)
        if not ended:
            raise PowerOffError(f"the guest did not power off within {timeout:g} s", serial_tail=tail)

    def power_cut(self) -> None:
        """End the guest like a cut of its power: what it had not flushed to its disk is lost. The disk stays."""
        self._ending = True
        self._detach()

    def wait_end(self, timeout: float = 60.0) -> None:
        """Wait until the guest ends by itself, by powering off or resetting.

        Raises:
            PanicError: it ended by a panic.
            GuestLostError: it still runs after `timeout` seconds; it goes on.
        """
        if self._process is None:
            return
        if not self._process.wait(timeout):
            raise GuestLostError(f"the guest still runs after {timeout:g} s", serial_tail=self.serial_tail())
        tail = self.serial_tail()
        panic = self._detach()
        if panic is not None:
            raise PanicError(panic, serial_tail=tail)

    def serial_tail(self) -> str:
        """The last lines of the serial console."""
        if self._serial is None:
            return ""
        if not self.running:
            self._serial.finish(5)
        return self._serial.tail()

    def close(self) -> None:
        """Cut the power if need be, and remove the disk and the logs."""
        self.power_cut()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()

    def _live(self) -> Channel:
        if self._channel is None:
            raise GuestLostError("the virtual machine is not running", hint="start it first")
        if self._channel.closed:
            raise self._channel.lost("before a command")
        return self._channel

    def _launch(self, *, console: bool) -> None:
        self._detach()
        definition = self.definition
        machine_disks = self._disks()
        accelerated = definition.accelerator or accelerator.choose(self._trial_boot)
        settings = Settings(
            shape=definition.shape,
            modules=definition.modules,
            address=f"{qemu.GUEST_ADDRESS}/{qemu.PREFIX_LENGTH}" if definition.network is not None else None,
            shell=console,
        )
        initial = self._folder / "initramfs"
        initial.write_bytes(initramfs.build(definition.kernel, settings, runner_program()))
        self._forwards = {
            port: qemu.free_port() for port in (definition.network.to_guest if definition.network else ())
        }
        ours, theirs = socket.socketpair()
        serial_ours, serial_theirs = socket.socketpair()
        with theirs, serial_theirs:
            machine = qemu.Machine(
                accelerator=accelerated,
                cpus=definition.cpus,
                memory_mib=definition.memory_mib,
                kernel=definition.kernel.image,
                initramfs=initial,
                command_line=f"{_COMMAND_LINE} {definition.command_line}".strip(),
                disks=machine_disks,
                network=definition.network.to_host if definition.network is not None else None,
                forwards=tuple(qemu.Forward(guest, host) for guest, host in self._forwards.items()),
                console=None if console else serial_theirs.fileno(),
                channel=theirs.fileno(),
            )
            self._ending = False
            try:
                handed = (theirs.fileno(), serial_theirs.fileno())
                self._process = qemu.Process(machine, handed, self._folder / "qemu.err")
            except QemuError:
                ours.close()
                serial_ours.close()
                raise
        self._serial = SerialLog(serial_ours, self.serial_log)
        self._channel = Channel(ours, self._lost)

    def _disks(self) -> tuple[qemu.Disk, ...]:
        if self.definition.shape is Shape.MICRO:
            return ()
        disk = self._folder / "disk.qcow2"
        if not disk.exists():
            create_overlay(disk, userland_image(self.definition.packages))
        modules = modules_image(self.definition.kernel)
        return (qemu.Disk(disk, "root", "qcow2", False), qemu.Disk(modules, "modules", "raw", True))

    def _trial_boot(self, seconds: float) -> None:
        with Vm(Definition(self.definition.kernel, memory_mib=512, accelerator="kvm")) as trial:
            trial.start(seconds)
            trial.run(["true"], timeout=seconds)

    def _boot_failure(self, limit: float) -> LabError:
        assert self._process is not None
        if self._process.wait(1):
            if self._process.status != 0:
                return self._process.failure()
            return self._lost("before it was up")
        return BootTimeoutError(
            f"the guest did not come up within {limit:g} s",
            hint="give it more time on a busy machine, or look at the serial log",
            serial_tail=self.serial_tail(),
        )

    def _lost(self, doing: str) -> GuestError:
        """Why the guest is gone: called when the channel is closed, maybe before QEMU has ended."""
        process, serial = self._process, self._serial
        if process is None or serial is None or self._ending:
            return GuestLostError(f"the guest was powered off {doing}")
        ended = process.wait(10)
        if ended:
            serial.finish(5)
        if serial.panic is not None:
            return PanicError(serial.panic, serial_tail=serial.tail())
        complaint = process.complaint()
        if not ended:
            what = "the guest's runner is lost"
        elif process.status == 0:
            what = "the guest powered off or reset itself without a panic"
        else:
            what = f"QEMU ended with status {process.status}"
        return GuestLostError(f"{what}, {doing}{': ' + complaint if complaint else ''}", serial_tail=serial.tail())

    def _detach(self) -> str | None:
        """End QEMU and the threads around it; returns the reason of a panic, if there was one."""
        process, channel, serial = self._process, self._channel, self._serial
        self._process = self._channel = None
        if process is not None:
            process.kill()
        if channel is not None:
            channel.close()
        if serial is not None:
            serial.finish(5)
        return serial.panic if serial is not None else None


def boot(
    kernel: UnpackedKernel | Path,
    shape: Shape = Shape.MICRO,
    *,
    cpus: int = 1,
    memory_mib: int = 1024,
    modules: Sequence[str] = (),
    network: Network | None = None,
    command_line: str = "",
    packages: Sequence[str] = (),
    timeout: float | None = None,
) -> Vm:
    """Boot a kernel package (a path to its .deb, or already unpacked); a `Vm` to be used as a context manager.

    The arguments are those of `Definition`; `timeout` is that of `Vm.start`, whose errors it raises.
    """
    unpacked = unpack(kernel) if isinstance(kernel, Path) else kernel
    vm = Vm(
        Definition(
            kernel=unpacked,
            shape=shape,
            cpus=cpus,
            memory_mib=memory_mib,
            modules=tuple(modules),
            network=network,
            command_line=command_line,
            packages=tuple(packages),
        )
    )
    try:
        vm.start(timeout)
    except BaseException:
        vm.close()
        raise
    return vm


def _run_folder() -> tuple[Path, IO[bytes]]:
    """A folder for one machine's files, with a lock on it; folders whose owner has died are removed on the way."""
    parent = cache_root() / "lab" / "runs"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with locked(parent / "lock"):
            for old in parent.glob("vm-*"):
                _remove_abandoned(old)
            folder = Path(tempfile.mkdtemp(prefix="vm-", dir=parent))
            lock = (folder / "lock").open("wb")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        raise LabError(f"cannot make a folder for a guest in {parent}: {problem.strerror}") from problem
    return folder, lock


def _remove_abandoned(folder: Path) -> None:
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    except OSError:
        pass
    shutil.rmtree(folder, ignore_errors=True)
