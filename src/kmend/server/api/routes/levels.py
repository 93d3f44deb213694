"""What the signed repository holds: kernel builds, levels, recalls; and how the fleet stands."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Response, Router, get
from litestar.di import NamedDependency
from litestar.params import PathParameter, QueryParameter
from sqlalchemy import Connection, func, select

from kmend.core.recall import Extent
from kmend.server.access.permissions import Caller, Permission
from kmend.server.api import paging
from kmend.server.api.guarding import needs
from kmend.server.api.paging import Cursor, Limit, Page
from kmend.server.api.services import Services
from kmend.server.hosts import listing, upkeep
from kmend.server.rollouts import records
from kmend.server.rollouts.errors import NoRolloutError
from kmend.server.store import tables

OVERDUE_SECONDS = 60


class LevelView(msgspec.Struct, frozen=True):
    """A level.

    Attributes:
        cves: that it closes.
        rings: where every host may have it.
        hosts: how many run it.
    """

    build_id: str
    level: int
    release: str
    ref: str
    module: str
    published: int
    channel: str
    base: int | None
    pinned: bool
    cves: tuple[str, ...]
    rings: tuple[str, ...]
    hosts: int


class RecallView(msgspec.Struct, frozen=True):
    """A recall; a fix or a level of a kernel build."""

    number: int
    extent: Extent
    reason: str
    at: int
    fix: str
    build_id: str
    level: int
    withdrawn_at: int | None


class Standing(msgspec.Struct, frozen=True):
    """How the fleet stands.

    Attributes:
        rings: ring -> level in force (as text; `0` is none) -> hosts.
        rollouts: those that go on: ID -> name and status.
    """

    server: str
    now: int
    repository_version: int
    repository_expires: int
    hosts: int
    overdue: int
    rings: dict[str, dict[str, int]]
    rollouts: dict[str, dict[str, str]]


@get("/levels", opt=needs(Permission.READ), sync_to_thread=True)
def list_levels(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    build_id: Annotated[str, QueryParameter(max_length=64)] = "",
    release: Annotated[str, QueryParameter(max_length=100)] = "",
    cve: Annotated[str, QueryParameter(max_length=40)] = "",
    limit: Limit = 100,
    cursor: Cursor = "",
) -> Page[LevelView]:
    """Levels, by kernel build, the newest first."""
    after = paging.read_timed(cursor)
    levels, builds = tables.levels.c, tables.kernel_builds.c
    query = (
        select(tables.levels, builds.release, builds.ref)
        .join(tables.kernel_builds, builds.build_id == levels.build_id)
        .order_by(levels.build_id, levels.level.desc())
        .limit(limit)
    )
    if build_id:
        query = query.where(levels.build_id == build_id)
    if release:
        query = query.where(builds.release == release)
    if cve:
        closes = tables.level_cves.c
        query = query.where(
            select(closes.cve)
            .where(closes.cve == cve, closes.build_id == levels.build_id, closes.level == levels.level)
            .exists()
        )
    if after is not None:
        query = query.where((levels.build_id > after[1]) | ((levels.build_id == after[1]) & (levels.level < after[0])))
    with services.store.read() as connection:
        rows = connection.execute(query).all()
        items = tuple(_level(connection, caller, row) for row in rows)
    end = paging.write_cursor(rows[-1].level, rows[-1].build_id) if len(rows) == limit else ""
    return Page(items, end)


@get("/levels/{build_id:str}/{level:int}/manifest", opt=needs(Permission.READ), sync_to_thread=True)
def manifest_of_level(
    services: NamedDependency[Services],
    build_id: Annotated[str, PathParameter(max_length=64)],
    level: Annotated[int, PathParameter(ge=1, le=999_999)],
) -> Response[bytes]:
    """A level's manifest, byte for byte as it was signed."""
    table = tables.levels.c
    with services.store.read() as connection:
        content = connection.execute(
            select(table.manifest).where(table.build_id == build_id, table.level == level)
        ).scalar()
    if content is None:
        raise NoRolloutError(f"there is no level {level} of kernel build {build_id[:64]!r}", hint="kmend-server levels")
    return Response(bytes(content), media_type="application/json")


@get("/recalls", opt=needs(Permission.READ), sync_to_thread=True)
def list_recalls(services: NamedDependency[Services]) -> tuple[RecallView, ...]:
    """Recalls that the publisher has signed, withdrawn ones too."""
    with services.store.read() as connection:
        rows = connection.execute(select(tables.recalls).order_by(tables.recalls.c.number)).all()
    return tuple(RecallView(**{**row._mapping, "extent": Extent(row.extent)}) for row in rows)


@get("/status", opt=needs(Permission.READ), sync_to_thread=True)
def show_status(services: NamedDependency[Services], caller: NamedDependency[Caller]) -> Standing:
    """How the fleet stands, as far as it is the caller's."""
    now, timestamp = services.clock(), services.mirror.timestamp()
    with services.store.read() as connection:
        found = listing.by_level(connection, caller.rings or None)
        going = [item for item in records.live(connection, lock=False) if any(map(caller.sees, item.plan.rings))]
        overdue = upkeep.silent(connection, now, seconds=OVERDUE_SECONDS) if not caller.rings else 0
    return Standing(
        server=services.config.server.public_url,
        now=now,
        repository_version=timestamp.version,
        repository_expires=timestamp.expires,
        hosts=sum(sum(counts.values()) for counts in found.values()),
        overdue=overdue,
        rings={ring: {str(level): count for level, count in sorted(counts.items())} for ring, counts in found.items()},
        rollouts={item.id: {"name": item.name, "status": item.override.value or item.state.value} for item in going},
    )


def _level(connection: Connection, caller: Caller, row: Any) -> LevelView:
    closes, free, hosts = tables.level_cves.c, tables.ring_levels.c, tables.hosts.c
    cves = connection.execute(
        select(closes.cve).where(closes.build_id == row.build_id, closes.level == row.level).order_by(closes.cve)
    )
    rings = connection.execute(
        select(free.ring).where(free.build_id == row.build_id, free.level == row.level).order_by(free.ring)
    )
    running = select(func.count()).where(
        hosts.build_id == row.build_id, hosts.level == row.level, hosts.state == "enrolled"
    )
    if caller.rings:
        running = running.where(hosts.ring.in_(caller.rings))
    return LevelView(
        build_id=row.build_id,
        level=row.level,
        release=row.release,
        ref=row.ref,
        module=row.module,
        published=row.published,
        channel=row.channel,
        base=row.base,
        pinned=row.pinned,
        cves=tuple(cves.scalars()),
        rings=tuple(ring for ring in rings.scalars() if caller.sees(ring)),
        hosts=connection.execute(running).scalar_one(),
    )


router = Router("/", tags=["levels"], route_handlers=[list_levels, manifest_of_level, list_recalls, show_status])
