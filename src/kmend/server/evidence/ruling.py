"""What a fleet stands under, for a pack: policies, exceptions, and what they want closed by when."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, or_, select

from kmend.core.document import encode
from kmend.server.compliance.answers import forecast_of
from kmend.server.evidence.documents import DueRow, ExceptionRow, PolicyRow
from kmend.server.store import tables

FORECAST_DAYS = 30


def policies(connection: Connection, since: int, until: int) -> Iterator[bytes]:
    """Policies that stood at some time of the period, by when they were set; a line each."""
    table = tables.policies
    query = select(table).where(
        table.c.created_at < until, or_(table.c.removed_at.is_(None), table.c.removed_at >= since)
    )
    for row in connection.execute(query.order_by(table.c.created_at, table.c.id)):
        yield encode(PolicyRow(**{name: getattr(row, name) for name in PolicyRow.__slots__}))


def exceptions(connection: Connection, since: int, until: int) -> Iterator[bytes]:
    """Exceptions that had not ended before the period, by when they were asked for; a line each."""
    table = tables.exceptions
    query = select(table).where(
        table.c.created_at < until,
        table.c.expires_at >= since,
        or_(table.c.withdrawn_at.is_(None), table.c.withdrawn_at >= since),
    )
    for row in connection.execute(query.order_by(table.c.created_at, table.c.id)):
        yield encode(ExceptionRow(**{name: getattr(row, name) for name in ExceptionRow.__slots__}))


def due(connection: Connection, now: int, ring: str) -> Iterator[bytes]:
    """What is overdue now, and what will be soon; a line each."""
    found = forecast_of(connection, now, days=FORECAST_DAYS, seen=(ring,) if ring else ()).forecast
    for item in (*found.overdue, *found.due):
        yield encode(
            DueRow(item.row, item.cve, item.ring, item.hosts, item.due, item.latest, item.overdue, item.forensic)
        )
