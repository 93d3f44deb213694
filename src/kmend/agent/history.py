"""What happened to this host's kernel, oldest first: one JSON record a line, appended durably."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from kmend.agent import statefile
from kmend.core import durable
from kmend.core.document import encode, from_plain
from kmend.core.errors import MalformedError, SystemProblemError

MAX_BYTES = 1024 * 1024
KEEP_RECORDS = 1000


@dataclass(frozen=True, slots=True)
class Record:
    """One event.

    Attributes:
        at: seconds since 1970-01-01 UTC.
        boot_id: the boot it happened in.
        event: name of the change in the journal (`kmend.agent.journal`).
        intent: which intent it belongs to; together with `event` it tells a repeated record from a new one.
        level: 0 where no level is concerned.
        module: the module's name.
        message: for people.
        recovered: it was found out afterwards, by a later command.
        cves: what the level closes.
        replaces: modules that the level takes the place of.
    """

    at: int
    boot_id: str
    event: str
    intent: str
    level: int
    module: str
    message: str
    recovered: bool = False
    cves: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()


class History:
    """The file of records.

    Args:
        path: `history.jsonl`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, record: Record) -> None:
        """Store a record, unless it is there already (a crash between two steps makes the second try repeat it).

        Raises:
            SystemProblemError: it could not be stored.
        """
        if any((old.intent, old.event) == (record.intent, record.event) for old in self.records()[-20:]):
            return
        durable.make_folder(self._path.parent)
        self._bound()
        self._mend_torn_line()
        durable.append_durably(self._path, encode(record))

    def records(self) -> tuple[Record, ...]:
        """All records that can be read, oldest first; a torn line is skipped."""
        if not self._path.exists():
            return ()
        try:
            content = durable.read_bounded(self._path, max_bytes=2 * MAX_BYTES)
        except SystemProblemError as problem:
            statefile.set_aside(self._path, problem.message)
            return ()
        return tuple(record for line in content.split(b"\n") if (record := _read(line)) is not None)

    def _bound(self) -> None:
        if self._path.exists() and self._path.stat().st_size > MAX_BYTES:
            # As they are, so that what a newer kmend has written of a record is not lost.
            kept = _last(self._path)
            durable.write_durably(self._path, b"".join(line + b"\n" for line in kept))

    def _mend_torn_line(self) -> None:
        """End a line that a crash has cut, so that the next record is not lost with it."""
        if not self._path.exists() or not self._path.stat().st_size:
            return
        with self._path.open("rb") as stream:
            stream.seek(-1, 2)
            torn = stream.read(1) != b"\n"
        if torn:
            durable.append_durably(self._path, b"")


def _last(path: Path) -> list[bytes]:
    """The last records that fit into half of what the file may have, so that it is not written anew with every record."""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - MAX_BYTES))
        lines = stream.read(MAX_BYTES).splitlines()[-KEEP_RECORDS:]
    kept: list[bytes] = []
    size = 0
    for line in reversed(lines):
        size += len(line) + 1
        if size > MAX_BYTES // 2:
            break
        kept.append(line)
    return kept[::-1]


def _read(line: bytes) -> Record | None:
    try:
        return from_plain(Record, json.loads(line)) if line.strip() else None
    except (MalformedError, ValueError, RecursionError):
        return None
