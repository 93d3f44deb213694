"""Hosts: found, shown, moved, tagged, taken out; what they reported, and what they wait for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

from litestar import Response, Router, get, post, put
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter
from litestar.response import Stream
from sqlalchemy import Connection

from kmend.core.errors import MalformedError
from kmend.server.access.permissions import Caller, Permission, may
from kmend.server.api import bodies, paging
from kmend.server.api.exporting import Format, export
from kmend.server.api.guarding import needs
from kmend.server.api.once import Key, act
from kmend.server.api.paging import Cursor, Limit, Page
from kmend.server.api.services import Services
from kmend.server.hosts import listing, upkeep
from kmend.server.hosts.errors import NotFoundError
from kmend.server.hosts.listing import Filter, Host, SignedReport
from kmend.server.rollouts import telling
from kmend.server.rollouts.telling import Waiting

MAX_AGE = 10 * 366 * 86_400
Text = Annotated[str, QueryParameter(max_length=300)]
Age = Annotated[int | None, QueryParameter(ge=0, le=MAX_AGE)]
Level = Annotated[int | None, QueryParameter(ge=0, le=1_000_000)]
HostId = Annotated[str, PathParameter(max_length=64)]


def visible(connection: Connection, caller: Caller, host: str) -> Host:
    """A host that the caller may know of.

    Raises:
        NotFoundError: there is none, or it is in a ring that is not the caller's.
    """
    found = listing.show(connection, host)
    if not caller.sees(found.ring):
        raise NotFoundError(f"there is no host {host[:40]!r}", hint="kmend-server hosts list")
    return found


def wanted(
    caller: NamedDependency[Caller],
    name: Text = "",
    ring: Text = "",
    host_state: Annotated[str, QueryParameter(name="state", max_length=40)] = "",
    kernel: Text = "",
    level: Level = None,
    level_below: Level = None,
    phase: Text = "",
    tag: Text = "",
    agent: Text = "",
    seen_within: Age = None,
    seen_before: Age = None,
    enrolled_within: Age = None,
    trouble: Text = "",
) -> Filter:
    """The filter in a query; cut down to the caller's rings.

    Raises:
        MalformedError: a text in it can be in no database; an export would find out only after it had begun.
    """
    if any("\0" in text for text in (name, ring, host_state, kernel, phase, tag, agent, trouble)):
        raise MalformedError("a filter is text without NUL")
    return Filter(
        name=name, rings=caller.rings or None, ring=ring, state=host_state, kernel=kernel, level=level,
        level_below=level_below, phase=phase, tag=tag, agent=agent, seen_within=seen_within, seen_before=seen_before,
        enrolled_within=enrolled_within, trouble=trouble,
    )  # fmt: skip


@get("/", opt=needs(Permission.READ), sync_to_thread=True)
def list_hosts(
    services: NamedDependency[Services], wanted: NamedDependency[Filter], limit: Limit = 100, cursor: Cursor = ""
) -> Page[Host]:
    """Hosts, by name."""
    after = paging.read_named(cursor)
    with services.store.read() as connection:
        found = listing.page(connection, wanted, services.clock(), after=after, limit=limit)
    return Page(found.hosts, paging.write_cursor(*found.next) if found.next else "")


@get("/count", opt=needs(Permission.READ), sync_to_thread=True)
def count_hosts(services: NamedDependency[Services], wanted: NamedDependency[Filter]) -> dict[str, int]:
    """How many there are."""
    with services.store.read() as connection:
        return {"count": listing.count(connection, wanted, services.clock())}


@get("/export", opt=needs(Permission.READ), sync_to_thread=False)
def export_hosts(
    services: NamedDependency[Services],
    wanted: NamedDependency[Filter],
    form: Annotated[Format, QueryParameter(name="format")] = Format.NDJSON,
) -> Stream:
    """Every host, as NDJSON or CSV."""

    def pages() -> Iterator[Sequence[Host]]:
        after: tuple[str, str] | None = None
        while True:
            # A page at a time, so that no snapshot is held for as long as the asker takes to read.
            with services.store.read() as connection:
                found = listing.page(connection, wanted, services.clock(), after=after, limit=listing.MAX_LIMIT)
            yield found.hosts
            after = found.next
            if after is None:
                return

    return export(pages, form, [field.name for field in dataclasses.fields(Host)], "hosts")


@get("/{host:str}", opt=needs(Permission.READ), sync_to_thread=True)
def show_host(services: NamedDependency[Services], caller: NamedDependency[Caller], host: HostId) -> Host:
    """One host."""
    with services.store.read() as connection:
        return visible(connection, caller, host)


@get("/{host:str}/why", opt=needs(Permission.READ), sync_to_thread=True)
def why_host(services: NamedDependency[Services], caller: NamedDependency[Caller], host: HostId) -> tuple[Waiting, ...]:
    """What each rollout that goes on has to do with a host: its grant, or what it waits for."""
    with services.store.read() as connection:
        visible(connection, caller, host)
        return telling.why(connection, host, services.clock())


@get("/{host:str}/reports", opt=needs(Permission.READ), sync_to_thread=True)
def reports_of_host(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    host: HostId,
    limit: Limit = 20,
    before: Annotated[int | None, QueryParameter(ge=1, le=2**62)] = None,
) -> tuple[SignedReport, ...]:
    """What a host has reported, byte for byte as it signed it (`body` in base64), the newest first."""
    with services.store.read() as connection:
        visible(connection, caller, host)
        return listing.signed_reports(connection, host, before=before, limit=limit)


def _change(caller: Caller, host: str, change: Callable[[Connection, int], Host]) -> Callable[[Connection, int], Host]:
    def work(connection: Connection, now: int) -> Host:
        may(caller, Permission.HOSTS, visible(connection, caller, host).ring)
        return change(connection, now)

    return work


@post("/{host:str}/move", opt=needs(Permission.HOSTS), sync_to_thread=True, status_code=200)
def move_host(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    host: HostId,
    data: JSONBody[bodies.Move],
    key: Key = "",
) -> Response[Any]:
    """Put a host into another ring; both must be the caller's."""
    may(caller, Permission.HOSTS, data.ring)
    change = _change(
        caller, host, lambda connection, now: upkeep.move(connection, host, data.ring, actor=caller.actor, now=now)
    )
    return act(services, caller, key, ["move", host, data], change)


@put("/{host:str}/tags", opt=needs(Permission.HOSTS), sync_to_thread=True)
def tag_host(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    host: HostId,
    data: JSONBody[bodies.Tags],
    key: Key = "",
) -> Response[Any]:
    """Give a host tags in place of those that it has."""
    change = _change(
        caller, host, lambda connection, now: upkeep.tag(connection, host, data.tags, actor=caller.actor, now=now)
    )
    return act(services, caller, key, ["tags", host, data], change)


@post("/{host:str}/decommission", opt=needs(Permission.HOSTS), sync_to_thread=True, status_code=200)
def decommission_host(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    host: HostId,
    data: JSONBody[bodies.Decommission],
    key: Key = "",
) -> Response[Any]:
    """Take a host out of the fleet: its credential is worth nothing from now on; what it runs, it goes on running."""
    change = _change(
        caller,
        host,
        lambda connection, now: upkeep.decommission(connection, host, actor=caller.actor, now=now, reason=data.reason),
    )
    return act(services, caller, key, ["decommission", host, data], change)


router = Router(
    "/hosts",
    tags=["hosts"],
    route_handlers=[
        list_hosts, count_hosts, export_hosts, show_host, why_host, reports_of_host, move_host, tag_host,
        decommission_host,
    ],
)  # fmt: skip
