"""What a command costs, by the operating system's accounting of the finished process and of all that it waited for.

CPU seconds (user and system) and the largest process' memory come from `wait4` and are exact. What all processes held at the same
time is sampled ten times a second, so a short peak may be missed.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kmend.core import interruption

_INTERVAL = 0.1
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one command.

    Attributes:
        user, system, wall: seconds.
        largest: resident memory of the largest process, in bytes.
        together: of all its processes at one time, in bytes, shared pages counted for each; sampled.
    """

    status: int
    user: float
    system: float
    wall: float
    largest: int
    together: int
    output: str
    errors: str

    @property
    def cpu(self) -> float:
        """User and system time, in seconds."""
        return self.user + self.system


def measure(command: Sequence[str | os.PathLike[str]], environment: Mapping[str, str], folder: Path) -> Cost:
    """Run `command` to its end; `folder` takes what it prints."""
    outputs = folder / "output", folder / "errors"
    with outputs[0].open("wb") as stdout, outputs[1].open("wb") as stderr:
        start = time.monotonic()
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
        )
        sampler = _Sampler(child.pid)
        sampler.start()
        with interruption.supervised(child):
            try:
                _, status, usage = os.wait4(child.pid, 0)
            finally:
                sampler.over.set()
            wall = time.monotonic() - start
            # Another call waited for the process, so the object has to be told that it ended.
            child.returncode = os.waitstatus_to_exitcode(status)
    sampler.join()
    output, errors = (path.read_text(errors="replace") for path in outputs)
    largest = usage.ru_maxrss * 1024
    return Cost(
        child.returncode,
        usage.ru_utime,
        usage.ru_stime,
        wall,
        largest,
        max(sampler.peak, largest),
        output,
        errors,
    )


class _Sampler(threading.Thread):
    """Looks at the memory of a process and of all that descend from it, until `over` is set."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self._process = process
        self.over = threading.Event()
        self.peak = 0

    def run(self) -> None:
        while not self.over.wait(_INTERVAL):
            self.peak = max(self.peak, _resident(self._process))


def _resident(process: int) -> int:
    parents: dict[int, int] = {}
    pages: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        # proc(5): after the name come state and parent; resident pages are field 24.
        parents[int(folder.name)], pages[int(folder.name)] = int(fields[1]), int(fields[21])
    members = {process}
    while more := {child for child, parent in parents.items() if parent in members and child not in members}:
        members |= more
    return sum(pages.get(member, 0) for member in members) * _PAGE
