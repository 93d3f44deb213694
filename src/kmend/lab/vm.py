"""A virtual machine: booted, used, powered off or cut off, and booted again from the same disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from kmend.lab import accelerator, initramfs, qemu, transfer
from kmend.lab.channel import Command, Result
from kmend.lab.definition import Definition, Network
from kmend.lab.errors import (
    GuestLostError,
    LabError,
    PortTakenError,
    PowerOffError,
    TimeLimitError,
)
from kmend.lab.firmware import SecureBoot, flash
from kmend.lab.guest import Guest
from kmend.lab.initramfs import Settings, Shape
from kmend.lab.kernelpackage import UnpackedKernel, unpack
from kmend.lab.qcow2 import create_overlay
from kmend.lab.runfolder import RunFolder
from kmend.lab.runner import runner_program
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
# panic=-1: reset at once, which -no-reboot turns into QEMU's end. loglevel=5: warnings and worse on the console.
_COMMAND_LINE = "console=ttyS0 panic=-1 net.ifnames=0 loglevel=5 systemd.show_status=0"
_PORT_ATTEMPTS = 5


class Vm:
    """One virtual machine with its disk. A context manager: leaving it cuts the power and removes the disk.

    Not started by its making; `start` boots it, and after `power_off` or `power_cut` boots it again from the same disk.
    A micro guest has no disk: each boot begins anew. Its methods may be used from several threads at once, but
    the thread that calls `start` must live as long as the guest (QEMU is killed when that thread ends).
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self._folder = RunFolder()
        self._guest: Guest | None = None
        self._forwards: dict[int, int] = {}
        self.accelerator = ""
        """What runs the guest, since the first start: `kvm` or `tcg`."""
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
        return self._guest is not None and self._guest.running

    @property
    def pid(self) -> int:
        """QEMU's process ID; 0 when it is not running."""
        return self._guest.pid if self._guest is not None and self._guest.running else 0

    @property
    def serial_log(self) -> Path:
        """The serial console's log, of all boots; gone after `close`."""
        return self._folder.path / "serial.log"

    def prepare(self) -> None:
        """Make what the guest is made of, as far as it is not in the cache yet.

        `start` does it too; this is for who wants to tell people why they wait, since a first full guest takes half a minute.

        Raises:
            KernelPackageError, UserlandError: it cannot be made.
        """
        self.accelerator = self.definition.accelerator or accelerator.choose(self._trial_boot)
        self._disks()

    def start(self, timeout: float | None = None) -> None:
        """Boot, and wait until commands can be run.

        Args:
            timeout: seconds; None takes `BOOT_SECONDS`.

        Raises:
            BootTimeoutError: it did not come up in time (it is cut off then).
            PanicError, GuestLostError: its kernel panicked, or it ended.
            QemuError: QEMU is missing or does not start.
            KernelPackageError, UserlandError, FirmwareError: what it is made of cannot be made.
        """
        limit = BOOT_SECONDS[self.definition.shape] if timeout is None else timeout
        for _ in range(_PORT_ATTEMPTS - 1):
            try:
                return self._start(limit)
            except PortTakenError:
                continue
        return self._start(limit)

    def shell(self, copies: Sequence[tuple[Path, str]] = ()) -> None:
        """Boot with a root shell on our own terminal, and wait until the guest powers off, which the shell's end does.

        Args:
            copies: files or folders to copy in, as `put` does, once the guest is up.

        Raises:
            QemuError: QEMU is missing or does not start.
        """
        guest = self._launch(terminal=True)
        try:
            ready = guest.channel.wait_ready(BOOT_SECONDS[self.definition.shape])
            for source, target in copies if ready is not None else ():
                self.put(source, target)
            while not guest.wait_end(3600):
                pass
            guest.raise_failure()
        finally:
            self._discard()

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
            max_output: bytes kept of each of its streams; what is more is dropped, and an error when it is waited for.

        Raises:
            PanicError, GuestLostError: the guest is gone.
        """
        everything = {**DEFAULT_ENVIRONMENT, **(environment or {})}
        return self._live().channel.start(command, everything, folder, max_output)

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
        try:
            running.send(stdin, timeout)
        except TimeLimitError:
            running.kill()
            raise
        running.end_input()
        return running.wait(max(0.0, deadline - time.monotonic()), check=check)

    def sh(self, script: str, *, timeout: float = 60.0, check: bool = True) -> Result:
        """Run a script by the guest's `/bin/sh`; errors as those of `run`."""
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
        """Copy a file of the guest to the host.

        Raises:
            CopyError: it cannot be read there or written here.
        """
        transfer.store(self.read(source, timeout=timeout), source, target)

    def host_port(self, guest_port: int) -> int:
        """The port of 127.0.0.1 on the host that leads to `guest_port` of the guest; another one after each start.

        Raises:
            LabError: that port was not named in `Network.to_guest`.
        """
        if guest_port not in self._forwards:
            raise LabError(f"port {guest_port} of the guest is not forwarded", hint="name it in Network(to_guest=...)")
        return self._forwards[guest_port]

    def wait_settled(self, timeout: float = 180.0) -> str:
        """Wait until a full guest's systemd has started everything; returns its state: `running` or `degraded`."""
        return self.run(["systemctl", "is-system-running", "--wait"], timeout=timeout, check=False).text.strip()

    def kernel_log(self) -> str:
        """The guest kernel's log (`dmesg`)."""
        return self.run(["dmesg"]).text

    def serial_tail(self) -> str:
        """The last lines of the serial console of this boot."""
        return self._guest.serial_tail() if self._guest is not None else ""

    def power_off(self, timeout: float = 90.0) -> None:
        """Shut the guest down cleanly.

        Raises:
            PowerOffError: it did not end in time (it is cut off then).
            PanicError: its kernel panicked on the way.
        """
        guest = self._live()
        micro = self.definition.shape is Shape.MICRO
        command = ["poweroff", "-f"] if micro else ["systemctl", "--no-block", "poweroff"]
        guest.channel.start(command, DEFAULT_ENVIRONMENT, "/", MAX_OUTPUT)
        ended = guest.wait_end(timeout)
        tail = guest.serial_tail()
        self._ended()
        if not ended:
            raise PowerOffError(f"the guest did not power off within {timeout:g} s", serial_tail=tail)

    def power_cut(self) -> None:
        """End the guest like a cut of its power: what it had not flushed to its disk is lost. The disk stays.

        It never fails, and does nothing if the guest has ended already.
        """
        self._discard()

    def wait_end(self, timeout: float = 60.0) -> None:
        """Wait until the guest ends by itself, by powering off or by a reset.

        Raises:
            PanicError: it ended by a panic.
            GuestLostError: it still runs after `timeout` seconds; it goes on.
        """
        if self._guest is not None and not self._guest.wait_end(timeout):
            raise GuestLostError(f"the guest still runs after {timeout:g} s", serial_tail=self.serial_tail())
        self._ended()

    def close(self) -> None:
        """Cut the power if need be, and remove the disk and the logs."""
        self._discard()
        self._folder.remove()

    def _live(self) -> Guest:
        if self._guest is None:
            raise GuestLostError("the virtual machine is not running", hint="start it first")
        if self._guest.channel.closed:
            raise self._guest.channel.lost("before a command")
        return self._guest

    def _ended(self) -> None:
        guest = self._guest
        self._discard()
        if guest is not None:
            guest.raise_panic()

    def _discard(self) -> None:
        guest, self._guest = self._guest, None
        if guest is not None:
            guest.stop()

    def _start(self, limit: float) -> None:
        guest = self._launch(terminal=False)
        try:
            ready = guest.wait_ready(limit)
        except LabError:
            self._discard()
            raise
        self.boot_id = ready.boot_id
        self.boot_seconds = time.monotonic() - guest.started

    def _launch(self, *, terminal: bool) -> Guest:
        if self.running:
            raise LabError("the virtual machine runs already", hint="power it off or cut its power first")
        self._discard()
        definition = self.definition
        self.prepare()
        network = definition.network
        self._forwards = {port: qemu.free_port() for port in (network.to_guest if network is not None else ())}
        machine = qemu.Machine(
            accelerator=self.accelerator,
            cpus=definition.processors,
            memory_mib=definition.memory_mib,
            kernel=definition.kernel.image,
            initramfs=self._initial_files(terminal),
            command_line=f"{_COMMAND_LINE} {definition.command_line}".strip(),
            disks=self._disks(),
            network=network.to_host if network is not None else None,
            forwards=tuple(qemu.Forward(guest, host) for guest, host in self._forwards.items()),
            flash=(
                flash(definition.firmware, definition.kernel.image, self._folder.path) if definition.firmware else None
            ),
        )
        self._guest = Guest(machine, self._folder.path, terminal=terminal)
        return self._guest

    def _initial_files(self, terminal: bool) -> Path:
        size = shutil.get_terminal_size()
        settings = Settings(
            shape=self.definition.shape,
            modules=self.definition.modules,
            address=f"{qemu.GUEST_ADDRESS}/{qemu.PREFIX_LENGTH}" if self.definition.network is not None else None,
            terminal=(size.lines, size.columns) if terminal else None,
        )
        path = self._folder.path / "initramfs"
        content = initramfs.build(self.definition.kernel, settings, runner_program())
        try:
            path.write_bytes(content)
        except OSError as problem:
            raise LabError(f"cannot write {path}: {problem.strerror}") from problem
        return path

    def _disks(self) -> tuple[qemu.Disk, ...]:
        if self.definition.shape is Shape.MICRO:
            return ()
        disk = self._folder.path / "disk.qcow2"
        if not disk.exists():
            create_overlay(disk, userland_image(self.definition.packages))
        modules = modules_image(self.definition.kernel)
        return (qemu.Disk(disk, "root", "qcow2", False), qemu.Disk(modules, "modules", "raw", True))

    def _trial_boot(self, seconds: float) -> None:
        with Vm(Definition(self.definition.kernel, memory_mib=512, accelerator="kvm")) as trial:
            trial.start(seconds)
            trial.run(["true"], timeout=seconds)


def boot(
    kernel: UnpackedKernel | Path,
    shape: Shape = Shape.MICRO,
    *,
    cpus: int | None = None,
    memory_mib: int = 1024,
    modules: Sequence[str] = (),
    network: Network | None = None,
    command_line: str = "",
    packages: Sequence[str] = (),
    firmware: SecureBoot | None = None,
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
            firmware=firmware,
        )
    )
    try:
        vm.start(timeout)
    except BaseException:
        vm.close()
        raise
    return vm
