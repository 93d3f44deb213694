"""Whether a host is granted now, and if not, why: for check-ins, which grant, and for people, who ask."""

from __future__ import annotations

import threading

from sqlalchemy import Connection, func, select

from kmend.server.hosts.seen import Seen
from kmend.server.rollouts import eligible, engine, recalling
from kmend.server.rollouts.engine import Tallies, Wait
from kmend.server.rollouts.plan import Stage
from kmend.server.rollouts.records import Rollout
from kmend.server.store.tables import grants, hosts, level_fixes

COUNTED_SECONDS = 60
"""For so long the size of a ring is remembered; it only paces how often hosts that wait ask again."""


class Known:
    """What a server process remembers between transactions: levels' fixes, which never change, and rings' sizes, roughly."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fixes: dict[tuple[str, int], frozenset[str]] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    def fixes(self, connection: Connection, build_id: str, level: int) -> frozenset[str]:
        """A level's fixes; empty if it is not known."""
        found = self._fixes.get((build_id, level))
        if found is None:
            query = select(level_fixes.c.fix).where(level_fixes.c.build_id == build_id, level_fixes.c.level == level)
            found = frozenset(row.fix for row in connection.execute(query))
            if found:
                with self._lock:
                    self._fixes[build_id, level] = found
        return found

    def size(self, connection: Connection, ring: str, now: int) -> int:
        """How many hosts a ring has, as of a minute ago at most."""
        count, at = self._sizes.get(ring, (0, 0))
        if not at or not 0 <= now - at < COUNTED_SECONDS:
            query = select(func.count()).where(hosts.c.ring == ring, hosts.c.state == "enrolled")
            count = connection.execute(query).scalar_one()
            with self._lock:
                self._sizes[ring] = (count, now)
        return count


class Candidates:
    """Asks of hosts of open stages within one transaction; what concerns several hosts is read once."""

    def __init__(self, connection: Connection, known: Known) -> None:
        self._connection = connection
        self._known = known
        self._bare: frozenset[str] | None = None
        self._recalled: dict[tuple[str, int], str] = {}
        self._first: dict[tuple[str, int], str] = {}
        self._others: dict[tuple[str, int, frozenset[str]], bool] = {}

    def obstacle(self, rollout: Rollout, seen: Seen, tallies: Tallies, now: int) -> Wait | None:
        """Why a host of the open stage's ring is not granted now; None if it is."""
        stage = rollout.plan.stages[rollout.stage]
        level = rollout.targets[seen.build_id]
        waiting = max(0, self._known.size(self._connection, stage.ring, now) - tallies.granted)
        return engine.obstacle(
            rollout.id,
            stage,
            level,
            seen,
            fixes_lost=self._lost(seen, level),
            tallies=tallies,
            alike=self._alike(rollout, stage, seen, tallies, now),
            now=now,
            recalled=self._recall(seen.build_id, level),
            chosen=self._chosen(rollout) == seen.host,
            pace=engine.pace(waiting, stage.at_once),
        )

    def _lost(self, seen: Seen, level: int) -> frozenset[str]:
        if not seen.level or seen.level >= level:
            return frozenset()
        if self._bare is None:
            self._bare = recalling.fixes(self._connection)
        fixes = {number: self._known.fixes(self._connection, seen.build_id, number) for number in (seen.level, level)}
        return engine.fixes_lost({k: v for k, v in fixes.items() if v}, seen.level, level, self._bare)

    def _recall(self, build_id: str, level: int) -> str:
        if (build_id, level) not in self._recalled:
            self._recalled[build_id, level] = recalling.of_level(self._connection, build_id, level)
        return self._recalled[build_id, level]

    def _chosen(self, rollout: Rollout) -> str:
        key = (rollout.id, rollout.stage)
        if key not in self._first:
            self._first[key] = eligible.first(self._connection, rollout)
        return self._first[key]

    def _alike(self, rollout: Rollout, stage: Stage, seen: Seen, tallies: Tallies, now: int) -> int:
        """How many of the first hosts are like this one; 0 where nobody else is left and nobody is on the way."""
        if not stage.diversity or tallies.granted >= stage.sample:
            return 0
        query = (
            select(grants.c.diversity, func.count().label("hosts"))
            .where(grants.c.rollout == rollout.id, grants.c.stage == rollout.stage)
            .group_by(grants.c.diversity)
        )
        counts: dict[str, int] = {row.diversity: row.hosts for row in self._connection.execute(query)}
        most = engine.most_alike(stage)
        alike = counts.get(engine.diversity_of(stage, seen), 0)
        if alike < most or tallies.in_flight:
            return alike
        used = frozenset(value for value, count in counts.items() if count >= most)
        key = (rollout.id, rollout.stage, used)
        if key not in self._others:
            self._others[key] = eligible.any_other(self._connection, rollout, used, now)
        return alike if self._others[key] else 0
