"""Rollouts within check-ins (`hosts.directions.Directions`): how granted hosts fare, who is granted, what each is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from kmend.server.hosts.seen import Direction, Seen
from kmend.server.rollouts import engine, records
from kmend.server.rollouts.candidates import Candidates, Known
from kmend.server.rollouts.engine import Grant, GrantState, Tallies
from kmend.server.rollouts.halting import halt, tell_late
from kmend.server.rollouts.records import Rollout

SOON_SECONDS = 15
"""After how long a host on its way checks in again, if nothing happens before."""


@dataclass(slots=True)
class Live:
    """The rollouts that go on, locked, and what is read of them within one transaction."""

    rollouts: list[Rollout]
    candidates: Candidates
    tallies: dict[tuple[str, int], Tallies] = field(default_factory=dict)


class Rollouts:
    """The rollouts' side of check-ins; one object may serve many threads."""

    def __init__(self) -> None:
        self._known = Known()

    def lock(self, connection: Connection) -> Live | None:
        """As `Directions.lock`."""
        if not records.any_live(connection):
            return None
        found = records.live(connection, lock=True)
        tallies = {(rollout.id, stage.number): stage.tallies for rollout in found for stage in rollout.stages}
        return Live(list(found), Candidates(connection, self._known), tallies)

    def observe(self, connection: Connection, live: object, seen: Sequence[Seen], now: int) -> None:
        """As `Directions.observe`."""
        assert isinstance(live, Live)  # noqa: S101 - only ever what `lock` gave
        hosts = {item.host: item for item in seen}
        for place, rollout in enumerate(live.rollouts):
            for host, grant in records.grants_of(connection, rollout.id, sorted(hosts)).items():
                after = engine.progress(grant, rollout.plan.stages[grant.stage], hosts[host], now)
                if after is grant and rollout.withdrawn:
                    after = engine.withdrawn(grant, hosts[host], now)
                if after is not grant:
                    self._move(connection, live, rollout, grant, after)
                    tell_late(connection, rollout, after, now)
            live.rollouts[place] = self._halted(connection, live, rollout, now)

    def directions(self, connection: Connection, live: object, seen: Sequence[Seen], now: int) -> dict[str, Direction]:
        """As `Directions.directions`."""
        assert isinstance(live, Live)  # noqa: S101 - as above
        told: dict[str, Direction] = {}
        for rollout in live.rollouts:
            concerned = [item for item in seen if item.build_id in rollout.targets]
            known = records.grants_of(connection, rollout.id, sorted(item.host for item in concerned))
            candidates = [
                item
                for item in concerned
                if item.host not in known or known[item.host].state is GrantState.INCONCLUSIVE
            ]
            busy = self._busy(connection, rollout, candidates)
            for item in concerned:
                grant = known.get(item.host)
                if grant is None or grant.state is GrantState.INCONCLUSIVE:
                    direction = self._candidate(connection, live, rollout, grant, item, busy, now)
                else:
                    direction = _granted(rollout, grant)
                told[item.host] = _stronger(told.get(item.host), direction)
        return told

    def _busy(self, connection: Connection, rollout: Rollout, candidates: Sequence[Seen]) -> frozenset[str]:
        stage = rollout.plan.stages[rollout.stage]
        hosts = [item.host for item in candidates if item.ring == stage.ring] if rollout.granting else []
        return records.busy_elsewhere(connection, rollout.id, sorted(hosts)) if hosts else frozenset()

    def _candidate(
        self,
        connection: Connection,
        live: Live,
        rollout: Rollout,
        before: Grant | None,
        seen: Seen,
        busy: frozenset[str],
        now: int,
    ) -> Direction:
        stage = rollout.plan.stages[rollout.stage]
        if not rollout.granting or seen.ring != stage.ring or seen.host in busy or seen.stale:
            return Direction()
        wait = live.candidates.obstacle(rollout, seen, live.tallies[rollout.id, rollout.stage], now)
        if wait is not None:
            return Direction(reason="", within=wait.seconds)
        grant = Grant(
            seen.host, rollout.stage, seen.build_id, rollout.targets[seen.build_id], seen.level, GrantState.GRANTED, now, now,
            seen.boot_id, diversity=engine.diversity_of(stage, seen),
        )  # fmt: skip
        self._move(connection, live, rollout, before, grant)
        return _granted(rollout, grant)

    def _move(self, connection: Connection, live: Live, rollout: Rollout, before: Grant | None, after: Grant) -> None:
        """Write a grant and its stage's tallies; a grant that is given again may count in a later stage."""
        if before is not None and before.stage != after.stage:
            gone = live.tallies[rollout.id, before.stage]
            gone = Tallies(
                gone.granted - 1, gone.in_flight, gone.succeeded, gone.failed, gone.inconclusive - 1, gone.forgiven
            )
            self._tally(connection, live, rollout, before.stage, gone)
            self._tally(
                connection, live, rollout, after.stage, live.tallies[rollout.id, after.stage].moved(None, after)
            )
        else:
            now = live.tallies[rollout.id, after.stage].moved(before, after)
            self._tally(connection, live, rollout, after.stage, now)
        records.write_grant(connection, rollout.id, after, new=before is None)

    def _tally(self, connection: Connection, live: Live, rollout: Rollout, stage: int, tallies: Tallies) -> None:
        live.tallies[rollout.id, stage] = tallies
        records.write_tallies(connection, rollout.id, stage, tallies)

    def _halted(self, connection: Connection, live: Live, rollout: Rollout, now: int) -> Rollout:
        """The rollout, halted if failures of any of its stages are too many; at once, not at the next look."""
        if not rollout.watched:
            return rollout
        for number in range(rollout.stage + 1):
            excess = engine.excessive(rollout.plan.stages[number], live.tallies[rollout.id, number])
            if excess:
                halt(connection, rollout, excess, now)
                return records.load(connection, rollout.id)
        return rollout


def _granted(rollout: Rollout, grant: Grant) -> Direction:
    if rollout.withdrawn and grant.live:
        trying = grant.state in (GrantState.LOADING, GrantState.SOAKING) and rollout.return_soaking
        return Direction(0, grant.level if trying else 0, rollout.reason, SOON_SECONDS)
    if grant.live or grant.state is GrantState.SUCCEEDED:
        return Direction(grant.level, 0, rollout.name, SOON_SECONDS if grant.live else 0)
    return Direction()


def _stronger(one: Direction | None, other: Direction) -> Direction:
    """What a host of several rollouts is told: the higher level, any way back, the sooner check-in."""
    if one is None:
        return other
    within = min((seconds for seconds in (one.within, other.within) if seconds), default=0)
    first = one if (one.back, one.level) >= (other.back, other.level) else other
    return Direction(max(one.level, other.level), one.back or other.back, first.reason, within)
