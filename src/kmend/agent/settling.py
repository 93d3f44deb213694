"""The detached child that a command leaves behind: ends the soak and removes replaced modules when their time has come.

It is a convenience. Killed, it is missed by nobody: every command does the same at its start.
"""

from __future__ import annotations

import fcntl
import logging
import os

from kmend.agent import status
from kmend.agent.configfiles import read_config
from kmend.agent.errors import BusyError, PendingError
from kmend.agent.lock import held
from kmend.agent.session import Host, Session
from kmend.agent.tending import tend
from kmend.core.errors import KmendError

MAX_SECONDS = 86_400.0
"""It never lives longer; a transition, or a module that cannot be removed, is left to the next command then."""
_MAX_NAP = 15.0
_RETRY = 1.0

_logger = logging.getLogger(__name__)


def settle(host: Host) -> None:
    """Sleep until something is due, do it under the lock, and end when nothing is due any more; only one runs at a time."""
    path = host.paths.run / "settle.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as problem:
        _logger.warning("cannot open %s: %s", path, problem.strerror)
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # the one that runs looks at the deadlines anew each time
        _loop(host)
    finally:
        os.close(descriptor)


def _loop(host: Host) -> None:
    end = host.clock.uptime() + MAX_SECONDS
    while host.clock.uptime() < end:
        due = _step(host)
        if due is None:
            return
        left = due - host.clock.uptime()
        # What is overdue cannot be done yet (a module in use, a transition): no hurry then.
        host.clock.sleep(min(left, _MAX_NAP) if left > 0 else _MAX_NAP)


def _step(host: Host) -> float | None:
    """Do what is due; returns the uptime of what is due next, None if nothing ever is."""
    try:
        config = read_config(host.paths.config)
        with held(host.paths.run / "lock", "settle", host.clock):
            session = Session(host, config, _logger.info)
            session.recover()
            tend(session)
            status.announce(session)
            return session.next_deadline()
    except (BusyError, PendingError):
        return host.clock.uptime() + _RETRY
    except KmendError as problem:
        _logger.warning("%s", problem.diagnosis())
        return None
