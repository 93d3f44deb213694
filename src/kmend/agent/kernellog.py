"""The kernel's log from a given record on, and what in it means trouble.

`/dev/kmsg` gives one record a read: `priority,sequence,microseconds,flags[,...];text`, then lines with a blank in front
(Documentation/ABI/testing/dev-kmsg). The sequence never repeats within a boot, so that a number is all that has to be kept.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MAX_RECORDS = 200_000
_RECORD_BYTES = 8192
MAX_TROUBLES = 20


class Kind(str, enum.Enum):
    """What the kernel complains of."""

    OOPS = "oops"
    BUG = "bug"
    WARNING = "warning"
    HUNG_TASK = "hung-task"
    LOCKUP = "lockup"
    RCU_STALL = "rcu-stall"


GRAVE = frozenset({Kind.OOPS, Kind.BUG})
"""After these nothing more is done to the kernel, unless policy says so."""

_PATTERNS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    # The words are those of kernel/watchdog.c, kernel/hung_task.c, kernel/rcu/tree_stall.h, lib/bug.c, arch/*/kernel/dumpstack.c.
    (Kind.LOCKUP, re.compile(r"BUG: (?:soft|hard) lockup|[Ww]atchdog detected hard LOCKUP|BUG: workqueue lockup")),
    (Kind.HUNG_TASK, re.compile(r"INFO: task .{1,80} blocked (?:for more than|in)")),
    (Kind.RCU_STALL, re.compile(r"rcu\w*: INFO: .*(?:self-detected stall|detected stalls|detected expedited stalls)")),
    (
        Kind.OOPS,
        re.compile(r"^Oops\b|\bOops: |general protection fault|unable to handle (?:kernel|page|NULL)|[Dd]ouble fault"),
    ),
    (Kind.BUG, re.compile(r"kernel BUG at |^BUG: |Bad page (?:state|map)|(?:list_add|list_del) corruption")),
    (Kind.WARNING, re.compile(r"^WARNING: ")),
)


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record of the log: its number, the kernel's own (facility 0) or not, and its text."""

    sequence: int
    own: bool
    text: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """A record that means trouble."""

    kind: Kind
    sequence: int
    text: str


def troubles(records: Iterable[LogRecord]) -> tuple[Trouble, ...]:
    """What the kernel itself complains of; what programs write into its log does not count."""
    found: list[Trouble] = []
    for record in records:
        if not record.own or len(found) == MAX_TROUBLES:
            continue
        kind = next((kind for kind, pattern in _PATTERNS if pattern.search(record.text)), None)
        if kind is not None:
            found.append(Trouble(kind, record.sequence, record.text[:200]))
    return tuple(found)


def newest(path: Path) -> int:
    """The number of the newest record; -1 if the log cannot be read."""
    records = read_after(path, -1)
    return records[-1].sequence if records else -1


def read_after(path: Path, sequence: int) -> tuple[LogRecord, ...]:
    """All records with a number above `sequence`; none if the log cannot be read.

    Records that the kernel has overwritten meanwhile (EPIPE) are gone; what follows them is read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ()
    found = []
    try:
        for _ in range(MAX_RECORDS):
            try:
                content = os.read(descriptor, _RECORD_BYTES)
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue
            except OSError:
                break
            if not content:
                break
            # The real device gives one record a read; a file, as tests have it, gives many.
            for line in content.split(b"\n"):
                record = _record(line)
                if record is not None and record.sequence > sequence:
                    found.append(record)
    finally:
        os.close(descriptor)
    return tuple(found)


def _record(line: bytes) -> LogRecord | None:
    head, separator, text = line.partition(b";")
    words = head.split(b",")
    if not separator or len(words) < 3 or not words[0].isdigit() or not words[1].isdigit():
        return None  # a line of key and value that belongs to the record before
    return LogRecord(int(words[1]), int(words[0]) >> 3 == 0, text.decode(errors="replace"))
