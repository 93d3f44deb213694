"""Taking hosts in, and giving a copy of a host an identity of its own."""

from __future__ import annotations

import json
import secrets as random
from dataclasses import replace

from sqlalchemy import Connection, func, insert, select

from kmend.core.document import encode
from kmend.core.wire import Enrolled, Enrolment, HostFacts, Purpose, Split, signed_bytes
from kmend.server.access import audit
from kmend.server.hosts import keys, refusals
from kmend.server.hosts.checkin import DECOMMISSIONED, ENROLLED
from kmend.server.hosts.refusals import Refused
from kmend.server.hosts.signatures import signed, signed_raw
from kmend.server.notices import Event, post
from kmend.server.store.tables import host_tags, hosts

MAX_COPIES = 1000
"""So many enrolled hosts at most are copies of one, or of its copies: a host's key that leaks must not fill the fleet."""


def asks(message: Enrolment, body: bytes, signature: str) -> bool:
    """Whether an enrolment is signed with the new key itself; by no server's ID, since the host does not know that yet."""
    return signed(message.public_key, signature, Purpose.ENROL, "", body)


def refused(connection: Connection, message: Enrolment, *, address: str, now: int) -> Refused | None:
    """Why an enrolment would be refused, by a look that writes nothing; None if it may be accepted."""
    same = connection.execute(select(hosts.c.state).where(hosts.c.public_key == message.public_key)).first()
    if same is not None:
        return None if same.state == ENROLLED else refusals.KEY_NOT_USABLE
    return None if keys.usable(connection, message.key, address=address, now=now) else refusals.KEY_NOT_USABLE


def split_refused(
    connection: Connection, message: Split, body: bytes, signature: str, *, server: str
) -> Refused | None:
    """Why a split would be refused, by a look that writes nothing; None if it may be accepted."""
    row = connection.execute(select(hosts.c.public_key, hosts.c.state).where(hosts.c.id == message.host)).first()
    if row is None:
        return refusals.UNKNOWN_HOST
    if not _split_signed(row.public_key, message, body, signature, server):
        return refusals.BAD_SIGNATURE
    if row.state != ENROLLED:
        return refusals.DECOMMISSIONED if row.state == DECOMMISSIONED else refusals.EXPIRED
    return None


def _split_signed(public_key: str, message: Split, body: bytes, signature: str, server: str) -> bool:
    bare = encode(replace(message, proof=""))
    return signed(public_key, signature, Purpose.SPLIT, server, body) and signed_raw(
        message.public_key, message.proof, signed_bytes(Purpose.SPLIT, server, bare)
    )


def enrol(
    connection: Connection, message: Enrolment, body: bytes, signature: str, *, address: str, server: str, now: int
) -> Enrolled | Refused:
    """Take a host in. With the public key of a host that is enrolled already it gives the same answer, and takes no use.

    Args:
        body: as it was signed.
    """
    if not asks(message, body, signature):
        return refusals.BAD_SIGNATURE
    same = connection.execute(select(hosts).where(hosts.c.public_key == message.public_key)).first()
    if same is not None:
        if same.state != ENROLLED:
            return refusals.KEY_NOT_USABLE
        return Enrolled(same.id, server, same.ring)
    key = keys.use(connection, message.key, address=address, now=now)
    if key is None:
        return refusals.KEY_NOT_USABLE
    host = random.token_hex(16)
    _insert(
        connection, host, message.public_key, message.facts, key.ring,
        address=address, now=now, enrolment_key=key.id, ephemeral_seconds=key.ephemeral_seconds, tags=dict(key.tags),
    )  # fmt: skip
    detail = {"name": message.facts.name, "ring": key.ring, "enrolment_key": key.id, "address": address}
    detail["public_key"] = message.public_key
    audit.append(connection, at=now, actor=f"host:{host}", action="host.enrol", subject=host, detail=detail)
    if key.uses == key.max_uses:
        post(
            connection, Event.KEY_EXHAUSTED, f"enrolment key {key.id}",
            f"the last of its {key.max_uses} uses was taken by {message.facts.name}", now,
        )  # fmt: skip
    return Enrolled(host, server, key.ring)


def split(
    connection: Connection, message: Split, body: bytes, signature: str, *, address: str, server: str, now: int
) -> Enrolled | Refused:
    """Give the asking machine an identity of its own, in the ring of the one that it is a copy of, with its tags.

    One after the other for the copies of one host, whose first is locked.
    """
    first = select(func.coalesce(hosts.c.origin, hosts.c.id)).where(hosts.c.id == message.host).scalar_subquery()
    connection.execute(select(hosts.c.id).where(hosts.c.id == first).with_for_update())
    row = connection.execute(select(hosts).where(hosts.c.id == message.host)).first()
    if row is None:
        return refusals.UNKNOWN_HOST
    if not _split_signed(row.public_key, message, body, signature, server):
        return refusals.BAD_SIGNATURE
    if row.state != ENROLLED:
        return refusals.DECOMMISSIONED if row.state == DECOMMISSIONED else refusals.EXPIRED
    same = connection.execute(select(hosts).where(hosts.c.public_key == message.public_key)).first()
    if same is not None:
        return Enrolled(same.id, server, same.ring) if same.parent == row.id else refusals.BAD_SIGNATURE
    origin = row.origin or row.id
    copies = select(func.count()).where(hosts.c.origin == origin, hosts.c.state == ENROLLED)
    if connection.execute(copies).scalar_one() >= MAX_COPIES:
        return refusals.TOO_MANY_COPIES
    host = random.token_hex(16)
    query = select(host_tags.c.name, host_tags.c.value).where(host_tags.c.host == row.id)
    tags = {item.name: item.value for item in connection.execute(query)}
    _insert(
        connection, host, message.public_key, message.facts, row.ring,
        address=address, now=now, enrolment_key=row.enrolment_key, ephemeral_seconds=row.ephemeral_seconds, tags=tags,
        parent=row.id, origin=origin,
    )  # fmt: skip
    detail = {"name": message.facts.name, "ring": row.ring, "copy_of": row.id, "address": address}
    detail["public_key"] = message.public_key
    audit.append(connection, at=now, actor=f"host:{row.id}", action="host.split", subject=host, detail=detail)
    return Enrolled(host, server, row.ring)


def _insert(
    connection: Connection,
    host: str,
    public_key: str,
    facts: HostFacts,
    ring: str,
    *,
    address: str,
    now: int,
    enrolment_key: str | None,
    ephemeral_seconds: int | None,
    tags: dict[str, str],
    parent: str | None = None,
    origin: str | None = None,
) -> None:
    connection.execute(
        insert(hosts).values(
            id=host,
            public_key=public_key,
            name=facts.name,
            ring=ring,
            state=ENROLLED,
            parent=parent,
            origin=origin,
            enrolled_at=now,
            enrolment_key=enrolment_key,
            ephemeral_seconds=ephemeral_seconds,
            address=address,
            boots=json.dumps([]),
            last_seen=now,
            next_due=now,
            machine=facts.machine,
            hardware=facts.hardware,
            role=facts.role,
            distro=facts.distro,
            agent=facts.agent,
        )
    )
    if tags:
        connection.execute(
            insert(host_tags), [{"host": host, "name": name, "value": value} for name, value in tags.items()]
        )
