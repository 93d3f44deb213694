"""What hosts ask for, over the whole application; and what is tried by who is no host, or another one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from tests.unit.server.api.asking import Asked, host_headers, news_request
from tests.unit.server.conftest import SERVER_ID
from tests.unit.server.hosts.machines import Machine, enrolled, enrolment_key, new_key

from kmend.core import wire
from kmend.core.document import decode, encode
from kmend.core.wire import Answer, Enrolled, News, Purpose, signed_bytes
from kmend.server.hosts import enrolment, upkeep
from kmend.server.repository import mirror
from kmend.server.store import news, tables


def enrol(asked: Asked, machine: Machine, secret: str) -> Enrolled:
    _, body, signature = machine.enrol_with(secret)
    found = asked.ask("POST", "/v1/enrol", body, {"Kmend-Signature": signature})
    assert found.status == 200, found.body
    answer = decode(Enrolled, found.body)
    machine.id = answer.host
    return answer


def test_a_host_enrols_checks_in_and_is_answered_shortly_when_nothing_is_new(asked_both: Asked) -> None:
    machine = Machine.new("h")
    answer = enrol(asked_both, machine, enrolment_key(asked_both.store, ring="ring0"))
    assert (answer.server, answer.ring) == (SERVER_ID, "ring0")
    received = machine.check_in()
    first = asked_both.ask("POST", "/v1/check-in", received.body, host_headers(machine, received.signature))
    assert first.status == 200
    told = machine.take(decode(Answer, first.body), received)
    assert told.offer is not None
    received = machine.check_in()
    again = asked_both.ask("POST", "/v1/check-in", received.body, host_headers(machine, received.signature))
    assert decode(Answer, again.body).offer is None
    assert len(again.body) < 300


def test_a_replayed_check_in_is_refused_with_the_counter(asked: Asked) -> None:
    (machine,) = enrolled(asked.store, "h")
    received = machine.check_in()
    headers = host_headers(machine, received.signature)
    assert asked.ask("POST", "/v1/check-in", received.body, headers).status == 200
    again = asked.ask("POST", "/v1/check-in", received.body, headers)
    assert (again.status, again.word, again.json["counter"]) == (409, "counter-behind", 1)


def test_nobody_speaks_for_another_host(asked: Asked) -> None:
    one, two = enrolled(asked.store, "one", "two")
    received = one.check_in()
    # Signed by the other's key; for another purpose; for another server; with the other's name in the header.
    forged = two.key.sign(signed_bytes(Purpose.CHECK_IN, SERVER_ID, received.body)).hex()
    purpose = one.key.sign(signed_bytes(Purpose.NEWS, SERVER_ID, received.body)).hex()
    server = one.key.sign(signed_bytes(Purpose.CHECK_IN, "ab" * 16, received.body)).hex()
    for signature in (forged, purpose, server, "", "00", "x" * 128, received.signature.upper() + "0"):
        found = asked.ask("POST", "/v1/check-in", received.body, host_headers(one, signature))
        assert (found.status, found.word) == (401, "signature"), signature
    found = asked.ask("POST", "/v1/check-in", received.body, host_headers(two, received.signature))
    assert (found.status, found.word) == (400, "malformed")
    changed = received.body.replace(b'"counter":1', b'"counter":9')
    assert asked.ask("POST", "/v1/check-in", changed, host_headers(one, received.signature)).word == "signature"
    body, headers = news_request(one, "", asked.now)
    assert asked.ask("POST", "/v1/news", body, {**headers, "Kmend-Signature": forged}).word == "signature"
    with asked.store.read() as connection:
        assert set(connection.execute(select(tables.hosts.c.counter)).scalars()) == {0}


def test_a_stolen_enrolment_key_is_worth_nothing_after_its_end_its_uses_and_elsewhere(asked: Asked) -> None:
    def tried(secret: str) -> str:
        _, body, signature = Machine.new("thief").enrol_with(secret)
        return asked.ask("POST", "/v1/enrol", body, {"Kmend-Signature": signature}).word

    over = enrolment_key(asked.store, expires_at=asked.now + 5)
    elsewhere = enrolment_key(asked.store, networks=["10.0.0.0/8"])
    used = enrolment_key(asked.store, max_uses=1)
    enrol(asked, Machine.new("first"), used)
    asked.now += 6
    for secret in (over, elsewhere, used, "kmend_enrol_" + "a" * 52, "", "x" * 300):
        assert tried(secret) == "enrolment-key"


def test_who_was_taken_out_is_told_so(asked: Asked) -> None:
    (machine,) = enrolled(asked.store, "h")
    asked.store.transact(lambda connection: upkeep.decommission(connection, machine.id, actor="token:1", now=asked.now))
    received = machine.check_in()
    found = asked.ask("POST", "/v1/check-in", received.body, host_headers(machine, received.signature))
    assert (found.status, found.word) == (403, "decommissioned")
    body, headers = news_request(machine, "", asked.now)
    assert asked.ask("POST", "/v1/news", body, headers).word == "decommissioned"
    stranger = replace(Machine.new("s"), id="cd" * 16)
    received = stranger.check_in()
    assert (
        asked.ask("POST", "/v1/check-in", received.body, host_headers(stranger, received.signature)).word
        == "unknown-host"
    )
    body, headers = news_request(stranger, "", asked.now)
    assert asked.ask("POST", "/v1/news", body, headers).word == "unknown-host"


def test_a_copy_gets_an_identity_of_its_own(asked: Asked) -> None:
    (machine,) = enrolled(asked.store, "h", ring="ring1")
    key = new_key("of its own")
    _, body, signature = machine.split_into(key)
    found = asked.ask("POST", "/v1/split", body, host_headers(machine, signature))
    assert found.status == 200
    answer = decode(Enrolled, found.body)
    assert answer.host != machine.id
    assert answer.ring == "ring1"
    _, body, _ = machine.split_into(new_key("another"))
    assert asked.ask("POST", "/v1/split", body, host_headers(machine, signature)).word == "signature"


def test_news_is_told_to_those_whom_it_concerns(asked_both: Asked) -> None:
    one, two = enrolled(asked_both.store, "one", ring="ring0") + enrolled(asked_both.store, "two", ring="ring1")

    def seen(machine: Machine) -> str:
        body, headers = news_request(machine, "", asked_both.now)
        return decode(News, asked_both.ask("POST", "/v1/news", body, headers).body).seen

    waiting = {}
    for machine in (one, two):
        body, headers = news_request(machine, seen(machine), asked_both.now)
        waiting[machine.name] = asked_both.start("POST", "/v1/news", body, headers)
    asked_both.store.transact(lambda connection: news.bump(connection, news.ring_key("ring0")))
    told = decode(News, waiting["one"].result(30).body)
    assert told.seen == seen(one)
    assert not waiting["two"].done()
    asked_both.store.transact(lambda connection: news.bump(connection, news.ALL))
    assert decode(News, waiting["two"].result(30).body).seen == seen(two)


def test_who_waits_is_let_go_in_time_when_it_leaves_and_when_the_server_ends(asked: Asked) -> None:
    (machine,) = enrolled(asked.store, "h")
    body, headers = news_request(machine, "0.0", asked.now, wait=1)
    found = asked.ask("POST", "/v1/news", body, headers)
    assert decode(News, found.body).seen == "0.0"
    body, headers = news_request(machine, "0.0", asked.now)
    assert asked.start("POST", "/v1/news", body, headers, gone=True).result(30).status == 0
    waiting = asked.start("POST", "/v1/news", body, headers)
    asked._loop.call_soon_threadsafe(asked.services.release)
    assert waiting.result(30).status in (200, 503)
    # And nobody begins to wait any more.
    busy = asked.ask("POST", "/v1/news", body, headers)
    assert (busy.status, busy.headers["retry-after"]) == (503, "30")


def test_who_was_just_told_of_news_is_answered_with_the_new_timestamp(asked_both: Asked) -> None:
    (machine,) = enrolled(asked_both.store, "h")
    for version in (7, 8):
        text = f'{{"version":{version}}}'
        timestamp = mirror.RepositoryTimestamp(version, text, asked_both.now + 900)
        # As an import commits it; nobody waits for the process to read it anew.
        with asked_both.store.write() as connection:
            mirror.write_timestamp(connection, timestamp)
        received = machine.check_in()
        found = asked_both.ask("POST", "/v1/check-in", received.body, host_headers(machine, received.signature))
        assert decode(Answer, found.body).timestamp == text


def test_an_old_request_for_news_is_not_good_for_ever(asked: Asked) -> None:
    (machine,) = enrolled(asked.store, "h")
    for at in (asked.now - 3601, asked.now + 3601):
        body, headers = news_request(machine, "", at)
        assert asked.ask("POST", "/v1/news", body, headers).word == "clock"


def test_who_gets_in_its_own_way_is_told_to_come_back(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same enrolment twice at once, on PostgreSQL: the second finds the key taken when it writes."""

    def taken(*given: object, **more: object) -> object:
        raise IntegrityError("INSERT", {}, Exception("unique"))

    monkeypatch.setattr(enrolment, "enrol", taken)
    _, body, signature = Machine.new("h").enrol_with(enrolment_key(asked.store))
    found = asked.ask("POST", "/v1/enrol", body, {"Kmend-Signature": signature})
    assert (found.status, found.word, found.headers["retry-after"]) == (503, "busy", "5")


