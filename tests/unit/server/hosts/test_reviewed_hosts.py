"""What a review of the host side found, in what the server makes of hosts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import func, select
from tests.unit.server.conftest import NOW, SERVER_ID
from tests.unit.server.hosts.machines import Machine, enrolled, enrolment_key, judge, new_key

from kmend.core.wire import Answer, Enrolled
from kmend.server.hosts import checkin, enrolment, keys, refusals, upkeep
from kmend.server.hosts.refusals import Refused
from kmend.server.store import Store, tables


def forged(name: str) -> checkin.Received:
    """A check-in by who does not have that host's key."""
    stranger = Machine.new("stranger")
    stranger.id = name
    return replace(stranger.check_in(full=False), signature="00" * 64)


def test_strangers_that_give_one_name_are_judged_in_one_round(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    real = checkin._round

    def noted(*given: object) -> list[Answer | Refused]:
        rounds.append(1)
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(checkin, "_round", noted)
    (host,) = enrolled(store, "h")
    answers = judge(
        store, *(forged(host.id) for _ in range(50)), host.check_in(), *(forged("ab" * 16) for _ in range(50))
    )
    assert answers[:50] == [refusals.BAD_SIGNATURE] * 50
    assert isinstance(answers[50], Answer)
    assert answers[51:] == [refusals.UNKNOWN_HOST] * 50
    assert len(rounds) == 1


def test_copies_are_told_of_after_a_clock_that_was_ahead(store: Store) -> None:
    (host,) = enrolled(store, "h")
    received = host.check_in()
    host.take(judge(store, received)[0], received)
    other = replace(host, facts=replace(host.facts, machine="ab" * 32))
    times = [NOW + 10**8, NOW, NOW + 60, NOW + 86_400]
    for now in times:
        assert judge(store, other.check_in(full=True), now=now) == [refusals.CLONED]
    with store.read() as connection:
        query = select(tables.audit.c.at).where(tables.audit.c.action == "host.cloned").order_by(tables.audit.c.number)
        assert list(connection.execute(query).scalars()) == [NOW + 10**8, NOW, NOW + 86_400]


def test_who_could_not_be_heard_is_not_let_go(store: Store) -> None:
    enrolled(store, "brief", ephemeral_seconds=100)
    with store.write() as connection:
        assert upkeep.expire(connection, NOW + 5100, since=NOW + 5000) == 0
        assert upkeep.expire(connection, NOW + 5110, since=NOW + 5000, grace=10) == 0
        assert upkeep.expire(connection, NOW + 5111, since=NOW + 5000, grace=10) == 1


@pytest.mark.parametrize("how", ["unknown", "over", "revoked", "used up", "elsewhere", "another's signature", "let go"])
def test_a_look_at_an_enrolment_finds_what_the_enrolment_itself_would(store: Store, how: str) -> None:
    secret = enrolment_key(
        store, max_uses=1 if how == "used up" else None, networks=["198.51.100.0/24"] if how == "elsewhere" else []
    )
    machine, now = Machine.new("h"), NOW + 3601 if how == "over" else NOW
    if how == "unknown":
        secret = "kmend_enrol_" + "a" * 52
    if how == "used up":
        assert isinstance(_enrol(store, Machine.new("first"), secret), Enrolled)
    if how == "revoked":
        with store.write() as connection:
            (key,) = keys.listing(connection)
            keys.revoke(connection, key.id, actor="token:1", now=NOW)
    if how == "let go":
        answer = _enrol(store, machine, secret)
        assert isinstance(answer, Enrolled)
        with store.write() as connection:
            upkeep.decommission(connection, answer.host, actor="token:1", now=NOW)
    message, body, signature = machine.enrol_with(secret)
    if how == "another's signature":
        signature = Machine.new("another").enrol_with(secret)[2]
    with store.read() as connection:
        looked = enrolment.refused(connection, message, address="192.0.2.1", now=now)
    asked = enrolment.asks(message, body, signature)
    found = _enrol(store, machine, secret, now=now, signature=signature)
    assert found == (looked if asked else refusals.BAD_SIGNATURE)
    assert isinstance(found, Refused)


def test_a_look_lets_a_host_ask_again_whose_key_is_used_up(store: Store) -> None:
    secret, machine = enrolment_key(store, max_uses=1), Machine.new("h")
    first = _enrol(store, machine, secret)
    message, _, _ = machine.enrol_with(secret)
    with store.read() as connection:
        assert enrolment.refused(connection, message, address="192.0.2.1", now=NOW) is None
    assert _enrol(store, machine, secret) == first


@pytest.mark.parametrize("how", ["good", "unknown", "signature", "proof", "decommissioned"])
def test_a_look_at_a_split_finds_what_the_split_itself_would(store: Store, how: str) -> None:
    (host,) = enrolled(store, "h")
    message, body, signature = host.split_into(new_key("child"))
    if how == "unknown":
        message, body, signature = replace(host, id="ab" * 16).split_into(new_key("child"))
    if how == "signature":
        signature = host.split_into(new_key("other"))[2]
    if how == "proof":
        message = replace(message, proof=host.split_into(new_key("other"))[0].proof)
    if how == "decommissioned":
        with store.write() as connection:
            upkeep.decommission(connection, host.id, actor="token:1", now=NOW)
    with store.read() as connection:
        looked = enrolment.split_refused(connection, message, body, signature, server=SERVER_ID)
    with store.write() as connection:
        found = enrolment.split(connection, message, body, signature, address="", server=SERVER_ID, now=NOW)
    assert isinstance(found, Enrolled) if how == "good" else found == looked
    assert (looked is None) == (how == "good")


def test_no_host_becomes_a_copy_of_itself(store: Store) -> None:
    (host,) = enrolled(store, "h")
    key = new_key("child")
    first = _split(store, host, key)
    assert isinstance(first, Enrolled)
    assert _split(store, host, key) == first, "an answer was lost"
    child = replace(host, key=key, id=first.host)
    assert _split(store, child, key) is refusals.BAD_SIGNATURE
    assert isinstance(_split(store, child, new_key("grandchild")), Enrolled)
    with store.read() as connection:
        assert connection.execute(select(func.count()).select_from(tables.hosts)).scalar_one() == 3


def _split(store: Store, host: Machine, key: object) -> Enrolled | Refused:
    message, body, signature = host.split_into(key)  # type: ignore[arg-type]
    with store.write() as connection:
        return enrolment.split(connection, message, body, signature, address="", server=SERVER_ID, now=NOW)


def _enrol(store: Store, machine: Machine, secret: str, *, now: int = NOW, signature: str = "") -> Enrolled | Refused:
    message, body, own = machine.enrol_with(secret)
    with store.write() as connection:
        return enrolment.enrol(
            connection, message, body, signature or own, address="192.0.2.1", server=SERVER_ID, now=now
        )
