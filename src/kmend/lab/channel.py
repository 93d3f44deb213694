"""The host's end of the lab's channel: starts commands in the guest and collects what they write.

A thread reads the socket all the time, so that a guest is never blocked by a host that is busy. Any number of threads may
start commands and wait for them.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kmend.core.errors import MalformedError
from kmend.lab import protocol
from kmend.lab.errors import CommandFailedError, GuestError, TimeLimitError
from kmend.lab.protocol import Frame, Kind, Ready

KILL_GRACE = 15.0
"""Seconds within which a guest must confirm that a killed command has ended; a guest that does not is lost."""
_SEND_LIMIT = 60
_OUTPUT_SHOWN = 2000


@dataclass(frozen=True, slots=True)
class Result:
    """What a command in the guest left.

    Attributes:
        command: as it was given.
        status: exit status, or 128 + n if signal n ended it.
        seconds: from the request to its end, as the host sees it.
    """

    command: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes
    seconds: float

    @property
    def text(self) -> str:
        """Standard output as text; undecodable bytes are replaced."""
        return self.stdout.decode(errors="replace")

    @property
    def error_text(self) -> str:
        """Standard error as text."""
        return self.stderr.decode(errors="replace")


class Command:
    """A command that runs, or ran, in the guest. `Vm.start_command` makes one."""

    def __init__(self, channel: Channel, number: int, words: tuple[str, ...], max_output: int) -> None:
        self._channel = channel
        self._number = number
        self._words = words
        self._max_output = max_output
        self._started = time.monotonic()
        self._ended: float | None = None
        self._status = 127
        self._problem: str | None = None
        self._credit = protocol.WINDOW
        self._written = {Kind.STDOUT: bytearray(), Kind.STDERR: bytearray()}
        self._changed = channel.changed

    @property
    def running(self) -> bool:
        """Whether it has not ended yet, as far as is known."""
        return self._ended is None and not self._channel.closed

    @property
    def stdout(self) -> bytes:
        """What it has written to its standard output so far."""
        with self._changed:
            return bytes(self._written[Kind.STDOUT])

    @property
    def stderr(self) -> bytes:
        """What it has written to its standard error so far."""
        with self._changed:
            return bytes(self._written[Kind.STDERR])

    def wait(self, timeout: float = 60.0, *, check: bool = True) -> Result:
        """Wait for its end; after `timeout` seconds it is killed.

        Raises:
            TimeLimitError: it ran out of time.
            CommandFailedError: it could not be started, wrote too much, or (with `check`) its status is not 0.
            PanicError, GuestLostError: the guest did not survive it.
        """
        if not self._wait_until(lambda: self._ended is not None or self._problem is not None, timeout):
            raise self._late(timeout)
        return self._result(self._end(), check)

    def wait_for(self, text: bytes, timeout: float = 60.0) -> None:
        """Wait until its standard output holds `text`; the command goes on.

        Raises:
            TimeLimitError: it did not within `timeout` seconds.
            CommandFailedError: it ended without.
            PanicError, GuestLostError: the guest did not survive it.
        """
        stdout = self._written[Kind.STDOUT]
        if not self._wait_until(lambda: text in stdout or self._ended is not None, timeout):
            raise TimeLimitError(
                f"{shlex.join(self._words)} did not write {text!r} within {timeout:g} s",
                stdout=self.stdout,
                stderr=self.stderr,
            )
        if text not in stdout:
            status = self._result(self._end(), check=False).status
            raise self._failure(f"ended with status {status} without writing {text!r}", status)

    def send(self, data: bytes, timeout: float = 60.0) -> None:
        """Write to its standard input. What a command that has ended, or closed its input, does not take is dropped.

        Raises:
            TimeLimitError: it did not take everything within `timeout` seconds.
            PanicError, GuestLostError: the guest is gone.
        """
        deadline = time.monotonic() + timeout
        view = memoryview(data)
        while view:
            ready = self._wait_until(lambda: self._credit > 0 or self._ended is not None, deadline - time.monotonic())
            if not ready:
                raise TimeLimitError(
                    f"{shlex.join(self._words)} did not read its standard input within {timeout:g} s",
                    stdout=self.stdout,
                    stderr=self.stderr,
                )
            with self._changed:
                if self._ended is not None:
                    return
                size = min(len(view), self._credit, protocol.CHUNK)
                self._credit -= size
            self._channel.transmit(Frame(Kind.STDIN, self._number, bytes(view[:size])))
            view = view[size:]

    def end_input(self) -> None:
        """Close its standard input once everything sent is read."""
        self._channel.transmit(Frame(Kind.STDIN_END, self._number))

    def signal(self, number: int) -> None:
        """Send a signal to the command and its session; nothing happens if it has ended."""
        self._channel.transmit(protocol.number_frame(Kind.SIGNAL, self._number, number))

    def kill(self) -> Result:
        """Kill it, if it still runs, and return what it left."""
        return self._result(self._end(), check=False)

    def follow(self, timeout: float = 60.0) -> Iterator[tuple[bytes, bytes]]:
        """What it writes, as it comes: pairs of pieces of standard output and standard error, until it ends.

        Raises:
            TimeLimitError: it ran out of time; it is killed then.
            PanicError, GuestLostError: the guest did not survive it.
        """
        deadline = time.monotonic() + timeout
        out, err = self._written[Kind.STDOUT], self._written[Kind.STDERR]
        seen = (0, 0)

        def news() -> bool:
            return (len(out), len(err)) != seen or self._ended is not None or self._problem is not None

        ended = False
        while not ended:
            if not self._wait_until(news, deadline - time.monotonic()):
                raise self._late(timeout)
            if self._problem is not None:
                self.wait()
            with self._changed:
                ended = self._ended is not None
                pieces = (bytes(out[seen[0] :]), bytes(err[seen[1] :]))
            seen = (seen[0] + len(pieces[0]), seen[1] + len(pieces[1]))
            if any(pieces):
                yield pieces

    def _wait_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Whether `condition` came true in time; raises when the guest is gone and it cannot come true any more."""
        with self._changed:
            done = self._changed.wait_for(lambda: condition() or self._channel.closed, max(0.0, timeout))
            if condition():
                return True
        if done:
            raise self._channel.lost(f"while {shlex.join(self._words)} was running")
        return False

    def _late(self, timeout: float) -> TimeLimitError:
        self._end()
        return TimeLimitError(
            f"not finished after {timeout:g} s, killed: {shlex.join(self._words)}",
            stdout=self.stdout,
            stderr=self.stderr,
            hint="give it more time, or look at what it wrote",
        )

    def _end(self) -> float:
        """Make sure that it has ended; returns when it did."""
        if self._ended is None:
            self.signal(signal.SIGKILL)
            self._wait_until(lambda: self._ended is not None, KILL_GRACE)
        if self._ended is None:
            raise self._channel.lost(f"which does not answer any more, since {shlex.join(self._words)}")
        return self._ended

    def _result(self, ended: float, check: bool) -> Result:
        if self._problem is not None:
            raise self._failure(self._problem, self._status)
        if check and self._status != 0:
            raise self._failure(f"exit status {self._status}", self._status)
        return Result(self._words, self._status, self.stdout, self.stderr, ended - self._started)

    def _failure(self, what: str, status: int) -> CommandFailedError:
        shown = (self.stdout + self.stderr).decode(errors="replace")[-_OUTPUT_SHOWN:].rstrip()
        message = f"{what}, in the guest: {shlex.join(self._words)}" + (f"\n{shown}" if shown else "")
        return CommandFailedError(message, status=status, stdout=self.stdout, stderr=self.stderr)

    def take(self, frame: Frame) -> None:
        """Account for a frame from the guest; only the channel's thread calls this, holding `changed`."""
        if frame.kind in self._written:
            written = self._written[frame.kind]
            room = self._max_output - len(written)
            written += frame.payload[:room]
            if len(frame.payload) > room and self._problem is None:
                self._problem = f"wrote more than the {self._max_output} bytes that are kept, killed"
        elif frame.kind is Kind.CREDIT:
            self._credit += frame.number
        elif frame.kind is Kind.EXIT:
            self._status = protocol.exit_status(frame.number)
            self._ended = time.monotonic()
        elif frame.kind is Kind.FAILED:
            self._problem = f"cannot be started ({os.strerror(frame.number)})"
            self._status = 127
            self._ended = time.monotonic()


