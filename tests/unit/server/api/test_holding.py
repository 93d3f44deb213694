"""Hosts that wait for news, and those that enrol: nobody takes another's place, and nothing ends the reading."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future

import pytest
from sqlalchemy import exc
from tests.unit.server.api.asking import Answer, Asked, host_headers, news_request
from tests.unit.server.hosts.machines import Machine, enrolled, enrolment_key, new_key

from kmend.core.document import decode
from kmend.core.wire import News
from kmend.server.api import hostside
from kmend.server.api.holding import Hold
from kmend.server.config import LimitsSection, ServerConfig
from kmend.server.store import Store, news


def waits(asked: Asked, machine: Machine) -> Future[Answer]:
    body, headers = news_request(machine, asked.services.hold.seen("default"), asked.now)
    return asked.start("POST", "/v1/news", body, headers)


def test_a_host_has_one_place_and_whoever_asks_later_has_it(sqlite: Store) -> None:
    asked = Asked(sqlite, ServerConfig(limits=LimitsSection(held=2)))
    try:
        greedy, good, late = enrolled(sqlite, "greedy", "good", "late")
        many = [waits(asked, greedy) for _ in range(6)]
        held = waits(asked, good)
        end = time.monotonic() + 20
        while not asked.services.hold.full or sum(future.done() for future in many) < 5:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert all(future.result().status == 200 for future in many if future.done())
        assert not held.done()
        assert waits(asked, late).result(20).status == 503
        again = waits(asked, good)  # on another connection: it has lost the first
        assert held.result(20).status == 200
        assert not again.done()
        sqlite.transact(lambda connection: news.bump(connection, news.ALL))
        assert decode(News, again.result(20).body).seen == asked.services.hold.seen("default")
        assert not asked.services.hold.full
    finally:
        asked.close()


@pytest.mark.parametrize("problem", [exc.InterfaceError("x", {}, Exception("closed")), ZeroDivisionError("a mistake")])
def test_whatever_happens_to_one_reading_of_the_news_the_next_comes(sqlite: Store, problem: Exception) -> None:
    hold = Hold(sqlite, most=10)
    failed = 0
    real = hold._read

    def read() -> object:
        nonlocal failed
        if failed < 2:
            failed += 1
            raise problem
        return real()

    hold._read = read  # type: ignore[method-assign, assignment]

    async def changes() -> bool:
        hold.start()
        before = hold.seen("default")
        sqlite.transact(lambda connection: news.bump(connection, news.ALL))
        for _ in range(400):
            if hold.seen("default") != before:
                return True
            await asyncio.sleep(0.05)
        return False

    assert asyncio.run(changes())
    assert failed == 2
    hold.close()


def test_who_may_not_enrol_or_split_does_not_wait_for_the_writers_turn(asked: Asked) -> None:
    (host,) = enrolled(asked.store, "h")
    secret = enrolment_key(asked.store)
    with asked.store.write():
        _, body, good = Machine.new("x").enrol_with("kmend_enrol_" + "a" * 52)
        assert asked.ask("POST", "/v1/enrol", body, {"Kmend-Signature": good}).word == "enrolment-key"
        _, body, _ = Machine.new("x").enrol_with(secret)
        assert asked.ask("POST", "/v1/enrol", body, {"Kmend-Signature": good}).word == "signature"
        _, body, _ = host.split_into(new_key("child"))
        assert asked.ask("POST", "/v1/split", body, host_headers(host, "00" * 64)).word == "signature"


def test_enrolments_that_wait_keep_nobody_from_the_news(sqlite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostside, "MOST_UNDER_WAY", 8)
    asked = Asked(sqlite)
    try:
        (host,) = enrolled(sqlite, "h")
        secret = enrolment_key(sqlite)
        with sqlite.write():
            tries = []
            for number in range(10):
                _, body, signature = Machine.new(f"x{number}").enrol_with(secret)
                tries.append(asked.start("POST", "/v1/enrol", body, {"Kmend-Signature": signature}))
            assert {future.result(20).status for future in tries[8:]} == {503}
            body, headers = news_request(host, "", asked.now)
            assert asked.ask("POST", "/v1/news", body, headers).status == 200
            assert not any(future.done() for future in tries[:8])
        assert {future.result(20).status for future in tries[:8]} == {200}
    finally:
        asked.close()
