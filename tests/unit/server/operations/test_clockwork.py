"""Duties and leases: one process does what one need do, another takes over, and no failure ends a duty."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from sqlalchemy import func, insert, select, update
from tests.unit.server.hosts.machines import enrolled

from kmend.core.errors import SystemProblemError
from kmend.server.config import ServerConfig
from kmend.server.operations import leases, metrics
from kmend.server.operations.clockwork import LEASE_SECONDS, Clockwork, Duty
from kmend.server.operations.duties import Duties
from kmend.server.repository import Mirror
from kmend.server.store import Store, tables

NOW = 1_790_000_000


@dataclass
class Work:
    """Counts its turns, and fails when told to."""

    turns: list[int] = field(default_factory=list)
    failure: Exception | None = None

    def __call__(self, now: int) -> None:
        self.turns.append(now)
        if self.failure is not None:
            raise self.failure


def clockwork(store: Store, duty: Duty, name: str) -> Clockwork:
    return Clockwork(store, [duty], lambda: NOW, holder=name)


def test_one_of_several_does_it_and_another_takes_over(store: Store) -> None:
    work = Work()
    duty = Duty("work", work, 1)
    one, two = clockwork(store, duty, "one"), clockwork(store, duty, "two")
    assert one.turn(duty, NOW)
    assert not two.turn(duty, NOW)
    # As long as the first comes back in time, the second never has it.
    for now in range(NOW, NOW + 100, 3):
        assert one.turn(duty, now)
        assert not two.turn(duty, now)
    dead = NOW + 99
    assert not two.turn(duty, dead + LEASE_SECONDS - 4)
    assert two.turn(duty, dead + LEASE_SECONDS + 5)
    assert not one.turn(duty, dead + LEASE_SECONDS + 6)
    two.stop()
    assert not one.turn(duty, dead + LEASE_SECONDS + 7)  # it asks every few seconds
    assert one.turn(duty, dead + LEASE_SECONDS + 12)


def test_what_each_does_for_itself_needs_no_lease(store: Store) -> None:
    duty = Duty("own", Work(), 1, shared=False)
    assert clockwork(store, duty, "one").turn(duty, NOW)
    assert clockwork(store, duty, "two").turn(duty, NOW)
    with store.read() as connection:
        assert connection.execute(select(func.count()).select_from(tables.leases)).scalar_one() == 0


def test_only_one_gets_a_lease_when_many_ask_at_once(store: Store) -> None:
    won: list[str] = []
    ready = threading.Barrier(8)

    def ask(name: str) -> None:
        ready.wait()
        if store.transact(lambda connection: leases.take(connection, "work", name, NOW, 10)):
            won.append(name)

    threads = [threading.Thread(target=ask, args=(f"p{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


@pytest.mark.parametrize("failure", [SystemProblemError("no disk"), ZeroDivisionError("a mistake")])
def test_a_failure_is_counted_and_the_next_turn_comes(sqlite: Store, failure: Exception) -> None:
    work = Work(failure=failure)
    duty = Duty("failing", work, 0.01, shared=False)
    made = clockwork(sqlite, duty, "one")
    kind = "system" if isinstance(failure, SystemProblemError) else "unexpected"
    before = metrics.duties.labels(duty="failing", outcome=kind)._value.get()
    made.start()
    while len(work.turns) < 3:
        threading.Event().wait(0.01)
    assert made.alive
    made.stop()
    assert metrics.duties.labels(duty="failing", outcome=kind)._value.get() >= before + 3


def duties(store: Store) -> dict[str, Callable[[int], object]]:
    made = Duties(ServerConfig(), store, Mirror(store))
    return {duty.name: duty.work for duty in made.all()}


def test_every_duty_does_nothing_on_an_empty_server(store: Store) -> None:
    found = duties(store)
    assert set(found) == {"rollouts", "repository", "notices", "upkeep", "prune", "mirror", "gauges", "certificate"}
    for work in found.values():
        work(NOW)
    assert "kmend_server_outbox 0.0" in metrics.text().decode()


def test_hosts_are_counted_by_state_and_the_less_often_the_longer_it_takes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrolled(store, "here", "late", "gone")
    with store.write() as connection:
        for name, values in (("late", {"next_due": NOW - 61}), ("here", {"next_due": NOW - 60})):
            connection.execute(update(tables.hosts).where(tables.hosts.c.name == name).values(**values))
        gone = tables.hosts.c.name == "gone"
        connection.execute(update(tables.hosts).where(gone).values(state="decommissioned", next_due=0))
    monkeypatch.setattr("kmend.server.operations.duties.COUNTING_SHARE", 1e-6)
    gauges = duties(store)["gauges"]
    gauges(NOW)
    told = metrics.text().decode()
    assert 'kmend_server_hosts{state="enrolled"} 2.0' in told
    assert 'kmend_server_hosts{state="decommissioned"} 1.0' in told
    assert "kmend_server_hosts_overdue 1.0" in told
    store.transact(lambda connection: connection.execute(update(tables.hosts).values(next_due=0)))
    gauges(NOW + 15)
    assert "kmend_server_hosts_overdue 1.0" in metrics.text().decode(), "not counted again yet"


def test_what_is_old_is_forgotten(store: Store) -> None:
    values = {"token": "t", "key": "k", "request": "r", "status": 200, "answer": b"{}", "at": NOW}
    store.transact(lambda connection: connection.execute(insert(tables.idempotency).values(**values)))
    prune = duties(store)["prune"]
    for now, left in ((NOW + 86_400, 1), (NOW + 3 * 86_400, 0)):
        prune(now)
        with store.read() as connection:
            assert connection.execute(select(func.count()).select_from(tables.idempotency)).scalar_one() == left
