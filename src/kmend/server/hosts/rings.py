"""Rings: named groups of hosts, in the order in which they receive new levels."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select, update

from kmend.server.access import audit
from kmend.server.hosts.checkin import ENROLLED
from kmend.server.hosts.errors import ConflictError, InvalidError, NotFoundError
from kmend.server.store import tables
from kmend.server.store.tables import hosts, rings

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
MAX_POSITION = 10_000
MAX_DESCRIPTION = 500


@dataclass(frozen=True, slots=True)
class Ring:
    """A ring.

    Attributes:
        position: rings are told in the order of these.
        hosts: how many are enrolled in it.
        exposed: the internet reaches its hosts; None if nobody has said, which deadlines take for yes.
    """

    name: str
    position: int
    description: str
    created_at: int
    hosts: int = 0
    exposed: bool | None = None


def check_ring(name: str) -> str:
    """`name`, if it can be a ring's; raises InvalidError otherwise."""
    if not _NAME.fullmatch(name):
        raise InvalidError(f"{name[:60]!r} is not a ring's name", hint="small letters, digits and -, at most 40")
    return name


def listing(connection: Connection) -> tuple[Ring, ...]:
    """Every ring, in order."""
    count = (
        select(hosts.c.ring, func.count().label("count")).where(hosts.c.state == ENROLLED).group_by(hosts.c.ring)
    ).subquery()
    query = select(rings, func.coalesce(count.c.count, 0).label("hosts")).outerjoin(count, count.c.ring == rings.c.name)
    found = connection.execute(query.order_by(rings.c.position, rings.c.name))
    return tuple(Ring(row.name, row.position, row.description, row.created_at, row.hosts, row.exposed) for row in found)


def show(connection: Connection, name: str) -> Ring:
    """One ring.

    Raises:
        NotFoundError: there is none of that name.
    """
    for ring in listing(connection):
        if ring.name == name:
            return ring
    raise NotFoundError(f"there is no ring {name[:60]!r}", hint="kmend-server rings list")


def put(
    connection: Connection,
    name: str,
    *,
    position: int,
    description: str,
    actor: str,
    now: int,
    exposed: bool | None = None,
) -> Ring:
    """Make a ring, or change one.

    Raises:
        InvalidError: name or position cannot be one.
    """
    check_ring(name)
    if not 0 <= position <= MAX_POSITION or len(description) > MAX_DESCRIPTION or not description.isprintable():
        raise InvalidError(
            f"a ring's position is 0 to {MAX_POSITION}, its description one line of {MAX_DESCRIPTION} characters"
        )
    values = {"position": position, "description": description, "exposed": exposed}
    before = connection.execute(select(rings).where(rings.c.name == name).with_for_update()).first()
    if before is None:
        connection.execute(insert(rings).values(name=name, created_at=now, **values))
    elif (before.position, before.description, before.exposed) != (position, description, exposed):
        connection.execute(update(rings).where(rings.c.name == name).values(**values))
    else:
        return show(connection, name)
    action = "ring.create" if before is None else "ring.change"
    audit.append(connection, at=now, actor=actor, action=action, subject=name, detail=values)
    return show(connection, name)


def remove(connection: Connection, name: str, *, actor: str, now: int) -> None:
    """Remove a ring without hosts, keys and past; does nothing if there is none of that name.

    Raises:
        ConflictError: something still refers to it.
    """
    if connection.execute(select(rings.c.name).where(rings.c.name == name).with_for_update()).first() is None:
        return
    for table, what in (
        (hosts, "hosts"),
        (tables.enrolment_keys, "enrolment keys"),
        (tables.ring_levels, "levels"),
        (tables.policies, "policies"),
    ):
        if connection.execute(select(table.c.ring).where(table.c.ring == name).limit(1)).first() is not None:
            raise ConflictError(f"the ring {name} still has {what}", hint="move its hosts, and keep the ring empty")
    connection.execute(rings.delete().where(rings.c.name == name))
    audit.append(connection, at=now, actor=actor, action="ring.remove", subject=name, detail={})
