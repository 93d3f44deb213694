"""Rollouts, stages and grants as they lie in the database; whoever changes them has locked the rollout's row first."""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, Select, exists, func, insert, or_, select, update

from kmend.server.rollouts import plan as plans
from kmend.server.rollouts.engine import LIVE, Grant, GrantState, Tallies
from kmend.server.rollouts.errors import NoRolloutError, PlanError
from kmend.server.rollouts.plan import Plan
from kmend.server.store.tables import grants, rollout_stages, rollout_targets, rollouts

MAX_KEPT_TARGETS = 100_000
"""So many targets of rollouts are remembered; they never change once a rollout is made."""
_logger = logging.getLogger(__name__)


class RolloutState(str, enum.Enum):
    """How far a rollout is."""

    DRAFT = "draft"
    AWAITING_APPROVAL = "awaiting-approval"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTED = "aborted"


class Override(str, enum.Enum):
    """What keeps a rollout from going on, whatever its state; only a person lifts it."""

    NONE = ""
    PAUSED = "paused"
    HALTED = "halted"


@dataclass(frozen=True, slots=True)
class StageRecord:
    """A stage as it is.

    Attributes:
        outcome: empty while it is open or not reached; passed, skipped, promoted, halted.
    """

    number: int
    ring: str
    tallies: Tallies
    outcome: str
    ended_at: int | None


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout.

    Attributes:
        targets: kernel build -> level.
        stage: the number of the open stage, from 0.
        version: rises with each change of state.
    """

    id: str
    name: str
    plan: Plan
    state: RolloutState
    override: Override
    stage: int
    stage_opened_at: int
    emergency: bool
    reason: str
    created_at: int
    created_by: str
    changed_at: int
    return_soaking: bool
    version: int
    targets: dict[str, int]
    stages: tuple[StageRecord, ...]

    @property
    def granting(self) -> bool:
        """Whether hosts may be granted."""
        return self.state is RolloutState.RUNNING and self.override is Override.NONE

    @property
    def watched(self) -> bool:
        """Whether failures halt it: also while it is paused or waits for a person."""
        going = self.state in (RolloutState.RUNNING, RolloutState.AWAITING_APPROVAL)
        return going and self.override is not Override.HALTED

    @property
    def withdrawn(self) -> bool:
        """Whether granted hosts are not to go on."""
        return self.override is Override.HALTED or self.state is RolloutState.ABORTED


class _Targets:
    """Rollout -> its targets, of those that were asked for last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, dict[str, int]] = {}

    def of(self, connection: Connection, ids: Iterable[str]) -> dict[str, dict[str, int]]:
        with self._lock:
            found = {rollout: self._kept[rollout] for rollout in ids if rollout in self._kept}
        missing = sorted(set(ids) - set(found))
        if missing:
            read: dict[str, dict[str, int]] = {}
            for row in connection.execute(select(rollout_targets).where(rollout_targets.c.rollout.in_(missing))):
                read.setdefault(row.rollout, {})[row.build_id] = row.level
            self._keep(read)
            found |= read
        return found

    def _keep(self, read: dict[str, dict[str, int]]) -> None:
        with self._lock:
            self._kept |= read
            size = sum(map(len, self._kept.values()))
            for oldest in list(self._kept):
                if size <= MAX_KEPT_TARGETS:
                    break
                size -= len(self._kept.pop(oldest))


_targets = _Targets()
_unreadable: set[str] = set()


def any_live(connection: Connection) -> bool:
    """Whether there is a rollout that goes on, or still has hosts on their way."""
    return connection.execute(_live().limit(1)).first() is not None


def live(connection: Connection, *, lock: bool) -> tuple[Rollout, ...]:
    """Rollouts that go on, or still have hosts on their way, in the order of their IDs; without those that cannot be read."""
    ids = [row.id for row in connection.execute(_live())]
    if not ids:
        return ()
    return _load(connection, ids, lock=lock, skip=True)


def _live() -> Select[tuple[str]]:
    on_its_way = exists().where(rollout_stages.c.rollout == rollouts.c.id, rollout_stages.c.in_flight > 0)
    going = rollouts.c.state.in_([RolloutState.RUNNING.value, RolloutState.AWAITING_APPROVAL.value])
    return select(rollouts.c.id).where(or_(going, on_its_way)).order_by(rollouts.c.id)


def load(connection: Connection, rollout: str, *, lock: bool = False) -> Rollout:
    """One rollout.

    Raises:
        NoRolloutError: there is none of that ID.
        PlanError: its plan cannot be read.
    """
    found = _load(connection, [rollout], lock=lock)
    if not found:
        raise NoRolloutError(f"there is no rollout {rollout[:40]!r}", hint="kmend-server rollouts list")
    return found[0]


def page(connection: Connection, *, after: tuple[int, str] | None, limit: int) -> tuple[Rollout, ...]:
    """Rollouts, the newest first; without those that cannot be read.

    Args:
        after: `created_at` and ID of the last one of the page before.
    """
    table = rollouts.c
    found: list[Rollout] = []
    while len(found) < limit:
        query = select(table.id, table.created_at).order_by(table.created_at.desc(), table.id)
        if after is not None:
            past = or_(table.created_at < after[0], (table.created_at == after[0]) & (table.id > after[1]))
            query = query.where(past)
        rows = connection.execute(query.limit(limit - len(found))).all()
        if not rows:
            break
        after = (rows[-1].created_at, rows[-1].id)
        read = {item.id: item for item in _load(connection, [row.id for row in rows], lock=False, skip=True)}
        found += [read[row.id] for row in rows if row.id in read]
    return tuple(found)