def test_what_is_too_large_is_not_read(asked: Asked) -> None:
    for path in ("/v1/check-in", "/v1/enrol", "/v1/news", "/v1/split"):
        found = asked.ask("POST", path, b"{" * (wire.MAX_REQUEST_BYTES + 1))
        assert (found.status, found.word) == (413, "too-large")
        found = asked.ask("POST", path, b"{}", {"content-length": "9999999999"})
        assert found.word == "too-large"


def test_other_paths_and_methods(asked: Asked) -> None:
    assert asked.ask("POST", "/v1/nothing").word == "not-found"
    assert asked.ask("GET", "/v1/check-in").word == "method"
    assert asked.ask("GET", "/v1/authority").body == b"-----BEGIN"
    assert asked.ask("GET", "/nothing").word == "not-found"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from([wire.CHECK_IN_PATH, wire.ENROL_PATH, wire.NEWS_PATH, wire.SPLIT_PATH]),
    tree=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from(["host", "counter", "boot_id", "report", "state", "key", "public_key", "facts", "seen", "at"]),
            inner,
            max_size=5,
        ),
        max_leaves=12,
    ),
    signature=st.text(max_size=130),
)  # fmt: skip
def test_any_document_is_answered_with_a_refusal_of_ours(asked: Asked, path: str, tree: object, signature: str) -> None:
    safe = "".join(letter for letter in signature if letter.isascii() and letter.isprintable())
    found = asked.ask("POST", path, json.dumps(tree).encode(), {"Kmend-Signature": safe, "Kmend-Host": "x"})
    assert 400 <= found.status < 500
    assert found.word in ("malformed", "signature", "unknown-host", "enrolment-key")


def test_a_report_with_hostile_text_is_kept_and_shown_as_text(asked: Asked) -> None:
    (machine,) = enrolled(asked.store, "h")
    machine.facts = replace(machine.facts, hardware="'; DROP TABLE hosts; --", role="{{7*7}}")
    received = machine.check_in(full=True)
    assert asked.ask("POST", "/v1/check-in", received.body, host_headers(machine, received.signature)).status == 200
    with asked.store.read() as connection:
        row = connection.execute(select(tables.hosts.c.hardware, tables.hosts.c.role)).one()
    assert tuple(row) == ("'; DROP TABLE hosts; --", "{{7*7}}")
    bad = encode(replace(received.message, report="0" * 64, counter=5))
    signature = machine.key.sign(signed_bytes(Purpose.CHECK_IN, SERVER_ID, bad)).hex()
    assert asked.ask("POST", "/v1/check-in", bad, host_headers(machine, signature)).status in (200, 400)
