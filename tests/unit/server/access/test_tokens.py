"""Tokens and permissions: who is recognised, and what each may do where."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from kmend.server.access import audit, tokens
from kmend.server.access.errors import ForbiddenError, NoTokenError, TokenError
from kmend.server.access.permissions import FLEET_WIDE, GRANTED, Caller, Permission, Role, may, may_all
from kmend.server.access.tokens import Token
from kmend.server.store import Store, tables

NOW = 1_790_000_000
DAY = 86_400


def made(store: Store, *roles: Role, rings: tuple[str, ...] = (), days: int = 1, name: str = "a") -> tuple[Token, str]:
    return store.transact(
        lambda connection: tokens.create(
            connection, name=name, roles=roles, rings=rings, expires_at=NOW + days * DAY, actor="server", now=NOW
        )
    )


def recognised(store: Store, secret: str, now: int = NOW) -> Token | None:
    with store.read() as connection:
        return tokens.recognise(connection, secret, now)


def test_a_token_is_recognised_until_it_ends(store: Store) -> None:
    token, secret = made(store, Role.VIEWER, rings=("default",))
    assert recognised(store, secret) == token
    assert recognised(store, secret, NOW + DAY - 1) == token
    assert recognised(store, secret, NOW + DAY) is None
    for other in (secret[:-1] + ("a" if secret[-1] != "a" else "b"), secret.upper(), "", "kmend_token_", secret + " "):
        assert recognised(store, other) is None
    with store.read() as connection:
        kept = connection.execute(select(tables.tokens.c.secret_sha256)).scalar_one()
        records = list(audit.records(connection))
    assert secret not in kept
    assert all(secret not in audit.exported(record) for record in records)
    assert [record.action for record in records] == ["token.create"]


def test_a_revoked_token_is_worth_nothing(store: Store) -> None:
    token, secret = made(store, Role.VIEWER)
    for _ in range(2):
        store.transact(lambda connection: tokens.revoke(connection, token.id, actor="token:x", now=NOW))
    assert recognised(store, secret) is None
    with store.read() as connection:
        assert [record.action for record in audit.records(connection)] == ["token.create", "token.revoke"]
    with pytest.raises(NoTokenError):
        store.transact(lambda connection: tokens.revoke(connection, "none", actor="token:x", now=NOW))


def test_the_last_use_is_written_down_now_and_then(store: Store) -> None:
    token, secret = made(store, Role.VIEWER)
    used = []
    for now in (NOW, NOW + 30, NOW + 61):
        store.transact(lambda connection, now=now: tokens.note_use(connection, token.id, now))  # type: ignore[misc]
        found = recognised(store, secret)
        assert found is not None
        used.append(found.last_used_at)
    assert used == [NOW, NOW, NOW + 61]


def test_what_makes_no_sense_is_refused(sqlite: Store) -> None:
    with pytest.raises(TokenError, match="at least one role"):
        made(sqlite)
    with pytest.raises(TokenError, match="has a name"):
        made(sqlite, Role.VIEWER, name="")
    with pytest.raises(TokenError, match="must end"):
        made(sqlite, Role.VIEWER, days=0)
    with pytest.raises(TokenError, match="must end"):
        made(sqlite, Role.VIEWER, days=800)
    with pytest.raises(TokenError, match="there is no ring"):
        made(sqlite, Role.VIEWER, rings=("nowhere",))


def test_pages_go_through_all_of_them(sqlite: Store) -> None:
    ids = {made(sqlite, Role.VIEWER, name=f"t{number}")[0].id for number in range(7)}
    found: list[str] = []
    after = None
    with sqlite.read() as connection:
        while page := tokens.listing(connection, after=after, limit=3):
            found += [token.id for token in page]
            after = (page[-1].created_at, page[-1].id)
    assert len(found) == 7
    assert set(found) == ids


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("permission", list(Permission))
def test_the_table_of_roles(role: Role, permission: Permission) -> None:
    free, bound = Caller("1", "n", (role,)), Caller("2", "n", (role,), ("r1", "r2"))
    if permission not in GRANTED[role]:
        for caller in (free, bound):
            with pytest.raises(ForbiddenError, match="may not"):
                may(caller, permission)
        return
    may(free, permission)
    may(free, permission, "any")
    if permission in FLEET_WIDE:
        with pytest.raises(ForbiddenError, match="whole fleet"):
            may(bound, permission)
        return
    may(bound, permission)
    may(bound, permission, "r1")
    may_all(bound, permission, {"r1", "r2"})
    with pytest.raises(ForbiddenError, match="not for the ring"):
        may(bound, permission, "r3")
    with pytest.raises(ForbiddenError, match="not for the ring"):
        may_all(bound, permission, {"r1", "r3"})


def test_viewers_change_nothing_and_administrators_do_not_approve() -> None:
    assert GRANTED[Role.VIEWER] == {Permission.READ}
    assert GRANTED[Role.AUDITOR] == {Permission.READ, Permission.AUDIT}
    assert Permission.APPROVE not in GRANTED[Role.ADMINISTRATOR]
    assert [role for role in Role if Permission.APPROVE in GRANTED[role]] == [Role.APPROVER]
    assert [role for role in Role if Permission.TOKENS in GRANTED[role]] == [Role.ADMINISTRATOR]
