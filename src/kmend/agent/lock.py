"""One kmend at a time on a host: service and command line share `/run/kmend/lock`."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kmend.agent.clock import Clock
from kmend.agent.errors import BusyError
from kmend.core.errors import SystemProblemError

WAIT_SECONDS = 5.0
_STEP_SECONDS = 0.1


@contextmanager
def held(path: Path, command: str, clock: Clock, *, wait: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the lock; the kernel lets go of it when this process ends, however it ends.

    Args:
        path: the lock file; its content names the holder, for the message that others get.
        command: what we are about to do.
        wait: seconds to wait for another holder.

    Raises:
        BusyError: another process kept it all that time.
        SystemProblemError: the file cannot be opened, mostly for want of privilege.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as problem:
        hint = "run kmend as root" if problem.errno in (errno.EACCES, errno.EPERM) else f"make {path.parent} writable"
        raise SystemProblemError(f"cannot open the lock {path}: {problem.strerror}", hint=hint) from problem
    try:
        _take(descriptor, clock, wait)
        with contextlib.suppress(
            OSError
        ):  # the holder's name is only for people: a full /run keeps nobody from working
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {command}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, clock: Clock, wait: float) -> None:
    deadline = clock.uptime() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if clock.uptime() >= deadline:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
                pid, _, command = holder.partition(" ")
                raise BusyError(
                    f"another kmend is at work: {command or 'unknown'} (process {pid or 'unknown'})",
                    hint="wait for it to end and try again; kmend status works meanwhile",
                ) from None
        clock.sleep(_STEP_SECONDS)
