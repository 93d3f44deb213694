"""Policies that rings stand under. One of a name is kept in a ring at a time; those before it stay, for reports on the past."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import secrets
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, insert, select, update

from kmend.core.document import encode, from_plain
from kmend.intel.deadlines import Assumptions, Row
from kmend.intel.frameworks import FRAMEWORKS
from kmend.intel.policies import Policy
from kmend.intel.rows import encode_rows, rows_from
from kmend.server.access import audit
from kmend.server.compliance.errors import ComplianceError, NotThereError
from kmend.server.store.tables import policies, rings

OWN = "own"
MAX_PER_RING = 20
MAX_TEXT = 200
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """A policy, and how it came.

    Attributes:
        name: in its ring.
        removed_at: since when it counts no more; None while it does.
    """

    policy: Policy
    name: str
    created_by: str
    removed_at: int | None


def put(
    connection: Connection,
    ring: str,
    name: str,
    *,
    framework: str,
    rows: Sequence[Row],
    assumed: Assumptions,
    valid_from: datetime.date,
    valid_to: datetime.date,
    approved_by: str,
    actor: str,
    now: int,
) -> Kept:
    """Have a ring stand under a policy; another of that name ends with it. Nothing happens if it stands under that very one.

    Raises:
        NotThereError: there is no such ring.
        ComplianceError: there are no rows, or what is said of it makes no sense.
    """
    if not _NAME.fullmatch(name):
        raise ComplianceError(f"{name[:60]!r} is not a policy's name", hint="small letters, digits and -, at most 40")
    if framework != OWN and framework not in FRAMEWORKS:
        raise ComplianceError(f"there is no framework {framework[:40]!r}", hint=f"{', '.join(FRAMEWORKS)}, {OWN}")
    if not rows:
        raise ComplianceError("a policy has rows", hint="of a framework, or of one's own")
    if not 0 < len(approved_by) <= MAX_TEXT or not approved_by.isprintable():
        raise ComplianceError("somebody has approved a policy", hint=f"one line of at most {MAX_TEXT} characters")
    if valid_to <= valid_from:
        raise ComplianceError("the policy ends before it begins to hold")
    if connection.execute(select(rings.c.name).where(rings.c.name == ring).with_for_update()).first() is None:
        raise NotThereError(f"there is no ring {ring[:60]!r}", hint="kmend-server rings list")
    values = {
        "framework": framework,
        "rows": encode_rows(rows),
        "assumed": encode(assumed).decode(),
        "valid_from": valid_from.isoformat(),
        "valid_to": valid_to.isoformat(),
        "approved_by": approved_by,
    }
    here = connection.execute(select(policies).where(policies.c.ring == ring, policies.c.removed_at.is_(None))).all()
    before = next((row for row in here if row.name == name), None)
    if before is not None and all(getattr(before, key) == value for key, value in values.items()):
        return _read(before)
    if before is None and len(here) >= MAX_PER_RING:
        raise ComplianceError(f"the ring {ring} stands under {MAX_PER_RING} policies", hint="remove one first")
    if before is not None:
        connection.execute(update(policies).where(policies.c.id == before.id).values(removed_at=now))
    made = secrets.token_hex(8)
    connection.execute(
        insert(policies).values(id=made, ring=ring, name=name, created_at=now, created_by=actor, **values)
    )
    detail = {"policy": name, **values, "rows": json.loads(values["rows"]), "assumed": json.loads(values["assumed"])}
    audit.append(connection, at=now, actor=actor, action="policy.set", subject=ring, detail=detail)
    return _read(connection.execute(select(policies).where(policies.c.id == made)).one())


def remove(connection: Connection, ring: str, name: str, *, actor: str, now: int) -> None:
    """Have a ring no more stand under a policy; nothing happens if it does not."""
    where = (policies.c.ring == ring, policies.c.name == name, policies.c.removed_at.is_(None))
    if connection.execute(update(policies).where(*where).values(removed_at=now)).rowcount:
        audit.append(connection, at=now, actor=actor, action="policy.remove", subject=ring, detail={"policy": name})


def listing(connection: Connection, rings_seen: Collection[str] = (), *, past: bool = False) -> tuple[Kept, ...]:
    """Policies, by ring and name.

    Args:
        rings_seen: only of these; empty for all.
        past: those, too, that count no more.
    """
    query = select(policies).order_by(policies.c.ring, policies.c.name, policies.c.created_at, policies.c.id)
    if rings_seen:
        query = query.where(policies.c.ring.in_(sorted(rings_seen)))
    if not past:
        query = query.where(policies.c.removed_at.is_(None))
    return tuple(_read(row) for row in connection.execute(query))


def by_ring(connection: Connection, rings_seen: Collection[str] = ()) -> dict[str, list[Policy]]:
    """Ring -> what it stands under."""
    found: dict[str, list[Policy]] = {}
    for kept in listing(connection, rings_seen):
        found.setdefault(kept.policy.ring, []).append(kept.policy)
    return found


def _read(row: Any) -> Kept:
    policy = Policy(
        row.id, row.ring, row.framework, rows_from(json.loads(row.rows)), from_plain(Assumptions, json.loads(row.assumed)),
        datetime.date.fromisoformat(row.valid_from), datetime.date.fromisoformat(row.valid_to), row.approved_by,
        row.created_at,
    )  # fmt: skip
    return Kept(policy, row.name, row.created_by, row.removed_at)
