"""Feeds by themselves: a duty for each that is configured, which does the work in a process of its own.

Reading fourteen thousand records takes a processor for a minute, and Python lets only one thread of a process compute: check-ins
would wait. So the server starts a program, at low priority, that fetches, imports, judges and tells, and ends; it is
`python -m kmend.server.operations.feeding < JOB`.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import NoReturn

from sqlalchemy import Connection, select

from kmend.core import interruption
from kmend.core.document import decode, encode
from kmend.core.errors import KmendError
from kmend.core.interruption import Interrupted
from kmend.server import knowledge
from kmend.server.config import ServerConfig
from kmend.server.feeds import FeedError
from kmend.server.knowledge import sources
from kmend.server.operations import metrics
from kmend.server.operations.clockwork import Duty
from kmend.server.store import Store, open_store
from kmend.server.store.tables import feed_sources, feeds

EVERY_SECONDS = 30
"""How often a duty looks whether its feed is due."""
WORK_SECONDS = sources.CLAIM_SECONDS - 600
NICE = 10
_MAX_JOB = 1024 * 1024
_OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """What the program is to do."""

    config: ServerConfig
    feed: str
    now: int


@dataclass(slots=True)
class Feeder:
    """Has configured feeds fetched, one after the other."""

    config: ServerConfig
    store: Store
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _child: subprocess.Popen[bytes] | None = None
    _stopping: bool = False

    def duties(self) -> list[Duty]:
        """One for each feed that is configured; none, if none is."""
        return [
            Duty(f"feed-{name}", functools.partial(self.look, name), EVERY_SECONDS, cancel=self.cancel)
            for name in self.config.feeds.configured
        ]

    def look(self, name: str, now: int) -> bool:
        """Have a feed fetched if it is due; whether it was.

        Raises:
            FeedError: it did not succeed, which is written down.
        """
        source = self.config.feeds.configured[name]
        with self.store.read() as connection:
            if not sources.is_due(connection, name, source, now):
                return False
        with self._turn:  # one at a time: they are in no hurry
            return self._work(name, now)

    def cancel(self) -> None:
        """End what is under way, and begin nothing more; what was imported stays, the rest is done by the next."""
        with self._guard:
            self._stopping = True
            child = self._child
        if child is not None:
            interruption.signal_group(child, signal.SIGTERM)

    def _work(self, name: str, now: int) -> bool:
        environment = {key: value for key, value in os.environ.items() if key not in _OURS}
        environment.setdefault("KMEND_CACHE", str(self.config.data / "feeds" / "cache"))
        with self._guard:
            if self._stopping:
                return False
            words = [sys.executable, "-m", "kmend.server.operations.feeding"]
            pipe = subprocess.PIPE
            child = subprocess.Popen(
                words, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
            )
            self._child = child
        try:
            out, errors = child.communicate(encode(Job(self.config, name, now)), WORK_SECONDS)
        except subprocess.TimeoutExpired:
            out, errors = b"", b"it took too long"
        finally:
            interruption.end(child)
            with self._guard:
                self._child = None
        if self._stopping:
            return False
        self._settle(name, now, child.returncode, out, errors)
        return True

    def _settle(self, name: str, now: int, status: int, out: bytes, errors: bytes) -> None:
        try:
            told = json.loads(out)
        except ValueError:
            told = None
        if status == 0 and isinstance(told, dict):
            metrics.feed_fetches.labels(feed=name, outcome="new" if told.get("records") is not None else "same").inc()
            _logger.info("feed %s: %s", name, told, extra={"feed": name})
            return
        metrics.feed_fetches.labels(feed=name, outcome="failed").inc()
        if isinstance(told, dict):
            raise FeedError(f"feed {name}: {told.get('message', '')}", hint=str(told.get("hint", "")))
        why = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        problem = FeedError(f"the import of {name} {why}", hint="if the kernel ended it, it was for want of memory")
        _logger.error("%s: %s", problem.message, errors.decode("utf-8", "replace")[-2000:], extra={"feed": name})
        self.store.transact(
            lambda connection: sources.failed(
                connection, name, now, longest=self.config.feeds.hours * 3600, error=problem.message,
                hint=problem.hint, after=None,
            )
        )  # fmt: skip
        raise problem


def ways(config: ServerConfig) -> knowledge.Ways:
    """How a server fetches feeds."""
    section = config.feeds
    return knowledge.Ways(config.data / "feeds", section.hours * 3600, section.seconds, section.ca_file)


def described(brought: knowledge.Brought) -> dict[str, object]:
    """What came of it, for people and programs; `records` is null if the source had nothing new."""
    found = brought.imported
    return {
        "feed": brought.feed,
        "records": found.records if found is not None else None,
        "added": len(found.added) if found is not None else 0,
        "changed": len(found.changed) if found is not None else 0,
        "rejected": len(found.rejected) if found is not None else 0,
        "set_aside": found.aside if found is not None else 0,
        "judged": brought.judged,
        "notices": brought.told,
    }


def count(connection: Connection, now: int) -> None:
    """Set the gauges of feeds."""
    metrics.feed_age.clear()
    metrics.feed_aside.clear()
    for row in connection.execute(select(feeds.c.name, feeds.c.as_of, feeds.c.aside_count)):
        metrics.feed_age.labels(feed=row.name).set(max(0, now - row.as_of))
        metrics.feed_aside.labels(feed=row.name).set(row.aside_count)
    metrics.feed_failures.clear()
    for name, failures in connection.execute(select(feed_sources.c.name, feed_sources.c.failures)).all():
        metrics.feed_failures.labels(feed=name).set(failures)


def main() -> NoReturn:
    """Do a job that stands on standard input; prints what came of it as JSON."""
    interruption.watch()
    os.nice(NICE)
    try:
        job = decode(Job, sys.stdin.buffer.read(_MAX_JOB + 1), max_bytes=_MAX_JOB)
        store = open_store(job.config.database_url, pool=2)
        try:
            source = job.config.feeds.configured[job.feed]
            found = knowledge.bring(store, ways(job.config), job.feed, source, job.now)
        finally:
            store.close()
    except Interrupted as stop:
        sys.exit(stop.exit_status)
    except KmendError as problem:
        sys.stdout.write(json.dumps({"message": problem.message, "hint": problem.hint}) + "\n")
        sys.exit(1)
    sys.stdout.write(json.dumps(described(found) if found is not None else {"records": None}) + "\n")
    sys.exit(0)


if __name__ == "__main__":
    main()
