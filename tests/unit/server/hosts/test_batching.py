"""Group commit: who is answered has been recorded, and one that fails takes nobody with it."""

from __future__ import annotations

from concurrent.futures import wait

import pytest
from tests.unit.server.hosts.machines import circumstances, enrolled

from kmend.core.wire import Answer
from kmend.server.hosts import listing
from kmend.server.hosts.batching import Batcher
from kmend.server.hosts.directions import NoDirections
from kmend.server.hosts.refusals import BUSY, Refused
from kmend.server.store import Store, open_store


def test_many_are_answered_and_recorded(store: Store) -> None:
    machines = enrolled(store, *(f"web-{number:03}" for number in range(40)))
    batcher = Batcher(store, NoDirections(), lambda connection: circumstances())
    futures = [batcher.submit(machine.check_in()) for machine in machines for _ in range(3)]
    wait(futures, 60)
    assert all(isinstance(future.result(), Answer) for future in futures)
    batcher.close()
    assert batcher.submit(machines[0].check_in()).result(1) is BUSY
    with store.read() as connection:
        kept = [len(listing.signed_reports(connection, machine.id)) for machine in machines]
    assert kept == [1] * 40


def test_two_servers_accept_a_counter_once(database: str) -> None:
    stores = [open_store(database), open_store(database)]
    batchers = [Batcher(store, NoDirections(), lambda connection: circumstances()) for store in stores]
    (machine,) = enrolled(stores[0], "web-1")
    received = [machine.check_in() for _ in range(20)]
    futures = [batcher.submit(item) for item in received for batcher in batchers]
    wait(futures, 60)
    accepted = [future.result() for future in futures if isinstance(future.result(), Answer)]
    assert 1 <= len(accepted) <= 20
    assert all(isinstance(future.result(), (Answer, Refused)) for future in futures)
    for batcher in batchers:
        batcher.close()
    for store in stores:
        store.close()


def test_who_has_gone_takes_nobody_with_him(store: Store) -> None:
    one, two = enrolled(store, "web-1", "web-2")
    batcher = Batcher(store, NoDirections(), lambda connection: circumstances(), gather=0.3)
    futures = [batcher.submit(machine.check_in()) for machine in (one, two)]
    assert futures[0].cancel()
    assert isinstance(futures[1].result(30), Answer)
    assert isinstance(batcher.submit(one.check_in()).result(30), Answer), "it goes on"
    batcher.close()


def test_one_that_fails_takes_nobody_with_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from kmend.server.hosts import checkin

    good, bad = enrolled(store, "good", "bad")
    judge = checkin.judge

    def broken(known: checkin.Known | None, received: checkin.Received, server: str) -> checkin.Outcome:
        if received.message.host == bad.id:
            raise RuntimeError("as if")
        return judge(known, received, server)

    monkeypatch.setattr(checkin, "judge", broken)
    batcher = Batcher(store, NoDirections(), lambda connection: circumstances(), gather=0.2)
    futures = [batcher.submit(machine.check_in()) for machine in (good, bad)]
    assert isinstance(futures[0].result(30), Answer)
    assert futures[1].result(30) is BUSY
    batcher.close()
