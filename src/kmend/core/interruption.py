"""Being asked to stop: SIGINT, SIGTERM and SIGHUP become one exception, and the programs that were started end first.

Without it, SIGTERM would end the interpreter on the spot and leave compilers at work and temporary folders behind, and a
program that died of the same Ctrl-C would be told as a failure of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 3.0
"""Seconds that a program has to end by itself (make removes half-made targets) before it is killed."""


class Interrupted(BaseException):
    """Somebody asked the program to stop. Not an `Exception`: nothing but a program's `main` may make an end of it.

    Attributes:
        signal: the signal's number; a program ends with status 128 plus that.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.signal = number

    @property
    def exit_status(self) -> int:
        """As a shell tells of it."""
        return 128 + self.signal


_received: list[int] = []
_ends_at_last: list[bool] = []
_children: dict[int, subprocess.Popen[bytes]] = {}


def watch(*, at_last: bool = False) -> None:
    """From now on, in this process, the first of `SIGNALS` ends the running programs and raises `Interrupted` in the main thread;
    further ones are ignored, so that cleaning up is not disturbed.

    Args:
        at_last: end the process a little later, whatever it does: for one whose main loop catches every exception.
    """
    _ends_at_last[:] = [at_last]
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1) wants SIGHUP to be ignored
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    if _received:
        return
    _received.append(number)
    for child in list(_children.values()):
        signal_group(child, signal.SIGTERM)
    # Threads wait for their programs; one that does not care for SIGTERM must not hold them.
    killer = threading.Timer(GRACE, _kill_all)
    killer.daemon = True
    killer.start()
    raise Interrupted(number)


def _kill_all() -> None:
    for child in list(_children.values()):
        signal_group(child, signal.SIGKILL)
    if any(_ends_at_last):
        time.sleep(GRACE)
        os._exit(128 + _received[0])


def check() -> None:
    """Raise in any thread, once the process was asked to stop.

    Raises:
        Interrupted: it was.
    """
    if _received:
        raise Interrupted(_received[0])


@contextmanager
def supervised(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """While inside, `child` (the leader of a session of its own) is ended when the process is asked to stop.

    On leaving, by an exception above all, the program and all that it started are gone.

    Raises:
        Interrupted: the process was asked to stop meanwhile.
    """
    _children[child.pid] = child
    try:
        check()
        yield
    finally:
        end(child)
        _children.pop(child.pid, None)
    check()


def end(child: subprocess.Popen[bytes]) -> None:
    """End a program and all that it started: by SIGTERM, and if that does not help by SIGKILL; at once if it ended already."""
    if child.poll() is None:
        signal_group(child, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if child.poll() is None:
            signal_group(child, signal.SIGKILL)
        child.wait()


def signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a program that leads a session, and to what it started."""
    if child.returncode is None:
        try:
            os.killpg(child.pid, number)
        except (ProcessLookupError, PermissionError):
            child.send_signal(number)
