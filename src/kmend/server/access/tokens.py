"""Tokens of people and programs: made once shown, recognised by their digest, with an end, and a mark of their last use."""

from __future__ import annotations

import json
import secrets as random
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, insert, or_, select, update

from kmend.server.access import audit, secrets
from kmend.server.access.errors import NoTokenError, TokenError
from kmend.server.access.permissions import Caller, Role
from kmend.server.store.tables import rings as rings_table
from kmend.server.store.tables import tokens

KIND = "token"
MAX_SECONDS = 2 * 366 * 86_400
USE_EVERY_SECONDS = 60
"""The last use is written down at most so often."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token, without its secret.

    Attributes:
        rings: that it is bound to; empty for none.
        last_used_at: None if it has never been used.
    """

    id: str
    name: str
    roles: tuple[Role, ...]
    rings: tuple[str, ...]
    created_at: int
    created_by: str
    expires_at: int
    last_used_at: int | None
    revoked_at: int | None


def create(
    connection: Connection,
    *,
    name: str,
    roles: Sequence[Role],
    rings: Sequence[str],
    expires_at: int,
    actor: str,
    now: int,
) -> tuple[Token, str]:
    """Make one; also returns its secret, which nobody can show again.

    Raises:
        TokenError: it would have no name, no role, no end, or be bound to a ring that is not there.
    """
    if not 0 < len(name) <= 100 or not name.isprintable():
        raise TokenError("a token has a name, of one line and at most 100 characters")
    if not roles:
        raise TokenError("a token has at least one role", hint=f"there are: {', '.join(role.value for role in Role)}")
    if not now < expires_at <= now + MAX_SECONDS:
        raise TokenError("a token must end, within two years from now")
    known = set(connection.execute(select(rings_table.c.name)).scalars())
    for ring in rings:
        if ring not in known:
            raise TokenError(f"there is no ring {ring[:80]!r}", hint="kmend-server rings list")
    secret = secrets.make(KIND)
    values: dict[str, object] = {
        "id": random.token_hex(8),
        "name": name,
        "roles": json.dumps([role.value for role in dict.fromkeys(roles)]),
        "rings": json.dumps(sorted(set(rings))),
        "created_at": now,
        "created_by": actor,
        "expires_at": expires_at,
    }
    connection.execute(insert(tokens).values(secret_sha256=secrets.digest(secret), **values))
    detail = {
        "name": name,
        "roles": [role.value for role in roles],
        "rings": sorted(set(rings)),
        "expires_at": expires_at,
    }
    audit.append(connection, at=now, actor=actor, action="token.create", subject=str(values["id"]), detail=detail)
    return show(connection, str(values["id"])), secret


def show(connection: Connection, token_id: str) -> Token:
    """One token.

    Raises:
        NoTokenError: there is none of that ID.
    """
    row = connection.execute(select(tokens).where(tokens.c.id == token_id)).first()
    if row is None:
        raise NoTokenError(f"there is no token {token_id[:40]!r}", hint="kmend-server tokens list")
    return _read(row)


def listing(connection: Connection, *, after: tuple[int, str] | None = None, limit: int = 100) -> tuple[Token, ...]:
    """Tokens, the newest first.

    Args:
        after: `created_at` and ID of the last one of the page before.
    """
    query = select(tokens).order_by(tokens.c.created_at.desc(), tokens.c.id).limit(limit)
    if after is not None:
        query = query.where(
            or_(tokens.c.created_at < after[0], (tokens.c.created_at == after[0]) & (tokens.c.id > after[1]))
        )
    return tuple(_read(row) for row in connection.execute(query))


def revoke(connection: Connection, token_id: str, *, actor: str, now: int) -> None:
    """Make a token worth nothing. Does nothing if that was done before.

    Raises:
        NoTokenError: there is none of that ID.
    """
    show(connection, token_id)
    done = connection.execute(
        update(tokens).where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None)).values(revoked_at=now)
    )
    if done.rowcount:
        audit.append(connection, at=now, actor=actor, action="token.revoke", subject=token_id, detail={})


def recognise(connection: Connection, secret: str, now: int) -> Token | None:
    """The token of that secret; None if there is none, or it has expired or been revoked."""
    if not secrets.well_formed(secret, KIND):
        return None
    row = connection.execute(select(tokens).where(tokens.c.secret_sha256 == secrets.digest(secret))).first()
    if row is None or row.revoked_at is not None or row.expires_at <= now:
        return None
    return _read(row)


def caller(token: Token) -> Caller:
    """Who asks with it."""
    return Caller(token.id, token.name, token.roles, token.rings)


def note_use(connection: Connection, token_id: str, now: int) -> None:
    """Write down that it was used; if that was less than a minute ago, it need not be."""
    older = or_(tokens.c.last_used_at.is_(None), tokens.c.last_used_at <= now - USE_EVERY_SECONDS)
    connection.execute(update(tokens).where(tokens.c.id == token_id, older).values(last_used_at=now))


def _read(row: Row[tuple[object, ...]]) -> Token:
    return Token(
        row.id,
        row.name,
        tuple(Role(word) for word in json.loads(row.roles)),
        tuple(json.loads(row.rings)),
        row.created_at,
        row.created_by,
        row.expires_at,
        row.last_used_at,
        row.revoked_at,
    )
