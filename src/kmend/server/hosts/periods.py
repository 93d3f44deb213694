"""How a host stood before, as far as verdicts depend on it: a row each time that changes, none when it does not.

A host that is silent has no row of its own: what it said last goes on standing, and `hosts.last_seen` says since when nobody has
heard of it. One that is taken out of the fleet, or let go of, has a last row, after which nothing is said of it any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, tuple_

from kmend.server.store.tables import host_periods, hosts

ON_ITS_WAY = ("transitioning", "loading")
"""Phases of an agent in which the level that it tries is not in force yet."""
MAX_AN_HOUR = 60
"""So many rows of a host are kept of an hour; one more takes the place of the newest, so that a host fills no disk."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What verdicts on a host depend on; columns of `host_periods`, and made of those of `hosts`.

    Attributes:
        level: in force; 0 for none.
        transition: a level on its way in; 0 for none.
        refuses: JSON list of the levels that it does not load by itself.
        loaded, barred, absent: lists of modules, by their digests (`modulesets`); what is loaded only where some are barred
            or absent, or nothing can be loaded any more: nowhere else does a verdict turn on them, and they change often.
        unpatched: JSON list of objects that the level in force should patch, and does not.
    """

    state: str
    ring: str
    boot_id: str
    build_id: str
    level: int
    transition: int
    refuses: str
    loaded: str = ""
    barred: str = ""
    absent: str = ""
    sealed: bool = False
    unpatched: str = "[]"

    @property
    def installed(self) -> str:
        """Which kernel was installed is not kept: no clock turns on it."""
        return ""


MODULES = ("loaded", "barred", "absent", "sealed", "unpatched")
COLUMNS = ("state", "ring", "boot_id", "build_id", "level", "trying", "phase", "refuses", *MODULES)
"""Of `hosts`, that a standing is made of."""


def standing(row: Any, changes: Mapping[str, object] | None = None) -> Standing:
    """How a host stands.

    Args:
        row: of `hosts`, or anything with these of its columns.
        changes: columns that are others now.
    """
    new: dict[str, Any] = {name: getattr(row, name) for name in COLUMNS} | {
        name: value for name, value in (changes or {}).items() if name in COLUMNS
    }
    phase, trying = new.pop("phase"), new.pop("trying")
    if not (new["barred"] or new["absent"] or new["sealed"]):
        new["loaded"] = ""
    return Standing(transition=trying if phase in ON_ITS_WAY else 0, **new)


def record(connection: Connection, standings: Mapping[str, Standing], now: int) -> None:
    """Write down how hosts stand from now on; for those of which something has changed, and only for them.

    A clock that was set back makes no row older than the one before it: it takes that one's place.
    """
    wanted = {host: item for host, item in standings.items() if item.build_id}
    if not wanted:
        return
    table = host_periods.c
    query = select(table.host, func.max(table.at).label("newest"), func.count().label("number"))
    query = query.where(table.host.in_(sorted(wanted)), table.at > now - 3600).group_by(table.host)
    newest: dict[str, int] = {}
    instead: list[tuple[str, int]] = []
    for row in connection.execute(query):
        newest[row.host] = row.newest
        if row.newest >= now or row.number >= MAX_AN_HOUR:
            instead.append((row.host, row.newest))
    if instead:
        connection.execute(delete(host_periods).where(tuple_(table.host, table.at).in_(instead)))
    rows = [{"host": host, "at": max(now, newest.get(host, now)), **asdict(item)} for host, item in wanted.items()]
    connection.execute(insert(host_periods), rows)


def record_present(connection: Connection, ids: Iterable[str], now: int) -> None:
    """The same of how hosts stand in the database, after somebody other than the host has changed it."""
    query = select(hosts.c.id, *(hosts.c[name] for name in COLUMNS)).where(hosts.c.id.in_(sorted(ids)))
    record(connection, {row.id: standing(row) for row in connection.execute(query)}, now)


def prune(connection: Connection, now: int, *, days: int, most: int) -> int:
    """Forget what held before so many days; of each host its first row stays, and the last before that. Returns how many hosts.

    With the first one it stays true since when a CVE stands open, however long that is.

    Args:
        most: hosts at once; when as many are returned, there may be more.
    """
    table, horizon = host_periods.c, now - days * 86_400
    bounds = select(table.host, func.min(table.at).label("first"), func.max(table.at).label("last"))
    bounds = bounds.where(table.at < horizon).group_by(table.host).having(func.count() > 2).limit(most)
    rows = connection.execute(bounds).all()
    for row in rows:
        own = (table.host == row.host) & (table.at > row.first) & (table.at < row.last)
        connection.execute(delete(host_periods).where(own))
    return len(rows)
