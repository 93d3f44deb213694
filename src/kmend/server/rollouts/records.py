"""Rollouts, stages and grants as they lie in the database; whoever changes them has locked the rollout's row first."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, exists, insert, or_, select, update

from kmend.server.rollouts import plan as plans
from kmend.server.rollouts.engine import LIVE, Grant, GrantState, Tallies
from kmend.server.rollouts.errors import NoRolloutError
from kmend.server.rollouts.plan import Plan
from kmend.server.store.tables import grants, rollout_stages, rollout_targets, rollouts


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


def live(connection: Connection, *, lock: bool) -> tuple[Rollout, ...]:
    """Rollouts that go on, or still have hosts on their way, in the order of their IDs."""
    on_its_way = exists().where(rollout_stages.c.rollout == rollouts.c.id, rollout_stages.c.in_flight > 0)
    going = rollouts.c.state.in_([RolloutState.RUNNING.value, RolloutState.AWAITING_APPROVAL.value])
    query = select(rollouts.c.id).where(or_(going, on_its_way)).order_by(rollouts.c.id)
    ids = [row.id for row in connection.execute(query)]
    if not ids:
        return ()
    return _load(connection, ids, lock=lock)


def load(connection: Connection, rollout: str, *, lock: bool = False) -> Rollout:
    """One rollout.

    Raises:
        NoRolloutError: there is none of that ID.
    """
    found = _load(connection, [rollout], lock=lock)
    if not found:
        raise NoRolloutError(f"there is no rollout {rollout[:40]!r}", hint="kmend-server rollouts list")
    return found[0]


def page(connection: Connection, *, after: tuple[int, str] | None, limit: int) -> tuple[Rollout, ...]:
    """Rollouts, the newest first.

    Args:
        after: `created_at` and ID of the last one of the page before.
    """
    table = rollouts.c
    query = select(table.id).order_by(table.created_at.desc(), table.id).limit(limit)
    if after is not None:
        query = query.where(or_(table.created_at < after[0], (table.created_at == after[0]) & (table.id > after[1])))
    ids = [row.id for row in connection.execute(query)]
    found = {item.id: item for item in _load(connection, ids, lock=False)}
    return tuple(found[item] for item in ids)


def _load(connection: Connection, ids: Sequence[str], *, lock: bool) -> tuple[Rollout, ...]:
    query = select(rollouts).where(rollouts.c.id.in_(ids)).order_by(rollouts.c.id)
    rows = connection.execute(query.with_for_update() if lock else query).all()
    targets: dict[str, dict[str, int]] = {}
    for row in connection.execute(select(rollout_targets).where(rollout_targets.c.rollout.in_(ids))):
        targets.setdefault(row.rollout, {})[row.build_id] = row.level
    stages: dict[str, list[StageRecord]] = {}
    ordered = select(rollout_stages).where(rollout_stages.c.rollout.in_(ids)).order_by(rollout_stages.c.number)
    for row in connection.execute(ordered):
        counts = {name: getattr(row, name) for name in Tallies.__slots__}
        stage = StageRecord(row.number, row.ring, Tallies(**counts), row.outcome, row.ended_at)
        stages.setdefault(row.rollout, []).append(stage)
    return tuple(_read(row, targets.get(row.id, {}), tuple(stages.get(row.id, ()))) for row in rows)


def _read(row: Row[tuple[object, ...]], targets: dict[str, int], stages: tuple[StageRecord, ...]) -> Rollout:
    plain = {
        name: getattr(row, name)
        for name in Rollout.__slots__
        if name not in ("plan", "state", "override", "targets", "stages")
    }
    return Rollout(
        **plain,
        plan=plans.read(row.plan),
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
