"""Rings, and the enrolment keys that lead into them."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Response, Router, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter
from sqlalchemy import Connection

from kmend.server.access.permissions import Caller, Permission, may
from kmend.server.api import bodies, installation, paging
from kmend.server.api.guarding import needs
from kmend.server.api.once import Key, act
from kmend.server.api.paging import Cursor, Limit, Page
from kmend.server.api.services import Services
from kmend.server.hosts import keys, rings
from kmend.server.hosts.errors import NotFoundError
from kmend.server.hosts.keys import EnrolmentKey
from kmend.server.hosts.rings import Ring

RingName = Annotated[str, PathParameter(max_length=100)]
KeyId = Annotated[str, PathParameter(max_length=64)]


@get("/rings", opt=needs(Permission.READ), sync_to_thread=True)
def list_rings(services: NamedDependency[Services], caller: NamedDependency[Caller]) -> tuple[Ring, ...]:
    """Rings, in the order in which they receive new levels."""
    with services.store.read() as connection:
        return tuple(ring for ring in rings.listing(connection) if caller.sees(ring.name))


@put("/rings/{ring:str}", opt=needs(Permission.RINGS), sync_to_thread=True)
def put_ring(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    ring: RingName,
    data: JSONBody[bodies.RingBody],
    key: Key = "",
) -> Response[Any]:
    """Make a ring, or change one."""

    def work(connection: Connection, now: int) -> Ring:
        return rings.put(
            connection,
            ring,
            position=data.position,
            description=data.description,
            exposed=data.exposed,
            actor=caller.actor,
            now=now,
        )

    return act(services, caller, key, ["ring", ring, data], work)


@delete("/rings/{ring:str}", opt=needs(Permission.RINGS), sync_to_thread=True)
def remove_ring(services: NamedDependency[Services], caller: NamedDependency[Caller], ring: RingName) -> None:
    """Remove a ring without hosts; nothing happens if there is none of that name."""
    now = services.clock()
    services.store.transact(lambda connection: rings.remove(connection, ring, actor=caller.actor, now=now))


@get("/enrolment-keys", opt=needs(Permission.KEYS), sync_to_thread=True)
def list_keys(
    services: NamedDependency[Services], caller: NamedDependency[Caller], limit: Limit = 100, cursor: Cursor = ""
) -> Page[EnrolmentKey]:
    """Enrolment keys, the newest first; never their secrets."""
    after = paging.read_timed(cursor)
    with services.store.read() as connection:
        found = keys.listing(connection, after=after, limit=limit)
    end = paging.write_cursor(found[-1].created_at, found[-1].id) if len(found) == limit else ""
    return Page(tuple(item for item in found if caller.sees(item.ring)), end)


@post("/enrolment-keys", opt=needs(Permission.KEYS), sync_to_thread=True, status_code=201)
def create_key(
    services: NamedDependency[Services], caller: NamedDependency[Caller], data: JSONBody[bodies.NewKey], key: Key = ""
) -> Response[Any]:
    """Make an enrolment key. `secret`, and `line`, which holds it, are shown this once."""
    may(caller, Permission.KEYS, data.ring)

    def work(connection: Connection, now: int) -> dict[str, object]:
        made, secret = keys.create(
            connection, ring=data.ring, expires_at=now + data.expires_in, actor=caller.actor, now=now, note=data.note,
            max_uses=data.max_uses, networks=data.networks, tags=data.tags, ephemeral_seconds=data.ephemeral_seconds,
        )  # fmt: skip
        line, remark = installation.line(services, connection, secret)
        return {"key": made, "secret": secret, "line": line, "remark": remark}

    return act(services, caller, key, ["enrolment-key", data], work, status=201, secret=("secret", "line"))


@delete("/enrolment-keys/{key_id:str}", opt=needs(Permission.KEYS), sync_to_thread=True)
def revoke_key(services: NamedDependency[Services], caller: NamedDependency[Caller], key_id: KeyId) -> None:
    """Let nobody enrol with a key any more; hosts that did stay."""

    def work(connection: Connection) -> None:
        found = keys.show(connection, key_id)
        if not caller.sees(found.ring):
            raise NotFoundError(f"there is no enrolment key {key_id[:40]!r}", hint="kmend-server keys list")
        keys.revoke(connection, key_id, actor=caller.actor, now=services.clock())

    services.store.transact(work)


router = Router(
    "/", tags=["rings"], route_handlers=[list_rings, put_ring, remove_ring, list_keys, create_key, revoke_key]
)
