"""Tokens, channels, and the audit log."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Any

import msgspec
from litestar import Response, Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter
from litestar.response import Stream
from sqlalchemy import Connection

from kmend.server.access import audit, tokens
from kmend.server.access.audit import Head, Record
from kmend.server.access.permissions import Caller, Permission, Role
from kmend.server.access.tokens import Token
from kmend.server.api import bodies, paging
from kmend.server.api.exporting import Format, export
from kmend.server.api.guarding import needs
from kmend.server.api.once import Key, act
from kmend.server.api.paging import Cursor, Limit, Page
from kmend.server.api.services import Services
from kmend.server.notices import Event, channels, outbox
from kmend.server.notices.channels import Channel
from kmend.server.notices.errors import ChannelError
from kmend.server.notices.guard import Rules

Id = Annotated[str, PathParameter(max_length=64)]
EXPORTED_AT_ONCE = 500


class Me(msgspec.Struct, frozen=True):
    """Whose token it is."""

    id: str
    name: str
    roles: tuple[Role, ...]
    rings: tuple[str, ...]


@get("/me", opt=needs(Permission.READ), sync_to_thread=False)
def show_me(caller: NamedDependency[Caller]) -> Me:
    """Who asks."""
    return Me(caller.id, caller.name, caller.roles, caller.rings)


@get("/tokens", opt=needs(Permission.TOKENS), sync_to_thread=True)
def list_tokens(services: NamedDependency[Services], limit: Limit = 100, cursor: Cursor = "") -> Page[Token]:
    """Tokens, the newest first; never their secrets."""
    after = paging.read_timed(cursor)
    with services.store.read() as connection:
        found = tokens.listing(connection, after=after, limit=limit)
    end = paging.write_cursor(found[-1].created_at, found[-1].id) if len(found) == limit else ""
    return Page(found, end)


@post("/tokens", opt=needs(Permission.TOKENS), sync_to_thread=True, status_code=201)
def create_token(
    services: NamedDependency[Services], caller: NamedDependency[Caller], data: JSONBody[bodies.NewToken], key: Key = ""
) -> Response[Any]:
    """Make a token; `secret` is shown this once."""

    def work(connection: Connection, now: int) -> dict[str, object]:
        token, secret = tokens.create(
            connection, name=data.name, roles=data.roles, rings=data.rings, expires_at=now + data.expires_in,
            actor=caller.actor, now=now,
        )  # fmt: skip
        return {"token": token, "secret": secret}

    return act(services, caller, key, ["token", data], work, status=201, secret=("secret",))


@delete("/tokens/{token:str}", opt=needs(Permission.TOKENS), sync_to_thread=True)
def revoke_token(services: NamedDependency[Services], caller: NamedDependency[Caller], token: Id) -> None:
    """Make a token worth nothing from now on."""
    now = services.clock()
    services.store.transact(lambda connection: tokens.revoke(connection, token, actor=caller.actor, now=now))


@get("/channels", opt=needs(Permission.CHANNELS), sync_to_thread=True)
def list_channels(services: NamedDependency[Services]) -> tuple[Channel, ...]:
    """Channels; never their secrets."""
    with services.store.read() as connection:
        return tuple(channels.listing(connection))


@post("/channels", opt=needs(Permission.CHANNELS), sync_to_thread=True, status_code=201)
def create_channel(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    data: JSONBody[bodies.NewChannel],
    key: Key = "",
) -> Response[Any]:
    """Make a channel; `secret` signs what a webhook gets, and is shown this once."""
    section = services.config.notices

    def work(connection: Connection, now: int) -> dict[str, object]:
        channel, secret = channels.create(
            connection, kind=data.kind, target=data.target, events=data.events, actor=caller.actor, now=now,
            rules=Rules(section.allow_networks, section.allow_http),
        )  # fmt: skip
        detail = {"kind": data.kind.value, "events": [event.value for event in data.events]}
        audit.append(connection, at=now, actor=caller.actor, action="channel.create", subject=channel.id, detail=detail)
        return {"channel": channel, "secret": secret}

    return act(services, caller, key, ["channel", data], work, status=201, secret=("secret",))


@delete("/channels/{channel:str}", opt=needs(Permission.CHANNELS), sync_to_thread=True)
def remove_channel(services: NamedDependency[Services], caller: NamedDependency[Caller], channel: Id) -> None:
    """Remove a channel, with what it would still have told; nothing happens if there is none of that ID."""

    def work(connection: Connection) -> None:
        now = services.clock()
        if channel not in {item.id for item in channels.listing(connection)}:
            return
        channels.remove(connection, channel)
        audit.append(connection, at=now, actor=caller.actor, action="channel.remove", subject=channel, detail={})

    services.store.transact(work)


@post("/channels/{channel:str}/test", opt=needs(Permission.CHANNELS), sync_to_thread=True, status_code=202)
def try_channel(services: NamedDependency[Services], caller: NamedDependency[Caller], channel: Id) -> None:
    """Send a notice that says nothing, to see whether it arrives."""

    def work(connection: Connection) -> None:
        if channel not in {item.id for item in channels.listing(connection)}:
            raise ChannelError(f"there is no channel {channel[:40]}", hint="kmend-server channels list shows them")
        body = f"asked for by {caller.name}"
        outbox.post_to(connection, channel, Event.TEST, "a test", body, services.clock())

    services.store.transact(work)


@get("/audit", opt=needs(Permission.AUDIT), sync_to_thread=True)
def list_audit(
    services: NamedDependency[Services], limit: Limit = 100, after: Annotated[int, QueryParameter(ge=0, le=2**62)] = 0
) -> tuple[Record, ...]:
    """Records of the audit log, in their order, after a number."""
    with services.store.read() as connection:
        return tuple(audit.records(connection, after=after, limit=limit))


@get("/audit/head", opt=needs(Permission.AUDIT), sync_to_thread=True)
def head_of_audit(services: NamedDependency[Services]) -> Head:
    """Number and digest of the newest record: keep them elsewhere, to verify by later."""
    with services.store.read() as connection:
        return audit.head(connection) or Head(0, audit.FIRST)


@get("/audit/export", opt=needs(Permission.AUDIT), sync_to_thread=False)
def export_audit(
    services: NamedDependency[Services], form: Annotated[Format, QueryParameter(name="format")] = Format.NDJSON
) -> Stream:
    """The whole audit log. As NDJSON it can be verified offline: kmend-server audit verify FILE."""

    def pages() -> Iterator[Sequence[Record]]:
        last = 0
        while True:
            with services.store.read() as connection:
                page = list(islice(audit.records(connection, after=last, limit=EXPORTED_AT_ONCE), EXPORTED_AT_ONCE))
            if not page:
                return
            last = page[-1].number
            yield page

    return export(pages, form, [field.name for field in dataclasses.fields(Record)], "audit")


router = Router(
    "/",
    tags=["people"],
    route_handlers=[
        show_me, list_tokens, create_token, revoke_token, list_channels, create_channel, remove_channel, try_channel,
        list_audit, head_of_audit, export_audit,
    ],
)  # fmt: skip
