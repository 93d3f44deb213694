"""Finding hosts: filters, pages, and one host with everything about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, or_, select

from kmend.server.hosts.errors import InvalidError, NotFoundError
from kmend.server.store.tables import host_tags, hosts, reports

MAX_LIMIT = 500


@dataclass(frozen=True, slots=True)
class Host:
    """A host, as people see it; the columns of `tables.hosts` have the same names.

    Attributes:
        state: `enrolled`, `expired`, `decommissioned`.
        level: in force; trying: of its open intent; 0 for none. phase: where its agent stands.
        trouble: the worst of its remarks, a word; empty if it has none.
    """

    id: str
    name: str
    ring: str
    state: str
    parent: str | None
    enrolled_at: int
    enrolment_key: str | None
    ephemeral_seconds: int | None
    address: str
    last_seen: int
    next_due: int
    boot_id: str
    build_id: str
    release: str
    version: str
    architecture: str
    level: int
    module: str
    trying: int
    phase: str
    supported: bool | None
    hardware: str
    role: str
    distro: str
    agent: str
    trouble: str
    tags: Mapping[str, str]


_COLUMNS = [hosts.c[name] for name in Host.__slots__ if name != "tags"]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which hosts; all that is given must hold.

    Attributes:
        name: with `*` for any characters.
        rings: None for all; what the caller may see is cut down to with this.
        kernel: release or build ID.
        level, level_below: in force.
        tag: `name` or `name=value`.
        seen_within, seen_before: seconds ago.
        enrolled_within: likewise.
        trouble: the word, or `any`.
    """

    name: str = ""
    rings: tuple[str, ...] | None = None
    ring: str = ""
    state: str = ""
    kernel: str = ""
    level: int | None = None
    level_below: int | None = None
    phase: str = ""
    tag: str = ""
    agent: str = ""
    seen_within: int | None = None
    seen_before: int | None = None
    enrolled_within: int | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Some hosts, and where the next page begins: name and ID of the last; None at the end."""

    hosts: tuple[Host, ...]
    next: tuple[str, str] | None


def page(
    connection: Connection, wanted: Filter, now: int, *, after: tuple[str, str] | None = None, limit: int = 100
) -> Page:
    """One page of hosts, in the order of their names.

    Raises:
        InvalidError: the limit is not 1 to 500.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidError(f"limit must be 1 to {MAX_LIMIT}")
    query = _query(wanted, now)
    if after is not None:
        name, last = after
        query = query.where(or_(hosts.c.name > name, and_(hosts.c.name == name, hosts.c.id > last)))
    rows = connection.execute(query.limit(limit + 1)).all()
    found = _read(connection, rows[:limit])
    return Page(found, (found[-1].name, found[-1].id) if len(rows) > limit else None)


def every(connection: Connection, wanted: Filter, now: int) -> Iterator[Host]:
    """All of them, for an export; page by page, so that no transaction holds them all in memory."""
    after: tuple[str, str] | None = None
    while True:
        found = page(connection, wanted, now, after=after, limit=MAX_LIMIT)
        yield from found.hosts
        if found.next is None:
            return
        after = found.next


def count(connection: Connection, wanted: Filter, now: int) -> int:
    """How many there are."""
    return connection.execute(
        select(func.count()).select_from(_query(wanted, now).order_by(None).subquery())
    ).scalar_one()


def show(connection: Connection, host: str) -> Host:
    """One host.

    Raises:
        NotFoundError: there is none of that ID.
    """
    rows = connection.execute(select(*_COLUMNS).where(hosts.c.id == host)).all()
    if not rows:
        raise NotFoundError(f"there is no host {host[:40]!r}", hint="kmend-server hosts list")
    return _read(connection, rows)[0]


@dataclass(frozen=True, slots=True)
class SignedReport:
    """A check-in that brought a state report, as it was signed.

    Attributes:
        id: rises with time.
        body: JSON, byte for byte.
    """

    id: int
    counter: int
    received_at: int
    digest: str
    body: bytes
    signature: str


def signed_reports(
    connection: Connection, host: str, *, before: int | None = None, limit: int = 50
) -> tuple[SignedReport, ...]:
    """What a host has reported, the newest first."""
    columns = [reports.c[name] for name in SignedReport.__slots__]
    query = select(*columns).where(reports.c.host == host).order_by(reports.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(reports.c.id < before)
    return tuple(SignedReport(*row) for row in connection.execute(query))


def by_level(connection: Connection, rings: Sequence[str] | None = None) -> dict[str, dict[int, int]]:
    """Ring -> level in force -> how many enrolled hosts."""
    query = select(hosts.c.ring, hosts.c.level, func.count().label("count")).where(hosts.c.state == "enrolled")
    if rings is not None:
        query = query.where(hosts.c.ring.in_(rings))
    found: dict[str, dict[int, int]] = {}
    for ring, level, number in connection.execute(query.group_by(hosts.c.ring, hosts.c.level)):
        found.setdefault(ring, {})[level] = number
    return found


def _query(wanted: Filter, now: int) -> Select[tuple[object, ...]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.name:
        conditions.append(hosts.c.name.ilike(_pattern(wanted.name), escape="\\"))
    if wanted.rings is not None:
        conditions.append(hosts.c.ring.in_(wanted.rings))
    for column, value in (
        (hosts.c.ring, wanted.ring),
        (hosts.c.state, wanted.state),
        (hosts.c.phase, wanted.phase),
        (hosts.c.agent, wanted.agent),
    ):
        if value:
            conditions.append(column == value)
    if wanted.kernel:
        conditions.append(or_(hosts.c.release == wanted.kernel, hosts.c.build_id == wanted.kernel))
    if wanted.level is not None:
        conditions.append(hosts.c.level == wanted.level)
    if wanted.level_below is not None:
        conditions.append(hosts.c.level < wanted.level_below)
    if wanted.trouble:
        conditions.append(hosts.c.trouble != "" if wanted.trouble == "any" else hosts.c.trouble == wanted.trouble)
    if wanted.seen_within is not None:
        conditions.append(hosts.c.last_seen >= now - wanted.seen_within)
    if wanted.seen_before is not None:
        conditions.append(hosts.c.last_seen < now - wanted.seen_before)
    if wanted.enrolled_within is not None:
        conditions.append(hosts.c.enrolled_at >= now - wanted.enrolled_within)
    if wanted.tag:
        name, _, value = wanted.tag.partition("=")
        tagged = select(host_tags.c.host).where(host_tags.c.name == name)
        if "=" in wanted.tag:
            tagged = tagged.where(host_tags.c.value == value)
        conditions.append(hosts.c.id.in_(tagged))
    return select(*_COLUMNS).where(*conditions).order_by(hosts.c.name, hosts.c.id)


def _pattern(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%")


def _read(connection: Connection, rows: Sequence[Row[tuple[object, ...]]]) -> tuple[Host, ...]:
    ids = [row.id for row in rows]
    tags: dict[str, dict[str, str]] = {}
    if ids:
        for row in connection.execute(select(host_tags).where(host_tags.c.host.in_(ids)).order_by(host_tags.c.name)):
            tags.setdefault(row.host, {})[row.name] = row.value
    return tuple(Host(**row._mapping, tags=tags.get(row.id, {})) for row in rows)
