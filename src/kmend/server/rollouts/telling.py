"""What people are told of rollouts: how far each is, who failed and why, and what a host waits for."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from kmend.server.hosts import listing
from kmend.server.hosts.seen import Seen
from kmend.server.rollouts import engine, records
from kmend.server.rollouts import plan as plans
from kmend.server.rollouts.candidates import Candidates, Known
from kmend.server.rollouts.eligible import remaining
from kmend.server.rollouts.engine import Grant, GrantState, Tallies
from kmend.server.rollouts.errors import PlanError
from kmend.server.rollouts.plan import Plan
from kmend.server.rollouts.records import Override, Rollout, RolloutState
from kmend.server.store.tables import hosts
from kmend.server.store.tables import plans as plan_table

MAX_FAILURES = 50
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage.

    Attributes:
        outcome: empty while it is open or not reached.
        remaining: hosts that could be granted; only of the open stage.
    """

    number: int
    ring: str
    share: float
    at_once: int
    granted: int
    in_flight: int
    succeeded: int
    failed: int
    inconclusive: int
    forgiven: int
    outcome: str
    ended_at: int | None
    remaining: int | None


@dataclass(frozen=True, slots=True)
class FailureView:
    """A host that failed."""

    host: str
    name: str
    stage: int
    cause: str
    message: str
    at: int


@dataclass(frozen=True, slots=True)
class RolloutView:
    """A rollout, for people and programs.

    Attributes:
        status: state and override in one word: the override where there is one.
        reason: of the last change.
        stage: number of the open stage, from 0.
        failures: the first of them.
    """

    id: str
    name: str
    status: str
    state: RolloutState
    override: Override
    reason: str
    emergency: bool
    return_soaking: bool
    stage: int
    created_at: int
    created_by: str
    changed_at: int
    version: int
    targets: dict[str, int]
    stages: tuple[StageView, ...]
    failures: tuple[FailureView, ...]
    plan: Plan


@dataclass(frozen=True, slots=True)
class PlanView:
    """A plan that is kept."""

    name: str
    automatic: bool
    created_at: int
    plan: Plan


@dataclass(frozen=True, slots=True)
class Waiting:
    """What one rollout has to do with one host."""

    rollout: str
    name: str
    status: str
    level: int
    state: str
    reason: str


def show(connection: Connection, rollout: str, now: int) -> RolloutView:
    """One rollout.

    Raises:
        NoRolloutError: there is none of that ID.
    """
    return view(connection, records.load(connection, rollout), now)


def page(connection: Connection, now: int, *, after: tuple[int, str] | None, limit: int) -> tuple[RolloutView, ...]:
    """Rollouts, the newest first."""
    return tuple(view(connection, item, now) for item in records.page(connection, after=after, limit=limit))


def view(connection: Connection, rollout: Rollout, now: int) -> RolloutView:
    """A rollout as people see it."""
    failed = records.all_grants(connection, rollout.id, failed_only=True)[:MAX_FAILURES]
    names = _names(connection, [grant.host for grant in failed])
    left = remaining(connection, rollout, now) if rollout.state is RolloutState.RUNNING else None
    return RolloutView(
        id=rollout.id,
        name=rollout.name,
        status=rollout.override.value or rollout.state.value,
        state=rollout.state,
        override=rollout.override,
        reason=rollout.reason,
        emergency=rollout.emergency,
        return_soaking=rollout.return_soaking,
        stage=rollout.stage,
        created_at=rollout.created_at,
        created_by=rollout.created_by,
        changed_at=rollout.changed_at,
        version=rollout.version,
        targets=rollout.targets,
        stages=tuple(
            StageView(
                number=record.number,
                ring=record.ring,
                share=stage.share,
                at_once=stage.at_once,
                outcome=record.outcome,
                ended_at=record.ended_at,
                remaining=left if record.number == rollout.stage else None,
                **{name: getattr(record.tallies, name) for name in Tallies.__slots__},
            )
            for record, stage in zip(rollout.stages, rollout.plan.stages, strict=True)
        ),
        failures=tuple(
            FailureView(
                grant.host, names.get(grant.host, ""), grant.stage, grant.cause, grant.message, grant.state_since
            )
            for grant in failed
        ),
        plan=rollout.plan,
    )


