"""What is done before the package goes: the record is closed, and the helper ends. The livepatch stays in force.

Without this, a level that was still being tried would look, after a later installation, as if the host had crashed with it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from kmend.agent.config import Config
from kmend.agent.configfiles import read_config
from kmend.agent.errors import ConfigError
from kmend.agent.lock import held
from kmend.agent.session import Host, Session

LOCK_SECONDS = 20.0


def before_removal(host: Host, say: Callable[[str], None]) -> None:
    """Close an open intent as inconclusive, and end the detached helper.

    Raises:
        BusyError: another command holds the lock for too long.
        SystemProblemError: the record cannot be stored.
    """
    end_helpers(host.paths.proc, host.paths.run / "settle.lock")
    try:
        config = read_config(host.paths.config)
    except ConfigError:
        config = Config()  # a broken configuration is no reason to keep the package
    with held(host.paths.run / "lock", "removal", host.clock, wait=LOCK_SECONDS):
        session = Session(host, config, say)
        session.recover()
        if session.journal.intent is not None:
            session.journal.conclude_nothing("kmend was removed from this host; its livepatch was left as it was")


def end_helpers(proc: Path, lock: Path) -> None:
    """Ask the process to end that holds `lock` (proc(5), `/proc/locks`: the process, then device and inode of the file)."""
    try:
        inode = lock.stat().st_ino
        lines = (proc / "locks").read_text(encoding="ascii", errors="replace").splitlines()[:100_000]
    except OSError:
        return
    for words in (line.split() for line in lines):
        if len(words) >= 8 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
            process = int(words[4])
            if process > 1 and process != os.getpid() and _is_ours(proc, process):
                os.kill(process, signal.SIGTERM)


def _is_ours(proc: Path, process: int) -> bool:
    try:
        return b"settle" in (proc / str(process) / "cmdline").read_bytes()
    except OSError:
        return False
