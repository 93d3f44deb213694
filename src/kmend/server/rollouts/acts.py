"""What people do with rollouts; each act has an actor and a reason, and stands in the audit log."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection, func, insert, select

from kmend.server.access import audit
from kmend.server.notices import Event, post
from kmend.server.rollouts import engine, recalling, records
from kmend.server.rollouts import plan as plans
from kmend.server.rollouts.errors import NoRolloutError, PlanError, RegressionError, RolloutError, RolloutStateError
from kmend.server.rollouts.evaluating import go_on
from kmend.server.rollouts.plan import Plan
from kmend.server.rollouts.records import Override, Rollout, RolloutState
from kmend.server.store import news
from kmend.server.store.tables import (
    approvals,
    hosts,
    level_fixes,
    levels,
    ring_levels,
    rings,
    rollout_stages,
    rollout_targets,
    rollouts,
)
from kmend.server.store.tables import plans as plan_table

MAX_TARGETS = 20_000
MAX_TEXT = 300
EMERGENCY_APPROVALS = 2


def put_plan(connection: Connection, name: str, plan: Plan, *, automatic: bool, actor: str, now: int) -> None:
    """Keep a plan under a name; one that is automatic rolls out new levels as they are published.

    Raises:
        PlanError: it names a ring that is not there, or a time zone that is not known here.
    """
    _check_text("name", name)
    plans.check_zones(plan)
    _check_rings(connection, plan)
    where = plan_table.c.name == name
    text = plans.write(plan)
    before = connection.execute(select(plan_table).where(where).with_for_update()).first()
    if before is None:
        values = {"name": name, "stages": text, "automatic": automatic, "created_at": now}
        connection.execute(insert(plan_table).values(**values))
    elif (before.stages, before.automatic) == (text, automatic):
        return
    else:
        connection.execute(plan_table.update().where(where).values(stages=text, automatic=automatic))
    detail = {"plan": text, "automatic": automatic}
    audit.append(connection, at=now, actor=actor, action="plan.put", subject=name, detail=detail)


def remove_plan(connection: Connection, name: str, *, actor: str, now: int) -> None:
    """Forget a plan; rollouts that were made by it keep their own copy."""
    if connection.execute(plan_table.delete().where(plan_table.c.name == name)).rowcount:
        audit.append(connection, at=now, actor=actor, action="plan.remove", subject=name, detail={})


def read_plan(connection: Connection, name: str) -> Plan:
    """A plan by its name.

    Raises:
        NoRolloutError: there is none.
    """
    row = connection.execute(select(plan_table).where(plan_table.c.name == name)).first()
    if row is None:
        raise NoRolloutError(f"there is no plan {name[:60]!r}", hint="kmend-server plans list")
    return plans.read(row.stages)


def create(
    connection: Connection,
    *,
    name: str,
    plan: Plan,
    targets: Mapping[str, int],
    actor: str,
    now: int,
    emergency: bool = False,
    return_soaking: bool = True,
) -> Rollout:
    """Make a rollout; it does nothing before `start`.

    Args:
        targets: kernel build -> level.
        emergency: no soak, windows and approvals between stages; two people must approve before it begins.

    Raises:
        NoRolloutError: a level is not in the repository.
        RegressionError: a level lacks fixes that hosts of these rings have, and that are not recalled.
        RolloutError: a level is recalled, or holds a recalled fix that it does not clear; or there is nothing to roll out.
    """
    _check_text("name", name)
    if not 1 <= len(targets) <= MAX_TARGETS:
        raise RolloutError(f"a rollout has 1 to {MAX_TARGETS} kernel builds")
    plans.check_zones(plan)
    _check_rings(connection, plan)
    _check_targets(connection, plan, targets)
    rollout = secrets.token_hex(8)
    chosen = plan.hurried() if emergency else plan
    connection.execute(
        insert(rollouts).values(
            id=rollout,
            name=name,
            plan=plans.write(chosen),
            state=RolloutState.DRAFT.value,
            emergency=emergency,
            created_at=now,
            created_by=actor,
            changed_at=now,
            return_soaking=return_soaking,
        )
    )
    rows = [{"rollout": rollout, "build_id": build_id, "level": level} for build_id, level in sorted(targets.items())]
    connection.execute(insert(rollout_targets), rows)
    _check_recalls(connection, rollout)
    stages = [{"rollout": rollout, "number": number, "ring": stage.ring} for number, stage in enumerate(chosen.stages)]
    connection.execute(insert(rollout_stages), stages)
    detail = {
        "name": name,
        "targets": dict(sorted(targets.items())),
        "rings": list(chosen.rings),
        "emergency": emergency,
    }
    audit.append(connection, at=now, actor=actor, action="rollout.create", subject=rollout, detail=detail)
    return records.load(connection, rollout)


def start(connection: Connection, wanted: str, *, actor: str, now: int) -> Rollout:
    """Begin; where an approval is needed first, wait for it.

    Raises:
        RolloutStateError: it has begun before.
        RolloutError: what `create` refuses.
    """
    rollout = records.load(connection, wanted, lock=True)
    _require(rollout, (RolloutState.DRAFT,), "started")
    _check_targets(connection, rollout.plan, rollout.targets)  # a draft may have become old
    _check_recalls(connection, rollout.id)
    waits = rollout.emergency or rollout.plan.stages[0].approval
    state = RolloutState.AWAITING_APPROVAL if waits else RolloutState.RUNNING
    reason = "waits for approval" if waits else "started"
    records.change(connection, rollout, now, reason, state=state, stage_opened_at=now)
    if waits:
        needed = EMERGENCY_APPROVALS if rollout.emergency else 1
        post(connection, Event.ROLLOUT_AWAITING_APPROVAL, rollout.name, f"needs {needed} approvals to begin", now)
    else:
        news.bump(connection, news.ring_key(rollout.plan.stages[0].ring))
    audit.append(
        connection, at=now, actor=actor, action="rollout.start", subject=rollout.id, detail={"state": state.value}
    )
    return records.load(connection, wanted)


def approve(connection: Connection, wanted: str, *, actor: str, reason: str, now: int) -> Rollout:
    """Approve the stage that waits; not by whoever made the rollout, and each person counts once.

    Raises:
        RolloutStateError: nothing waits for an approval, or not for this person's.
    """
    rollout = records.load(connection, wanted, lock=True)
    _check_text("reason", reason)
    _require(rollout, (RolloutState.AWAITING_APPROVAL,), "approved")
    if actor == rollout.created_by:
        raise RolloutStateError(
            "whoever made a rollout cannot approve it", hint="ask somebody else with the role approver"
        )
    table = approvals.c
    here = (table.rollout == rollout.id) & (table.stage == rollout.stage)
    if connection.execute(select(table.id).where(here, table.actor == actor)).first() is None:
        values = {"rollout": rollout.id, "stage": rollout.stage, "actor": actor, "approved": True, "reason": reason}
        connection.execute(insert(approvals).values(**values, at=now))
    given = connection.execute(select(func.count()).where(here)).scalar_one()
    needed = EMERGENCY_APPROVALS if rollout.emergency else 1
    detail = {"stage": rollout.stage, "reason": reason, "approvals": given, "needed": needed}
    if given >= needed:
        records.change(connection, rollout, now, f"approved: {reason}", state=RolloutState.RUNNING, stage_opened_at=now)
        news.bump(connection, news.ring_key(rollout.plan.stages[rollout.stage].ring))
    audit.append(connection, at=now, actor=actor, action="rollout.approve", subject=rollout.id, detail=detail)
    return records.load(connection, wanted)


def pause(connection: Connection, wanted: str, *, actor: str, reason: str, now: int) -> Rollout:
    """Grant nobody any more until it is resumed; hosts on their way go on.

    Raises:
        RolloutStateError: it is over, or does not go on anyway.
    """
    rollout = records.load(connection, wanted, lock=True)
    _check_text("reason", reason)
    _require(rollout, (RolloutState.RUNNING, RolloutState.AWAITING_APPROVAL), "paused")
    if rollout.override is not Override.NONE:
        raise RolloutStateError(f"{rollout.name} is {rollout.override.value} already")
    records.change(connection, rollout, now, reason, override=Override.PAUSED)
    audit.append(connection, at=now, actor=actor, action="rollout.pause", subject=rollout.id, detail={"reason": reason})
    return records.load(connection, wanted)


def resume(connection: Connection, wanted: str, *, actor: str, reason: str, now: int) -> Rollout:
    """Go on after a pause or a halt; the failures so far are forgiven, and named in the audit log.

    Raises:
        RolloutStateError: it is neither paused nor halted, or over.
    """
    rollout = records.load(connection, wanted, lock=True)
    _check_text("reason", reason)
    _require(rollout, (RolloutState.RUNNING, RolloutState.AWAITING_APPROVAL), "resumed")
    if rollout.override is Override.NONE:
        raise RolloutStateError(f"{rollout.name} is not paused and not halted")
    forgiven = [grant.host for grant in records.all_grants(connection, rollout.id, failed_only=True)]
    for stage in rollout.stages:
        if stage.tallies.counted:
            tallies = replace(stage.tallies, forgiven=stage.tallies.failed)
            records.write_tallies(connection, rollout.id, stage.number, tallies)
    records.end_stage(connection, rollout, rollout.stage, "", 0)
    connection.execute(
        rollout_stages.update()
        .where(rollout_stages.c.rollout == rollout.id, rollout_stages.c.number == rollout.stage)
        .values(ended_at=None)
    )
    records.change(connection, rollout, now, reason, override=Override.NONE, stage_opened_at=now)
    news.bump(connection, news.ring_key(rollout.plan.stages[rollout.stage].ring))
    detail = {"reason": reason, "was": rollout.override.value, "forgiven": forgiven[:100]}
    audit.append(connection, at=now, actor=actor, action="rollout.resume", subject=rollout.id, detail=detail)
    return records.load(connection, wanted)


def abort(connection: Connection, wanted: str, *, actor: str, reason: str, now: int) -> Rollout:
    """End it for good; hosts that soak its level are sent back, if the rollout says so and they allow it.

    Raises:
        RolloutStateError: it is over.
    """
    rollout = records.load(connection, wanted, lock=True)
    _check_text("reason", reason)
    states = (RolloutState.DRAFT, RolloutState.AWAITING_APPROVAL, RolloutState.RUNNING)
    _require(rollout, states, "aborted")
    records.change(connection, rollout, now, reason, state=RolloutState.ABORTED, override=Override.NONE)
    news.bump(connection, *(news.ring_key(ring) for ring in rollout.plan.rings))
    audit.append(connection, at=now, actor=actor, action="rollout.abort", subject=rollout.id, detail={"reason": reason})
    return records.load(connection, wanted)


def promote(connection: Connection, wanted: str, *, actor: str, reason: str, now: int, stage: int) -> Rollout:
    """Take the open stage for passed, and open the next.

    Args:
        stage: the number of the stage that is meant, from 0; if another one is open by now, nothing is done.

    Raises:
        RolloutStateError: it does not go on, or another stage is open.
        RolloutError: a level is recalled.
    """
    rollout = records.load(connection, wanted, lock=True)
    _check_text("reason", reason)
    _require(rollout, (RolloutState.RUNNING,), "promoted")
    if stage != rollout.stage:
        raise RolloutStateError(f"the open stage is {rollout.stage + 1}, not {stage + 1}", hint="look at it again")
    if rollout.override is not Override.NONE:
        raise RolloutStateError(f"{rollout.name} is {rollout.override.value}", hint="resume it first")
    _check_recalls(connection, rollout.id)
    go_on(connection, rollout, "promoted", reason, actor=actor, now=now)
    return records.load(connection, wanted)


def begin_automatic(connection: Connection, new: Sequence[tuple[str, int]], now: int) -> tuple[Rollout, ...]:
    """Roll out newly published levels by each plan that is automatic; the newest level of each kernel build.

    A plan whose rollout cannot be made (a level that is a regression, for example) is passed over, and people are told.
    """
    newest: dict[str, int] = {}
    for build_id, level in new:
        query = select(levels.c.channel).where(levels.c.build_id == build_id, levels.c.level == level)
        if connection.execute(query).scalar() == "":
            newest[build_id] = max(level, newest.get(build_id, 0))
    made: list[Rollout] = []
    rows = connection.execute(select(plan_table).where(plan_table.c.automatic.is_(True))).all() if newest else []
    for row in rows:
        named = ", ".join(str(level) for level in sorted(set(newest.values()))[:5])
        name = f"{row.name}: level {named}" + (f" for {len(newest)} kernel builds" if len(newest) > 1 else "")
        try:
            with connection.begin_nested():
                rollout = create(
                    connection, name=name, plan=plans.read(row.stages), targets=newest, actor=audit.SERVER, now=now
                )
                made.append(start(connection, rollout.id, actor=audit.SERVER, now=now))
        except RolloutError as problem:
            post(connection, Event.ROLLOUT_STALLED, name, f"cannot begin: {problem.message}", now)
    return tuple(made)


def _require(rollout: Rollout, states: tuple[RolloutState, ...], what: str) -> None:
    if rollout.state not in states:
        raise RolloutStateError(f"{rollout.name} is {rollout.state.value}; it cannot be {what}")


def _check_text(what: str, text: str) -> None:
    if not 0 < len(text) <= MAX_TEXT or not text.isprintable():
        raise RolloutError(f"a {what} is one line of 1 to {MAX_TEXT} characters")


def _check_rings(connection: Connection, plan: Plan) -> None:
    known = {row.name for row in connection.execute(select(rings.c.name))}
    missing = [ring for ring in plan.rings if ring not in known]
    if missing:
        raise PlanError(f"there is no ring {', '.join(missing)}", hint="make it first: kmend-server rings put")


def _check_recalls(connection: Connection, rollout: str) -> None:
    problem = recalling.of_rollout(connection, rollout)
    if problem:
        raise RolloutError(problem, hint="publish a level without it, or one that clears the fix")


def _check_targets(connection: Connection, plan: Plan, targets: Mapping[str, int]) -> None:
    recalled = recalling.fixes(connection)
    for build_id, level in targets.items():
        _check_target(connection, plan, build_id, level, recalled)


def _check_target(connection: Connection, plan: Plan, build_id: str, level: int, recalled: frozenset[str]) -> None:
    here = (levels.c.build_id == build_id) & (levels.c.level == level)
    if connection.execute(select(levels.c.level).where(here)).first() is None:
        raise NoRolloutError(
            f"the repository has no level {level} for kernel build {build_id[:40]}", hint="kmend-server levels list"
        )
    fixes = _fixes(connection, build_id)
    own = select(ring_levels.c.level).where(ring_levels.c.build_id == build_id, ring_levels.c.ring.in_(plan.rings))
    run = select(hosts.c.level).where(
        hosts.c.build_id == build_id, hosts.c.ring.in_(plan.rings), hosts.c.level > 0, hosts.c.state == "enrolled"
    )
    for held in sorted({row.level for row in connection.execute(own.union(run))}):
        lost = engine.fixes_lost(fixes, held, level, recalled)
        if lost and held < level:
            raise RegressionError(
                f"level {level} lacks {len(lost)} fixes of level {held}, which hosts of these rings have",
                hint="publish a level that has them, or recall them",
            )


def _fixes(connection: Connection, build_id: str) -> dict[int, frozenset[str]]:
    found: dict[int, set[str]] = {}
    query = select(level_fixes.c.level, level_fixes.c.fix).where(level_fixes.c.build_id == build_id)
    for row in connection.execute(query):
        found.setdefault(row.level, set()).add(row.fix)
    return {level: frozenset(digests) for level, digests in found.items()}