def grants(connection: Connection, rollout: str) -> tuple[Grant, ...]:
    """Every grant of a rollout."""
    records.load(connection, rollout)
    return records.all_grants(connection, rollout)


def kept_plans(connection: Connection) -> tuple[PlanView, ...]:
    """Every plan that is kept, by name; without those that cannot be read."""
    found = []
    for row in connection.execute(select(plan_table).order_by(plan_table.c.name)):
        try:
            found.append(PlanView(row.name, row.automatic, row.created_at, plans.read_kept(row.stages)))
        except PlanError as problem:
            _logger.error("plan %s is passed over: %s", row.name, problem.message)
    return tuple(found)


def why(connection: Connection, host: str, now: int) -> tuple[Waiting, ...]:
    """What each rollout that goes on has to do with a host: its grant, or what it waits for.

    Raises:
        NotFoundError: there is no such host.
    """
    shown = listing.show(connection, host)
    refuses = connection.execute(select(hosts.c.refuses).where(hosts.c.id == host)).scalar_one()
    seen = Seen(
        host, shown.ring, shown.build_id, shown.level, shown.trying, shown.phase, shown.boot_id,
        refuses=tuple(json.loads(refuses)), hardware=shown.hardware, role=shown.role, distro=shown.distro, tags=shown.tags,
    )  # fmt: skip
    candidates = Candidates(connection, Known())
    return tuple(
        _why(connection, candidates, rollout, seen, now)
        for rollout in records.live(connection, lock=False)
        if shown.build_id in rollout.targets
    )


def _why(connection: Connection, candidates: Candidates, rollout: Rollout, seen: Seen, now: int) -> Waiting:
    grant = records.grants_of(connection, rollout.id, [seen.host]).get(seen.host)
    status = rollout.override.value or rollout.state.value
    level = rollout.targets[seen.build_id]
    if grant is not None and grant.state is not GrantState.INCONCLUSIVE:
        said = f"{grant.cause}: {grant.message}" if grant.cause else f"since {now - grant.state_since} s"
        return Waiting(rollout.id, rollout.name, status, level, grant.state.value, said)
    return Waiting(
        rollout.id, rollout.name, status, level, "waiting", _reason(connection, candidates, rollout, seen, now)
    )


def _reason(connection: Connection, candidates: Candidates, rollout: Rollout, seen: Seen, now: int) -> str:
    if not rollout.granting:
        status = rollout.override.value or rollout.state.value
        return f"the rollout is {status}: {rollout.reason}"
    stages = rollout.plan.stages
    stage = stages[rollout.stage]
    if seen.ring != stage.ring:
        later = [number for number, item in enumerate(stages) if item.ring == seen.ring and number > rollout.stage]
        if later:
            stalled = f": {rollout.reason}" if rollout.reason.startswith(engine.STALLED) else ""
            where = f"stage {rollout.stage + 1} ({stage.ring}) is open{stalled}"
            return f"its ring {seen.ring} is stage {later[0] + 1}; {where}"
        return f"its ring {seen.ring} has had its turn, or is not part of it"
    tallies = rollout.stages[rollout.stage].tallies
    if records.busy_elsewhere(connection, rollout.id, [seen.host]):
        return "another rollout has it on its way"
    wait = candidates.obstacle(rollout, seen, tallies, now)
    return wait.reason if wait is not None else "it is granted at its next check-in"


def _names(connection: Connection, ids: Sequence[str]) -> dict[str, str]:
    rows = connection.execute(select(hosts.c.id, hosts.c.name).where(hosts.c.id.in_(ids)))
    return {row.id: row.name for row in rows}
