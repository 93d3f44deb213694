"""Halting a rollout by itself, an override that only a named person lifts; and telling of what fails when it is over."""

from __future__ import annotations

from sqlalchemy import Connection

from kmend.server.access import audit
from kmend.server.notices import Event, post
from kmend.server.rollouts import records
from kmend.server.rollouts.engine import Grant, GrantState
from kmend.server.rollouts.records import Override, Rollout, RolloutState
from kmend.server.store import news


def halt(connection: Connection, rollout: Rollout, reason: str, now: int) -> None:
    """Halt it; hosts that soak its level hear of it at once."""
    records.change(connection, rollout, now, reason, override=Override.HALTED)
    records.end_stage(connection, rollout, rollout.stage, "halted", now)
    news.bump(connection, *(news.ring_key(ring) for ring in rollout.plan.rings))  # before the audit log, as everywhere
    failures = [grant for grant in records.all_grants(connection, rollout.id, failed_only=True) if grant.cause]
    detail = {
        "reason": reason,
        "stage": rollout.stage,
        "failures": [{"host": grant.host, "cause": grant.cause, "message": grant.message} for grant in failures[:20]],
    }
    audit.append(connection, at=now, actor=audit.SERVER, action="rollout.halt", subject=rollout.id, detail=detail)
    told = "; ".join(f"{grant.host}: {grant.cause} ({grant.message})" for grant in failures[:5])
    post(connection, Event.ROLLOUT_HALTED, rollout.name, f"halted: {reason}. {told}", now)


def tell_late(connection: Connection, rollout: Rollout, grant: Grant, now: int) -> None:
    """Tell people of a host that fails after the rollout has finished: nothing halts any more, and its ring has the level.

    Told of the first such failure, the second, the fourth, and so on, so that many become few notices. The audit log has each.
    """
    if rollout.state is not RolloutState.FINISHED or grant.state is not GrantState.FAILED:
        return
    detail = {"host": grant.host, "cause": grant.cause, "message": grant.message}
    audit.append(
        connection, at=now, actor=audit.SERVER, action="rollout.late-failure", subject=rollout.id, detail=detail
    )
    count = records.failed_since(connection, rollout.id, rollout.changed_at)
    if count & (count - 1) == 0:
        told = f"{grant.host}: {grant.cause} ({grant.message}), after the rollout had finished; {count} such so far"
        post(connection, Event.ROLLOUT_LATE_FAILURE, rollout.name, told, now)
