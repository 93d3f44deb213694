"""Which duties there are, and what each does."""

from __future__ import annotations

import datetime
import logging
import time
from dataclasses import dataclass, field

from sqlalchemy import Connection, case, delete, func, select

from kmend.server import knowledge, notices, rollouts
from kmend.server.config import ServerConfig
from kmend.server.hosts import modulesets, periods, upkeep
from kmend.server.notices import Event, outbox
from kmend.server.notices.sending import Sender
from kmend.server.operations import authority, feeding, metrics
from kmend.server.operations.certificates import ServedCertificate
from kmend.server.operations.clockwork import Duty
from kmend.server.repository import Mirror, refreshing
from kmend.server.repository.watching import Watcher
from kmend.server.store import Store, tables

DAY = 86_400
GAP_SECONDS = 600
"""After so long without a turn nobody can say of a host that it was silent meanwhile."""
OVERDUE_SECONDS = 60
"""A check-in that is so late counts as overdue in the metrics."""
SILENT_INTERVALS = 3
"""A host that has missed so many check-ins is told of."""
COUNTING_SHARE = 0.0025
"""Counting hosts for the metrics may take this share of the time: in a large fleet it is done the less often."""
IDEMPOTENCY_SECONDS = 2 * DAY
_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Duties:
    """What the clockwork does.

    Attributes:
        served: is shown anew when its files have changed; None without TLS.
    """

    config: ServerConfig
    store: Store
    mirror: Mirror
    served: ServedCertificate | None = None
    _watcher: Watcher = field(init=False)
    _sender: Sender = field(init=False)
    _turned: int = 0
    """When hosts were tended last."""
    _listening_since: int = 0
    _silent: int = 0
    """How many hosts people were told of last."""
    _count_at: float = 0.0
    """By the monotonic clock: hosts are not counted before."""

    def __post_init__(self) -> None:
        self._watcher = Watcher(self.config, self.store, rollouts.begin_automatic)
        self._sender = Sender.of(self.config)

    def all(self) -> list[Duty]:
        """Every duty."""
        return [
            Duty("rollouts", self._rollouts, 2),
            Duty("repository", self._watcher.look, 1),
            Duty("notices", lambda now: self._sender.turn(self.store, now), 1),
            Duty("upkeep", self._upkeep, 60),
            Duty("prune", self._prune, 600),
            Duty("mirror", lambda now: self.mirror.reload(), 0.5, shared=False),
            Duty("gauges", self._gauges, 15, shared=False),
            Duty("certificate", self._certificate, 600, shared=False),
            *feeding.Feeder(self.config, self.store).duties(),
        ]

    def close(self) -> None:
        """After the clockwork has stopped."""
        self._watcher.close()

    def _rollouts(self, now: int) -> None:
        rollouts.evaluate(self.store, now)

    def _upkeep(self, now: int) -> None:
        if not self._turned <= now <= self._turned + GAP_SECONDS:  # begun, been away, or the clock was set
            self._listening_since = now
        self._silent = self.store.transact(lambda connection: self._tend_hosts(connection, now))
        self._turned = now
        moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
        if refreshing.is_due(self.config, now=moment):
            version = refreshing.refresh(self.config, now=moment)
            _logger.info("the repository was signed anew: version %d", version)

    def _tend_hosts(self, connection: Connection, now: int) -> int:
        """How many are silent; counts as told of once this is on disk."""
        upkeep.expire(connection, now, since=self._listening_since, grace=2 * self.config.server.interval)
        late = SILENT_INTERVALS * self.config.server.interval
        silent = upkeep.silent(connection, now, seconds=late)
        if silent > self._silent:
            body = f"{silent} hosts have missed {SILENT_INTERVALS} check-ins; kmend-server hosts list --seen-before {late // 60}m"
            notices.post(connection, Event.HOST_SILENT, "hosts", body, now)
        return silent

    def _prune(self, now: int) -> None:
        retention = self.config.retention

        def work(connection: Connection) -> int:
            outbox.prune(connection, now - retention.notices * DAY)
            connection.execute(delete(tables.idempotency).where(tables.idempotency.c.at < now - IDEMPOTENCY_SECONDS))
            return max(upkeep.prune_reports(connection, now, days=retention.reports), modulesets.prune(connection, now))

        def forget(connection: Connection) -> int:
            knowledge.prune_answers(connection, now, days=retention.history)
            return periods.prune(connection, now, days=retention.history, most=upkeep.MAX_AT_ONCE)

        for turn in (work, forget):
            while self.store.transact(turn) == upkeep.MAX_AT_ONCE:
                pass

    def _certificate(self, now: int) -> None:
        if self.served is None:
            return
        moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
        try:
            if self.config.authority is not None:
                authority.renew(self.config.data / "tls", now=moment)
        finally:
            # Another process, or another program, may have renewed it.
            if self.served.show_anew():
                _logger.info("the server shows another certificate")

    def _gauges(self, now: int) -> None:
        if time.monotonic() >= self._count_at:
            begun = time.monotonic()
            with self.store.read() as connection:
                count(connection, now, attempts=self._sender.attempts)
            self._count_at = time.monotonic() + (time.monotonic() - begun) / COUNTING_SHARE
        timestamp = self.mirror.timestamp()
        metrics.repository_version.set(timestamp.version)
        metrics.repository_expires.set(timestamp.expires)


def count(connection: Connection, now: int, *, attempts: int) -> None:
    """Set the gauges that are counted in the database."""
    rollouts_table = tables.rollouts.c
    status = case((rollouts_table.override != "", rollouts_table.override), else_=rollouts_table.state)
    states, overdue = upkeep.census(connection, now, seconds=OVERDUE_SECONDS)
    rows = connection.execute(select(status, func.count()).group_by(status)).all()
    for gauge, found in ((metrics.hosts, states), (metrics.rollouts, {row[0]: row[1] for row in rows})):
        gauge.clear()
        for word, number in found.items():
            gauge.labels(state=word).set(number)
    metrics.hosts_silent.set(overdue)
    feeding.count(connection, now)
    metrics.outbox.set(outbox.waiting(connection, attempts=attempts))
