"""Halting a rollout by itself: an override that only a named person lifts."""

from __future__ import annotations

from sqlalchemy import Connection

from kmend.server.access import audit
from kmend.server.notices import Event, post
from kmend.server.rollouts import records
from kmend.server.rollouts.records import Override, Rollout
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