def _load(connection: Connection, ids: Sequence[str], *, lock: bool, skip: bool = False) -> tuple[Rollout, ...]:
    query = select(rollouts).where(rollouts.c.id.in_(ids)).order_by(rollouts.c.id)
    rows = connection.execute(query.with_for_update() if lock else query).all()
    targets = _targets.of(connection, ids)
    stages: dict[str, list[StageRecord]] = {}
    ordered = select(rollout_stages).where(rollout_stages.c.rollout.in_(ids)).order_by(rollout_stages.c.number)
    for row in connection.execute(ordered):
        counts = {name: getattr(row, name) for name in Tallies.__slots__}
        stage = StageRecord(row.number, row.ring, Tallies(**counts), row.outcome, row.ended_at)
        stages.setdefault(row.rollout, []).append(stage)
    found = []
    for row in rows:
        try:
            found.append(_read(row, targets.get(row.id, {}), tuple(stages.get(row.id, ()))))
        except PlanError as problem:
            if not skip:
                raise
            if row.id not in _unreadable:  # once, and not at every check-in
                _unreadable.add(row.id)
                _logger.error("rollout %s is passed over: %s", row.id, problem.message)
    return tuple(found)


def _read(row: Row[tuple[object, ...]], targets: dict[str, int], stages: tuple[StageRecord, ...]) -> Rollout:
    plain = {
        name: getattr(row, name)
        for name in Rollout.__slots__
        if name not in ("plan", "state", "override", "targets", "stages")
    }
    return Rollout(
        **plain,
        plan=plans.read_kept(row.plan),
        state=RolloutState(row.state),
        override=Override(row.override),
        targets=targets,
        stages=stages,
    )


def change(connection: Connection, rollout: Rollout, now: int, reason: str, **values: object) -> None:
    """Change a rollout's row."""
    plain = {name: value.value if isinstance(value, enum.Enum) else value for name, value in values.items()}
    connection.execute(
        update(rollouts)
        .where(rollouts.c.id == rollout.id)
        .values(**plain, reason=reason[:500], changed_at=now, version=rollouts.c.version + 1)
    )


def end_stage(connection: Connection, rollout: Rollout, number: int, outcome: str, now: int) -> None:
    """Note how a stage ended."""
    connection.execute(
        update(rollout_stages)
        .where(rollout_stages.c.rollout == rollout.id, rollout_stages.c.number == number)
        .values(outcome=outcome, ended_at=now)
    )


def write_tallies(connection: Connection, rollout: str, number: int, tallies: Tallies) -> None:
    """Write a stage's counts."""
    connection.execute(
        update(rollout_stages)
        .where(rollout_stages.c.rollout == rollout, rollout_stages.c.number == number)
        .values({name: getattr(tallies, name) for name in Tallies.__slots__})
    )


def read_grant(row: Row[tuple[object, ...]]) -> Grant:
    """A row of `grants`."""
    members = {name: getattr(row, name) for name in Grant.__slots__ if name != "state"}
    return Grant(**members, state=GrantState(row.state))


def grants_of(connection: Connection, rollout: str, hosts: Sequence[str]) -> dict[str, Grant]:
    """Host -> its grant in a rollout, of these hosts."""
    query = select(grants).where(grants.c.rollout == rollout, grants.c.host.in_(hosts))
    return {row.host: read_grant(row) for row in connection.execute(query)}


def all_grants(connection: Connection, rollout: str, *, failed_only: bool = False) -> tuple[Grant, ...]:
    """Every grant of a rollout, in the order in which they were made."""
    query = select(grants).where(grants.c.rollout == rollout).order_by(grants.c.granted_at, grants.c.host)
    if failed_only:
        query = query.where(grants.c.state == GrantState.FAILED.value)
    return tuple(read_grant(row) for row in connection.execute(query))


def failed_since(connection: Connection, rollout: str, since: int) -> int:
    """How many of its hosts have failed from then on."""
    query = select(func.count()).where(
        grants.c.rollout == rollout, grants.c.state == GrantState.FAILED.value, grants.c.state_since >= since
    )
    return connection.execute(query).scalar_one()


def write_grant(connection: Connection, rollout: str, grant: Grant, *, new: bool) -> None:
    """Write a grant."""
    values = {name: getattr(grant, name) for name in Grant.__slots__} | {"state": grant.state.value}
    if new:
        connection.execute(insert(grants).values(rollout=rollout, **values))
        return
    connection.execute(update(grants).where(grants.c.rollout == rollout, grants.c.host == grant.host).values(**values))


def busy_elsewhere(connection: Connection, rollout: str, hosts: Sequence[str]) -> frozenset[str]:
    """Of these hosts, those that another rollout has on its way."""
    states = [state.value for state in LIVE]
    query = select(grants.c.host).where(
        grants.c.host.in_(hosts), grants.c.rollout != rollout, grants.c.state.in_(states)
    )
    return frozenset(row.host for row in connection.execute(query))
