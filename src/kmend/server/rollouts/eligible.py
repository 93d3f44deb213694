"""Which hosts a stage could still grant, which it lacks, and who is first where a share of a small ring has nobody."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, delete, func, select, true

from kmend.server.rollouts import engine
from kmend.server.rollouts.engine import GrantState
from kmend.server.rollouts.plan import Stage
from kmend.server.rollouts.records import Rollout
from kmend.server.store import settings
from kmend.server.store.tables import grants, host_tags, hosts, rollout_targets
from kmend.server.store.tables import settings as settings_table

GONE_SECONDS = 3600
"""A host that is overdue by more is not waited for; it gets the level when it comes back and its ring has it."""
NEW_SECONDS = 900
"""So long a host that was enrolled may take until it says which kernel it runs; after that nobody waits for it."""


def remaining(connection: Connection, rollout: Rollout, now: int) -> int:
    """Hosts of the open stage that could be granted and are not yet; new ones that have not said what they run among them."""
    stage = rollout.plan.stages[rollout.stage]
    return _waiting(connection, rollout, stage, now) + _unknown(connection, stage.ring, now)


def absent(connection: Connection, rollout: Rollout) -> int:
    """Hosts of the open stage that lack the level and of which nothing is decided, whether they could be granted or not."""
    stage = rollout.plan.stages[rollout.stage]
    query = _eligible(rollout, stage.ring, None)
    if stage.share >= 1:
        return connection.execute(select(func.count()).select_from(query.subquery())).scalar_one()
    chosen = first(connection, rollout)
    return sum(_within(rollout, stage, row.id, chosen) for row in connection.execute(query))


def first(connection: Connection, rollout: Rollout) -> str:
    """The host that the open stage begins with though it is not within the share; empty for none."""
    if rollout.plan.stages[rollout.stage].share >= 1:
        return ""
    return settings.read(connection, _first_name(rollout)) or ""


def choose_first(connection: Connection, rollout: Rollout, now: int) -> bool:
    """Let a share into which no host of the ring falls have the one that is nearest; whether there was one to choose."""
    stage = rollout.plan.stages[rollout.stage]
    if stage.share >= 1:
        return False
    rows = connection.execute(_eligible(rollout, stage.ring, _due(connection, now))).all()
    willing = [row for row in rows if _willing(row)] or connection.execute(_eligible(rollout, stage.ring, None)).all()
    if not willing:
        return False
    nearest = min(willing, key=lambda row: engine.position(rollout.id, row.id))
    settings.write(connection, _first_name(rollout), nearest.id)
    return True


def forget_first(connection: Connection, rollout: Rollout) -> None:
    """The open stage ends."""
    connection.execute(delete(settings_table).where(settings_table.c.name == _first_name(rollout)))


def any_other(connection: Connection, rollout: Rollout, used: frozenset[str], now: int) -> bool:
    """Whether a host of the open stage could be granted whose value of the diversity key is none of these."""
    stage = rollout.plan.stages[rollout.stage]
    query = _eligible(rollout, stage.ring, _due(connection, now)).where(_value(stage).not_in(sorted(used)))
    chosen = first(connection, rollout)
    return any(_within(rollout, stage, row.id, chosen) and _willing(row) for row in connection.execute(query))


def _value(stage: Stage) -> ColumnElement[str]:
    if stage.diversity.startswith("tag:"):
        tag = select(host_tags.c.value).where(host_tags.c.host == hosts.c.id, host_tags.c.name == stage.diversity[4:])
        return func.coalesce(tag.scalar_subquery(), "")
    return hosts.c[stage.diversity]


def _first_name(rollout: Rollout) -> str:
    return f"rollouts.first.{rollout.id}.{rollout.stage}"


def _within(rollout: Rollout, stage: Stage, host: str, chosen: str) -> bool:
    return engine.position(rollout.id, host) < stage.share or host == chosen


def _willing(row: Row[Any]) -> bool:
    return row.refuses == "[]" or row.level not in json.loads(row.refuses)


def _unknown(connection: Connection, ring: str, now: int) -> int:
    """Hosts that were just enrolled: a ring that has only such hosts is not one without hosts."""
    query = select(func.count()).where(
        hosts.c.ring == ring,
        hosts.c.state == "enrolled",
        hosts.c.build_id == "",
        hosts.c.enrolled_at >= now - NEW_SECONDS,
    )
    return connection.execute(query).scalar_one()


def _due(connection: Connection, now: int) -> int:
    """Whoever was to check in before that is away; while nobody looked, nobody could."""
    since = int(settings.read(connection, settings.AWAKE_SINCE) or 0)
    if now - since >= GONE_SECONDS:
        return now - GONE_SECONDS
    return int(settings.read(connection, settings.ASLEEP_SINCE) or 0) - GONE_SECONDS


def _waiting(connection: Connection, rollout: Rollout, stage: Stage, now: int) -> int:
    query = _eligible(rollout, stage.ring, _due(connection, now))
    if stage.share < 1:
        chosen = first(connection, rollout)
        rows = connection.execute(query)
        return sum(_within(rollout, stage, row.id, chosen) and _willing(row) for row in rows)
    willing = query.where(hosts.c.refuses == "[]").subquery()
    plain = connection.execute(select(func.count()).select_from(willing)).scalar_one()
    refusing = connection.execute(query.where(hosts.c.refuses != "[]")).all()
    return plain + sum(_willing(row) for row in refusing)


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
