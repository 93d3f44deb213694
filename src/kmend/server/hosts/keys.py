"""Enrolment keys: what an operator gives a new host, so that it is taken in. Each has an end, and may be bound closer."""

from __future__ import annotations

import ipaddress
import json
import secrets as random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, insert, or_, select, update

from kmend.core.errors import MalformedError
from kmend.core.wire import check_tag
from kmend.server.access import audit, secrets
from kmend.server.hosts import rings
from kmend.server.hosts.errors import InvalidError, NotFoundError
from kmend.server.store.tables import enrolment_keys

KIND = "enrol"
MAX_SECONDS = 366 * 86_400
MAX_NETWORKS = 32
MAX_TAGS = 16
LEAST_EPHEMERAL = 60


@dataclass(frozen=True, slots=True)
class EnrolmentKey:
    """An enrolment key, without its secret.

    Attributes:
        uses, max_uses: how many hosts were taken in with it, and may be; None for any number.
        networks: from which hosts may come; empty: from anywhere.
        tags: given to every host that enrols with it.
        ephemeral_seconds: hosts that are silent for so long are let go; None: they stay.
    """

    id: str
    ring: str
    note: str
    created_at: int
    created_by: str
    expires_at: int
    uses: int
    max_uses: int | None
    networks: tuple[str, ...]
    tags: Mapping[str, str]
    ephemeral_seconds: int | None
    revoked_at: int | None


def create(
    connection: Connection,
    *,
    ring: str,
    expires_at: int,
    actor: str,
    now: int,
    note: str = "",
    max_uses: int | None = None,
    networks: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    ephemeral_seconds: int | None = None,
) -> tuple[EnrolmentKey, str]:
    """Make one; also returns its secret, which nobody can show again.

    Raises:
        InvalidError: a bound makes no sense.
        NotFoundError: there is no such ring.
    """
    rings.show(connection, ring)
    if not now < expires_at <= now + MAX_SECONDS:
        raise InvalidError("an enrolment key must end, within a year from now")
    if max_uses is not None and not 1 <= max_uses <= 1_000_000:
        raise InvalidError("max_uses must be 1 to 1,000,000")
    if ephemeral_seconds is not None and not LEAST_EPHEMERAL <= ephemeral_seconds <= MAX_SECONDS:
        raise InvalidError(f"ephemeral_seconds must be {LEAST_EPHEMERAL} to {MAX_SECONDS}")
    if len(note) > 300 or not note.isprintable():
        raise InvalidError("a note is one line of at most 300 characters")
    secret = secrets.make(KIND)
    values = {
        "id": random.token_hex(8),
        "ring": ring,
        "note": note,
        "created_at": now,
        "created_by": actor,
        "expires_at": expires_at,
        "max_uses": max_uses,
        "networks": json.dumps(_networks(networks)),
        "tags": json.dumps(checked_tags(tags or {}), sort_keys=True),
        "ephemeral_seconds": ephemeral_seconds,
    }
    connection.execute(insert(enrolment_keys).values(secret_sha256=secrets.digest(secret), **values))
    told = {name: value for name, value in values.items() if name not in ("id", "created_at", "created_by")}
    audit.append(connection, at=now, actor=actor, action="enrolment-key.create", subject=str(values["id"]), detail=told)
    return show(connection, str(values["id"])), secret


def show(connection: Connection, key_id: str) -> EnrolmentKey:
    """One key.

    Raises:
        NotFoundError: there is none of that ID.
    """
    row = connection.execute(select(enrolment_keys).where(enrolment_keys.c.id == key_id)).first()
    if row is None:
        raise NotFoundError(f"there is no enrolment key {key_id[:40]!r}", hint="kmend-server keys list")
    return _read(row)


def listing(
    connection: Connection, *, after: tuple[int, str] | None = None, limit: int = 100
) -> tuple[EnrolmentKey, ...]:
    """Keys, the newest first.

    Args:
        after: `created_at` and ID of the last one of the page before.
    """
    table = enrolment_keys.c
    query = select(enrolment_keys).order_by(table.created_at.desc(), table.id).limit(limit)
    if after is not None:
        query = query.where(or_(table.created_at < after[0], (table.created_at == after[0]) & (table.id > after[1])))
    return tuple(_read(row) for row in connection.execute(query))


def revoke(connection: Connection, key_id: str, *, actor: str, now: int) -> None:
    """Let nobody enrol with it any more; hosts that did stay. Does nothing if that was done before.

    Raises:
        NotFoundError: there is none of that ID.
    """
    show(connection, key_id)
    table = enrolment_keys
    done = connection.execute(
        update(table).where(table.c.id == key_id, table.c.revoked_at.is_(None)).values(revoked_at=now)
    )
    if done.rowcount:
        audit.append(connection, at=now, actor=actor, action="enrolment-key.revoke", subject=key_id, detail={})


def usable(connection: Connection, secret: str, *, address: str, now: int) -> bool:
    """Whether a use of a key could be taken now."""
    key = _of(connection, secret, address)
    return (
        key is not None
        and key.revoked_at is None
        and key.expires_at > now
        and (key.max_uses is None or key.uses < key.max_uses)
    )


def use(connection: Connection, secret: str, *, address: str, now: int) -> EnrolmentKey | None:
    """Take one use of a key; None if it cannot be used: unknown, over, revoked, used up, or not from there.

    The count and its limit are one statement, so that no two hosts share the last use.
    """
    key = _of(connection, secret, address)
    if key is None:
        return None
    table = enrolment_keys.c
    taken = connection.execute(
        update(enrolment_keys)
        .where(
            table.id == key.id,
            table.revoked_at.is_(None),
            table.expires_at > now,
            or_(table.max_uses.is_(None), table.uses < table.max_uses),
        )
        .values(uses=table.uses + 1)
    )
    return show(connection, key.id) if taken.rowcount else None


def checked_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags, if they can be ones.

    Raises:
        InvalidError: there are too many, or a name or value cannot be one.
    """
    if len(tags) > MAX_TAGS:
        raise InvalidError(f"a host has at most {MAX_TAGS} tags")
    for name, value in tags.items():
        try:
            check_tag(name, value)
        except MalformedError as problem:
            raise InvalidError(problem.message) from None
    return dict(tags)


def _of(connection: Connection, secret: str, address: str) -> EnrolmentKey | None:
    """The key with this secret, if it may be used from there at all."""
    if not secrets.well_formed(secret, KIND):
        return None
    query = select(enrolment_keys).where(enrolment_keys.c.secret_sha256 == secrets.digest(secret))
    row = connection.execute(query).first()
    key = _read(row) if row is not None else None
    return key if key is not None and _admits(key, address) else None


def _networks(networks: Sequence[str]) -> list[str]:
    if len(networks) > MAX_NETWORKS:
        raise InvalidError(f"at most {MAX_NETWORKS} networks")
    found = []
    for text in networks:
        try:
            found.append(str(ipaddress.ip_network(text)))
        except ValueError:
            raise InvalidError(f"{text[:60]!r} is not a network", hint="write 192.0.2.0/24, for example") from None
    return found


def _admits(key: EnrolmentKey, address: str) -> bool:
    if not key.networks:
        return True
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in ipaddress.ip_network(network) for network in key.networks)


def _read(row: Row[tuple[object, ...]]) -> EnrolmentKey:
    members = {name: getattr(row, name) for name in EnrolmentKey.__slots__ if name not in ("networks", "tags")}
    return EnrolmentKey(**members, networks=tuple(json.loads(row.networks)), tags=json.loads(row.tags))
