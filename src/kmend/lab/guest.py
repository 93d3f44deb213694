"""One boot of a virtual machine: QEMU, the channel to the runner, the serial log, and how they end together."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from kmend.lab import qemu
from kmend.lab.channel import Channel
from kmend.lab.errors import BootTimeoutError, GuestError, GuestLostError, LabError, PanicError, QemuError
from kmend.lab.protocol import Ready
from kmend.lab.serial import SerialLog

_END_SECONDS = 10.0
"""How long QEMU may take to end after its guest has, until the guest's runner alone is called lost."""


class Guest:
    """A machine that has been switched on; `stop` ends it, whatever state it is in.

    `started` is when QEMU was started, by the monotonic clock.

    Args:
        machine: what QEMU is to make.
        folder: where its logs go (`serial.log`, appended; `qemu.err`).
        terminal: put the serial console on our own terminal.

    Raises:
        QemuError: QEMU cannot be started.
    """

    def __init__(self, machine: qemu.Machine, folder: Path, *, terminal: bool = False) -> None:
        channel, channel_theirs = socket.socketpair()
        serial, serial_theirs = socket.socketpair()
        with channel_theirs, serial_theirs:
            handed = (channel_theirs.fileno(), serial_theirs.fileno())
            console = qemu.terminal_console(folder / "serial.log") if terminal else f"socket,fd={handed[1]}"
            self.started = time.monotonic()
            try:
                self._process = qemu.Process(
                    machine.arguments(console, handed[0]), handed, folder / "qemu.err", terminal=terminal
                )
            except QemuError:
                channel.close()
                serial.close()
                raise
        self._stopping = False
        self._serial = SerialLog(serial, folder / "serial.log")
        self.channel = Channel(channel, self.lost)

    @property
    def pid(self) -> int:
        """QEMU's process ID."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether QEMU runs."""
        return self._process.status is None

    def wait_ready(self, timeout: float) -> Ready:
        """Wait until its runner greets.

        Raises:
            BootTimeoutError: it did not within `timeout` seconds.
            PanicError, GuestLostError, QemuError: the guest, or QEMU, ended instead.
        """
        ready = self.channel.wait_ready(timeout)
        if ready is not None:
            return ready
        if self.channel.closed:
            raise self._ended_early()
        raise BootTimeoutError(
            f"the guest did not come up within {timeout:g} s",
            hint="give it more time on a busy machine, or look at the serial log",
            serial_tail=self.serial_tail(),
        )

    def wait_end(self, timeout: float) -> bool:
        """Whether QEMU ended within `timeout` seconds."""
        return self._process.wait(timeout)

    def serial_tail(self) -> str:
        """The last lines of the serial console."""
        if not self.running:
            self._serial.finish(5)
        return self._serial.tail()

    def lost(self, doing: str) -> GuestError:
        """The error that says why the guest is gone; called when the channel is closed, maybe before QEMU has ended."""
        if self._stopping:
            return GuestLostError(f"the guest was switched off, {doing}")
        ended = self._process.wait(_END_SECONDS if self.channel.closed else 0)
        tail = self.serial_tail()
        if self._serial.panic is not None:
            return PanicError(self._serial.panic, serial_tail=tail)
        if not ended:
            return GuestLostError(f"the guest's runner is lost, {doing}", serial_tail=tail)
        if self._process.status == 0:
            return GuestLostError(f"the guest powered off or reset itself without a panic, {doing}", serial_tail=tail)
        complaint = f"QEMU ended with status {self._process.status} ({self._process.complaint() or 'it said nothing'})"
        return GuestLostError(f"{complaint}, {doing}", serial_tail=tail)

    def stop(self) -> None:
        """End QEMU and the threads around it."""
        if not self.running:
            self._serial.finish(5)
        self._stopping = True
        self._process.kill()
        self.channel.close()
        self._serial.finish(5)

    def raise_panic(self) -> None:
        """Raise PanicError if the guest's kernel has panicked."""
        if self._serial.panic is not None:
            raise PanicError(self._serial.panic, serial_tail=self.serial_tail())

    def raise_failure(self) -> None:
        """Raise QemuError if QEMU has ended by a failure of its own."""
        if self._process.status not in (None, 0):
            raise self._process.failure()

    def _ended_early(self) -> LabError:
        if self._process.wait(_END_SECONDS) and self._process.status != 0:
            return self._process.failure()
        return self.lost("before it was up")
