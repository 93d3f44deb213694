"""What is done to hosts: moved, tagged, taken out, and let go of when they are silent."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, case, delete, func, insert, select, update

from kmend.server.access import audit
from kmend.server.hosts import listing, periods, rings
from kmend.server.hosts.checkin import DECOMMISSIONED, ENROLLED, EXPIRED
from kmend.server.hosts.keys import checked_tags
from kmend.server.hosts.listing import Host
from kmend.server.store import news
from kmend.server.store.tables import host_tags, hosts, reports

MAX_AT_ONCE = 1000


def move(connection: Connection, host: str, ring: str, *, actor: str, now: int) -> Host:
    """Put a host into another ring; nothing that is loaded changes.

    Raises:
        NotFoundError: there is no such host, or no such ring.
    """
    rings.show(connection, ring)
    before = listing.show(connection, host)
    if before.ring != ring:
        connection.execute(update(hosts).where(hosts.c.id == host).values(ring=ring))
        periods.record_present(connection, [host], now)
        news.bump(connection, news.ring_key(before.ring))
        detail = {"from": before.ring, "to": ring, "name": before.name}
        audit.append(connection, at=now, actor=actor, action="host.move", subject=host, detail=detail)
    return listing.show(connection, host)


def tag(connection: Connection, host: str, tags: Mapping[str, str], *, actor: str, now: int) -> Host:
    """Give a host these tags in place of those it has.

    Raises:
        NotFoundError: there is no such host.
        InvalidError: they cannot be tags.
    """
    wanted = checked_tags(tags)
    before = listing.show(connection, host)
    if dict(before.tags) != wanted:
        connection.execute(delete(host_tags).where(host_tags.c.host == host))
        if wanted:
            rows = [{"host": host, "name": name, "value": value} for name, value in wanted.items()]
            connection.execute(insert(host_tags), rows)
        detail = {"from": dict(before.tags), "to": wanted, "name": before.name}
        audit.append(connection, at=now, actor=actor, action="host.tag", subject=host, detail=detail)
    return listing.show(connection, host)


def decommission(connection: Connection, host: str, *, actor: str, now: int, reason: str = "") -> Host:
    """Take a host out of the fleet: its credential is worth nothing from now on. What it runs, it goes on running.

    Raises:
        NotFoundError: there is no such host.
    """
    before = listing.show(connection, host)
    if before.state != DECOMMISSIONED:
        connection.execute(update(hosts).where(hosts.c.id == host).values(state=DECOMMISSIONED))
        periods.record_present(connection, [host], now)
        detail = {"name": before.name, "ring": before.ring, "reason": reason}
        audit.append(connection, at=now, actor=actor, action="host.decommission", subject=host, detail=detail)
    return listing.show(connection, host)


def expire(connection: Connection, now: int, *, since: int = 0, grace: int = 0) -> int:
    """Let go of ephemeral hosts that have been silent for as long as their enrolment key said; returns how many.

    Args:
        since: before that the server did not listen, or its clock was another.
        grace: seconds that every host has besides, since it comes at its own times.
    """
    heard = case((hosts.c.last_seen < since, since), else_=hosts.c.last_seen)
    due = (
        select(hosts.c.id, hosts.c.name)
        .where(
            hosts.c.state == ENROLLED,
            hosts.c.ephemeral_seconds.is_not(None),
            heard + hosts.c.ephemeral_seconds + grace < now,
        )
        .order_by(hosts.c.id)
        .limit(MAX_AT_ONCE)
        .with_for_update()
    )
    rows = connection.execute(due).all()
    if not rows:
        return 0
    connection.execute(update(hosts).where(hosts.c.id.in_([row.id for row in rows])).values(state=EXPIRED))
    periods.record_present(connection, [row.id for row in rows], now)
    names = sorted(row.name for row in rows)
    detail = {"count": len(names), "first": names[:20]}
    audit.append(
        connection, at=now, actor=audit.SERVER, action="host.expire", subject=f"{len(names)} hosts", detail=detail
    )
    return len(rows)


def prune_reports(connection: Connection, now: int, *, days: int) -> int:
    """Forget reports older than so many days; at most a thousand at once; returns how many.

    Of each host the newest of them is kept: it says what the host ran from then on, up to the next one.
    """
    newest = select(func.max(reports.c.id)).where(reports.c.received_at < now - days * 86_400).group_by(reports.c.host)
    old = (
        select(reports.c.id)
        .where(reports.c.received_at < now - days * 86_400, reports.c.id.not_in(newest))
        .limit(MAX_AT_ONCE)
    )
    return connection.execute(delete(reports).where(reports.c.id.in_(old))).rowcount


def silent(connection: Connection, now: int, *, seconds: int) -> int:
    """How many enrolled hosts are overdue by more than so many seconds."""
    query = select(func.count()).where(hosts.c.state == ENROLLED, hosts.c.next_due < now - seconds)
    return connection.execute(query).scalar_one()


def census(connection: Connection, now: int, *, seconds: int) -> tuple[dict[str, int], int]:
    """State -> how many hosts are in it; and how many of those enrolled are overdue by more than so many seconds.

    It looks at every host, 300,000 in a sixth of a second of a processor.
    """
    overdue = func.sum(case((hosts.c.next_due < now - seconds, 1), else_=0))
    rows = connection.execute(select(hosts.c.state, func.count(), overdue).group_by(hosts.c.state)).all()
    return {row[0]: row[1] for row in rows}, sum(int(row[2]) for row in rows if row[0] == ENROLLED)
