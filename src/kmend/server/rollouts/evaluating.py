"""The look that a rollout gets every two seconds: silence, stages that pass or fail, the next ring."""

from __future__ import annotations

import functools
import json
import logging

from sqlalchemy import Connection, Select, exists, func, select, true

from kmend.server.access import audit
from kmend.server.notices import Event, post
from kmend.server.rollouts import engine, records
from kmend.server.rollouts.engine import LIVE, GrantState, Judgement
from kmend.server.rollouts.errors import RolloutError
from kmend.server.rollouts.halting import halt
from kmend.server.rollouts.plan import Stage
from kmend.server.rollouts.records import Override, Rollout, RolloutState
from kmend.server.store import Store, StoreError, news, settings
from kmend.server.store.tables import grants, hosts, level_fixes, recalls, ring_levels, rollout_targets

GONE_SECONDS = 3600
"""A host that is overdue by more is not waited for; it gets the level when it comes back and its ring has it."""
NEW_SECONDS = 900
"""So long a host that was enrolled may take until it says which kernel it runs; after that nobody waits for it."""
NOTE_SECONDS, GAP_SECONDS = 10, 60
_logger = logging.getLogger(__name__)


def evaluate(store: Store, now: int) -> None:
    """Look at every rollout that goes on, each in a transaction of its own: one that cannot be judged stops no other."""
    store.transact(functools.partial(_awake, now=now))
    with store.read() as connection:
        ids = [rollout.id for rollout in records.live(connection, lock=False)]
    for rollout in ids:
        try:
            store.transact(functools.partial(look, wanted=rollout, now=now))
        except (StoreError, RolloutError) as problem:
            _logger.error("rollout %s cannot be judged: %s", rollout, problem.message)


def _number(connection: Connection, name: str) -> int:
    return int(settings.read(connection, name) or 0)


def _awake(connection: Connection, now: int) -> None:
    """Note that somebody looks; after a gap, in which no host could check in, that it begins anew."""
    before = _number(connection, settings.LOOKED_AT)
    if 0 <= now - before < NOTE_SECONDS:
        return
    if before and now - before > GAP_SECONDS:
        settings.write(connection, settings.AWAKE_SINCE, str(now))
        settings.write(connection, settings.ASLEEP_SINCE, str(before))
    settings.write(connection, settings.LOOKED_AT, str(now))


def look(connection: Connection, wanted: str, now: int) -> None:
    """Look at one rollout."""
    rollout = records.load(connection, wanted, lock=True)
    rollout = _overdue(connection, rollout, now)
    if not rollout.watched:
        return
    for number in range(rollout.stage + (rollout.state is RolloutState.RUNNING)):
        excess = engine.excessive(rollout.plan.stages[number], rollout.stages[number].tallies)
        if excess:
            halt(connection, rollout, excess, now)
            return
    if not rollout.granting:
        return
    stage = rollout.plan.stages[rollout.stage]
    bad = recalled(connection, rollout)
    if bad:
        halt(connection, rollout, bad, now)
        return
    left = remaining(connection, rollout, now)
    verdict = engine.judge(
        stage,
        rollout.stages[rollout.stage].tallies,
        left,
        rollout.stage_opened_at,
        now,
        absent=absent(connection, rollout),
    )
    if verdict.judgement is Judgement.HALT:
        halt(connection, rollout, verdict.reason, now)
    elif verdict.judgement is not Judgement.OPEN:
        outcome = "passed" if verdict.judgement is Judgement.PASSED else "skipped"
        go_on(connection, rollout, outcome, verdict.reason, actor=audit.SERVER, now=now)


def go_on(connection: Connection, rollout: Rollout, outcome: str, reason: str, *, actor: str, now: int) -> None:
    """End the open stage well, and open the next, or finish."""
    stage = rollout.plan.stages[rollout.stage]
    records.end_stage(connection, rollout, rollout.stage, outcome, now)
    if stage.share >= 1:
        release(connection, rollout, stage.ring, now)
    following = rollout.stage + 1
    detail = {"stage": rollout.stage, "ring": stage.ring, "outcome": outcome, "reason": reason}
    if following == len(rollout.plan.stages):
        records.change(connection, rollout, now, reason, state=RolloutState.FINISHED, override=Override.NONE)
        post(connection, Event.ROLLOUT_FINISHED, rollout.name, reason, now)
        audit.append(connection, at=now, actor=actor, action="rollout.finish", subject=rollout.id, detail=detail)
        return
    _open(connection, rollout, following, reason, now)
    audit.append(connection, at=now, actor=actor, action="rollout.stage", subject=rollout.id, detail=detail)


def _open(connection: Connection, rollout: Rollout, number: int, reason: str, now: int) -> None:
    stage = rollout.plan.stages[number]
    waits = stage.approval
    state = RolloutState.AWAITING_APPROVAL if waits else RolloutState.RUNNING
    records.change(
        connection, rollout, now, reason, state=state, override=Override.NONE, stage=number, stage_opened_at=now
    )
    if waits:
        text = f"the stage {number + 1}, ring {stage.ring}, waits for an approval"
        post(connection, Event.ROLLOUT_AWAITING_APPROVAL, rollout.name, text, now)
    else:
        news.bump(connection, news.ring_key(stage.ring))


def release(connection: Connection, rollout: Rollout, ring: str, now: int) -> None:
    """Let every host of a ring have the rollout's levels; never a lower one than it may have."""
    query = select(ring_levels.c.build_id, ring_levels.c.level).where(ring_levels.c.ring == ring)
    known = {row.build_id: row.level for row in connection.execute(query.with_for_update())}
    for build_id, level in sorted(rollout.targets.items()):
        values = {"level": level, "rollout": rollout.id, "since": now}
        if build_id not in known:
            connection.execute(ring_levels.insert().values(ring=ring, build_id=build_id, **values))
        elif level > known[build_id]:
            where = (ring_levels.c.ring == ring) & (ring_levels.c.build_id == build_id)
            connection.execute(ring_levels.update().where(where).values(**values))
    news.bump(connection, news.ring_key(ring))