class Channel:
    """The connection to a guest's runner during one boot.

    Args:
        connection: our end of the virtio port; this object owns it.
        lost: makes the error that says why the guest is gone; it is given what was going on.
    """

    def __init__(self, connection: socket.socket, lost: Callable[[str], GuestError]) -> None:
        self._connection = connection
        # A blocked send must not block for ever (SO_SNDTIMEO); reading is left to block as long as it likes.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_LIMIT, 0))
        self._make_lost = lost
        self._sending = threading.Lock()
        self._commands: dict[int, Command] = {}
        self._next = 1
        self.changed = threading.Condition()
        self.closed = False
        self.ready: Ready | None = None
        self.trouble = ""
        self._thread = threading.Thread(target=self._read, name="lab-channel", daemon=True)
        self._thread.start()

    def wait_ready(self, timeout: float) -> Ready | None:
        """The runner's greeting; None when there is none within `timeout` seconds or the guest has ended."""
        with self.changed:
            self.changed.wait_for(lambda: self.ready is not None or self.closed, timeout)
            return self.ready

    def start(self, words: Sequence[str], environment: Mapping[str, str], folder: str, max_output: int) -> Command:
        """Start a command.

        Raises:
            MalformedError: it cannot be sent.
            PanicError, GuestLostError: the guest is gone.
        """
        with self.changed:
            number = self._next
            self._next += 1
            command = Command(self, number, tuple(words), max_output)
            self._commands[number] = command
        try:
            self.transmit(protocol.exec_frame(number, words, environment, folder))
        except BaseException:
            with self.changed:
                self._commands.pop(number, None)
            raise
        return command

    def transmit(self, frame: Frame) -> None:
        """Send a frame to the guest; raises PanicError or GuestLostError when that is not possible any more."""
        try:
            with self._sending:
                self._connection.sendall(frame.encode())
        except OSError as problem:
            self._close(f"the guest takes no data: {problem.strerror}")
            raise self.lost("while talking to it") from None

    def lost(self, doing: str) -> GuestError:
        """The error that says why the guest is gone."""
        return self._make_lost(doing + (f" ({self.trouble})" if self.trouble else ""))

    def close(self) -> None:
        """Give the connection up; every command that still runs is lost."""
        self._close("")
        self._thread.join(5)
        self._connection.close()

    def _close(self, why: str) -> None:
        with self.changed:
            if not self.closed:
                self.closed = True
                self.trouble = why
                self.changed.notify_all()
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def _read(self) -> None:
        decoder = protocol.Decoder()
        why = ""
        try:
            while data := self._connection.recv(256 * 1024):
                with self.changed:
                    for frame in decoder.feed(data):
                        self._dispatch(frame)
                    self.changed.notify_all()
        except OSError:
            pass
        except MalformedError as problem:
            why = problem.message
        self._close(why)

    def _dispatch(self, frame: Frame) -> None:
        if frame.kind is Kind.READY:
            if self.ready is not None:
                raise MalformedError("the guest's runner has started again; its commands are lost")
            self.ready = Ready.read(frame)
            return
        command = self._commands.get(frame.channel)
        if command is None:
            return
        command.take(frame)
        if frame.kind in (Kind.EXIT, Kind.FAILED):
            del self._commands[frame.channel]
