"""The look that a rollout gets every two seconds: silence, stages that pass or fail, the next ring."""

from __future__ import annotations

import functools
import logging

from sqlalchemy import Connection, select, text

from kmend.server.access import audit
from kmend.server.notices import Event, post
from kmend.server.rollouts import eligible, engine, recalling, records
from kmend.server.rollouts.engine import LIVE, GrantState, Judgement, Verdict
from kmend.server.rollouts.halting import halt
from kmend.server.rollouts.records import Override, Rollout, RolloutState
from kmend.server.store import Store, news, settings
from kmend.server.store.tables import grants, hosts

NOTE_SECONDS, GAP_SECONDS = 10, 60
_logger = logging.getLogger(__name__)
_RELEASE = text(
    "INSERT INTO ring_levels (ring, build_id, level, rollout, since) VALUES (:ring, :build_id, :level, :rollout, :since)"
    " ON CONFLICT (ring, build_id) DO UPDATE SET level = excluded.level, rollout = excluded.rollout, since = excluded.since"
    " WHERE excluded.level > ring_levels.level"
)
_NOTE = text(
    "INSERT INTO ring_releases (ring, build_id, level, since) VALUES (:ring, :build_id, :level, :since)"
    " ON CONFLICT (ring, build_id, level) DO NOTHING"
)


def evaluate(store: Store, now: int) -> None:
    """Look at every rollout that goes on, each in a transaction of its own: one that cannot be judged stops no other."""
    store.transact(functools.partial(_awake, now=now))
    with store.read() as connection:
        ids = [rollout.id for rollout in records.live(connection, lock=False)]
    for rollout in ids:
        try:
            store.transact(functools.partial(look, wanted=rollout, now=now))
        except Exception:  # whatever it is, the others go on
            _logger.exception("rollout %s cannot be judged", rollout)


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
    bad = recalling.of_rollout(connection, rollout.id)
    if bad:
        halt(connection, rollout, bad, now)
        return
    verdict = _judge(connection, rollout, now)
    if verdict.judgement is Judgement.HALT:
        halt(connection, rollout, verdict.reason, now)
    elif verdict.judgement in (Judgement.OPEN, Judgement.STALLED):
        _tell_stalled(connection, rollout, verdict, now)
    else:
        outcome = "passed" if verdict.judgement is Judgement.PASSED else "skipped"
        go_on(connection, rollout, outcome, verdict.reason, actor=audit.SERVER, now=now)


def _judge(connection: Connection, rollout: Rollout, now: int) -> Verdict:
    stage, tallies = rollout.plan.stages[rollout.stage], rollout.stages[rollout.stage].tallies
    left = eligible.remaining(connection, rollout, now)
    away = 0
    if left == tallies.granted == 0:  # only then is it asked who is away: it takes long in a large ring
        away = eligible.absent(connection, rollout)
        if not away and not _had_others(rollout) and eligible.choose_first(connection, rollout, now):
            left = eligible.remaining(connection, rollout, now)
            away = eligible.absent(connection, rollout)
    return engine.judge(stage, tallies, left, rollout.stage_opened_at, now, absent=away)


def _had_others(rollout: Rollout) -> bool:
    """Whether an earlier stage of the same ring has granted: then this share is not without hosts."""
    ring = rollout.plan.stages[rollout.stage].ring
    return any(stage.ring == ring and stage.tallies.granted for stage in rollout.stages[: rollout.stage])


def _tell_stalled(connection: Connection, rollout: Rollout, verdict: Verdict, now: int) -> None:
    """Tell people once that nobody can be granted; the reason stands in the rollout as long as that is so."""
    known = rollout.reason.startswith(engine.STALLED)
    if verdict.judgement is Judgement.STALLED and not known:
        records.change(connection, rollout, now, verdict.reason)
        post(connection, Event.ROLLOUT_STALLED, rollout.name, verdict.reason, now)
    elif verdict.judgement is Judgement.OPEN and known:
        records.change(connection, rollout, now, "hosts can be granted again")


def go_on(connection: Connection, rollout: Rollout, outcome: str, reason: str, *, actor: str, now: int) -> None:
    """End the open stage well, and open the next, or finish."""
    stage = rollout.plan.stages[rollout.stage]
    records.end_stage(connection, rollout, rollout.stage, outcome, now)
    eligible.forget_first(connection, rollout)
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
        told = f"the stage {number + 1}, ring {stage.ring}, waits for an approval"
        post(connection, Event.ROLLOUT_AWAITING_APPROVAL, rollout.name, told, now)
    else:
        news.bump(connection, news.ring_key(stage.ring))


def release(connection: Connection, rollout: Rollout, ring: str, now: int) -> None:
    """Let every host of a ring have the rollout's levels; never a lower one than it may have."""
    values = {"ring": ring, "rollout": rollout.id, "since": now}
    rows = [{**values, "build_id": build_id, "level": level} for build_id, level in sorted(rollout.targets.items())]
    connection.execute(_RELEASE, rows)  # another rollout may release the same at the same time
    connection.execute(_NOTE, rows)
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