def _overdue(connection: Connection, rollout: Rollout, now: int) -> Rollout:
    """The rollout after grants of silent and stuck hosts have failed."""
    awake_since = _number(connection, settings.AWAKE_SINCE)
    silence = min(stage.silence_seconds for stage in rollout.plan.stages)
    patience = min(stage.patience_seconds for stage in rollout.plan.stages)
    query = (
        select(grants, hosts.c.last_seen, hosts.c.state.label("host_state"))
        .join(hosts, hosts.c.id == grants.c.host)
        .where(
            grants.c.rollout == rollout.id,
            grants.c.state.in_([state.value for state in LIVE]),
            (hosts.c.last_seen < now - silence)
            | (grants.c.granted_at < now - patience)
            | (hosts.c.state != "enrolled"),
        )
    )
    tallies = {stage.number: stage.tallies for stage in rollout.stages}
    changed = set()
    for row in connection.execute(query).all():
        before = records.read_grant(row)
        if row.host_state == "expired":
            after = before.became(GrantState.FAILED, now, engine.Cause.SILENT, "it was silent until it was let go")
        elif row.host_state != "enrolled":
            after = before.became(GrantState.INCONCLUSIVE, now, engine.Cause.GONE, f"the host was {row.host_state}")
        else:
            after = engine.overdue(
                before, rollout.plan.stages[before.stage], row.last_seen, now, awake_since=awake_since
            )
        if after is not before:
            tallies[before.stage] = tallies[before.stage].moved(before, after)
            changed.add(before.stage)
            records.write_grant(connection, rollout.id, after, new=False)
    for number in sorted(changed):
        records.write_tallies(connection, rollout.id, number, tallies[number])
    if not changed:
        return rollout
    return records.load(connection, rollout.id)


def remaining(connection: Connection, rollout: Rollout, now: int) -> int:
    """Hosts of the open stage that could be granted and are not yet; new ones that have not said what they run among them."""
    stage = rollout.plan.stages[rollout.stage]
    return _waiting(connection, rollout, stage, now) + _unknown(connection, stage.ring, now)


def absent(connection: Connection, rollout: Rollout) -> int:
    """Hosts of the open stage that lack the level and of which nothing is decided, whether they could be granted or not."""
    stage = rollout.plan.stages[rollout.stage]
    rows = connection.execute(_eligible(rollout, stage.ring, None)).all()
    return sum(engine.position(rollout.id, row.id) < stage.share for row in rows)


def recalled(connection: Connection, rollout: Rollout) -> str:
    """Which of its levels is recalled, whole or by a fix, without being above that; empty for none."""
    named = (recalls.c.build_id == rollout_targets.c.build_id) & (recalls.c.level == rollout_targets.c.level)
    held = exists().where(
        level_fixes.c.build_id == rollout_targets.c.build_id,
        level_fixes.c.level == rollout_targets.c.level,
        level_fixes.c.fix == recalls.c.fix,
    )
    query = (
        select(rollout_targets.c.level, recalls.c.number)
        .where(rollout_targets.c.rollout == rollout.id, recalls.c.withdrawn_at.is_(None), named | held)
        .limit(1)
    )
    row = connection.execute(query).first()
    return f"level {row.level} is recalled (recall {row.number})" if row is not None else ""


def _unknown(connection: Connection, ring: str, now: int) -> int:
    """Hosts that were just enrolled: a ring that has only such hosts is not one without hosts."""
    query = select(func.count()).where(
        hosts.c.ring == ring,
        hosts.c.state == "enrolled",
        hosts.c.build_id == "",
        hosts.c.enrolled_at >= now - NEW_SECONDS,
    )
    return connection.execute(query).scalar_one()


def _waiting(connection: Connection, rollout: Rollout, stage: Stage, now: int) -> int:
    since = _number(connection, settings.AWAKE_SINCE)
    then = _number(connection, settings.ASLEEP_SINCE) if now - since < GONE_SECONDS else now
    query = _eligible(rollout, stage.ring, then - GONE_SECONDS)
    if stage.share < 1:
        rows = connection.execute(query).all()
        return sum(
            engine.position(rollout.id, row.id) < stage.share and row.level not in json.loads(row.refuses)
            for row in rows
        )
    willing = query.where(hosts.c.refuses == "[]").subquery()
    plain = connection.execute(select(func.count()).select_from(willing)).scalar_one()
    refusing = connection.execute(query.where(hosts.c.refuses != "[]")).all()
    return plain + sum(row.level not in json.loads(row.refuses) for row in refusing)


def _eligible(rollout: Rollout, ring: str, due: int | None) -> Select[tuple[str, str, int]]:
    decided = (
        select(grants.c.host)
        .where(grants.c.rollout == rollout.id, grants.c.state != GrantState.INCONCLUSIVE.value)
        .scalar_subquery()
    )
    return (
        select(hosts.c.id, hosts.c.refuses, rollout_targets.c.level)
        .join(rollout_targets, rollout_targets.c.build_id == hosts.c.build_id)
        .where(
            rollout_targets.c.rollout == rollout.id,
            hosts.c.ring == ring,
            hosts.c.state == "enrolled",
            hosts.c.level < rollout_targets.c.level,
            hosts.c.next_due >= due if due is not None else true(),
            hosts.c.id.not_in(decided),
        )
    )
