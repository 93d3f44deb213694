"""Periods: a row where verdicts may change, none where they do not; on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event, select
from tests.unit.server.conftest import NOW
from tests.unit.server.hosts.machines import Machine, boot_id, enrolled, judge

from kmend.core.wire import HeldLevel
from kmend.server.hosts import periods, upkeep
from kmend.server.store import Store
from kmend.server.store.tables import host_periods

DAY = 86_400


def says(store: Store, host: Machine, at: int, **now: Any) -> None:
    for name, value in now.items():
        setattr(host, name, value)
    received = host.check_in()
    (answer,) = judge(store, received, now=at)
    host.take(answer, received)


def rows(store: Store, host: Machine) -> list[tuple[int, int, int, str, str]]:
    with store.read() as connection:
        found = connection.execute(select(host_periods).where(host_periods.c.host == host.id).order_by("at"))
        return [(row.at, row.level, row.transition, row.boot_id, row.state) for row in found]


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """What is asked of the database meanwhile."""
    found: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        found.append(statement)

    event.listen(store._engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(store._engine, "before_cursor_execute", note)


def test_a_row_for_each_change_and_none_without(store: Store) -> None:
    (host,) = enrolled(store, "web-1")
    assert rows(store, host) == []
    says(store, host, NOW)
    says(store, host, NOW + 10)
    trying = HeldLevel(1, "kmend_1_00000000", "0" * 64, "loading")
    says(store, host, NOW + 20, phase="loading", extra={"trying": trying})
    says(store, host, NOW + 30, level=1, phase="soaking")
    says(store, host, NOW + 40, phase="steady", extra={})  # another report, the same standing
    says(store, host, NOW + 50, level=0, phase="idle", boot=2)
    with store.write() as connection:
        upkeep.decommission(connection, host.id, actor="token:1", now=NOW + 60)
    assert rows(store, host) == [
        (NOW, 0, 0, boot_id(1), "enrolled"),
        (NOW + 20, 0, 1, boot_id(1), "enrolled"),
        (NOW + 30, 1, 0, boot_id(1), "enrolled"),
        (NOW + 50, 0, 0, boot_id(2), "enrolled"),
        (NOW + 60, 0, 0, boot_id(2), "decommissioned"),
    ]


def test_a_check_in_without_news_asks_nothing_of_the_history(store: Store) -> None:
    (host,) = enrolled(store, "web-1")
    says(store, host, NOW)
    with statements(store) as asked:
        says(store, host, NOW + 900)
    assert asked
    assert not [statement for statement in asked if "host_periods" in statement]
    with statements(store) as asked:
        says(store, host, NOW + 1800, boot=2)
    assert len([statement for statement in asked if "host_periods" in statement]) == 2


def test_a_clock_that_goes_back_and_a_host_that_never_stops(store: Store) -> None:
    (host,) = enrolled(store, "web-1")
    says(store, host, NOW)
    says(store, host, NOW - 500, boot=2)
    assert rows(store, host) == [(NOW, 0, 0, boot_id(2), "enrolled")]
    for number in range(3, 80):
        says(store, host, NOW + number, boot=number)
    found = rows(store, host)
    assert len(found) == periods.MAX_AN_HOUR
    assert found[-1] == (NOW + 79, 0, 0, boot_id(79), "enrolled")


def test_the_first_row_stays_and_the_last_before_the_horizon(store: Store) -> None:
    host, other = enrolled(store, "web-1", "web-2")
    for number in range(1, 6):
        says(store, host, NOW + number * DAY, boot=number)
    says(store, other, NOW)
    with store.write() as connection:
        assert periods.prune(connection, NOW + 404 * DAY + 1, days=400, most=1000) == 1
        assert periods.prune(connection, NOW + 404 * DAY + 1, days=400, most=1000) == 0
    assert [row[0] for row in rows(store, host)] == [NOW + DAY, NOW + 4 * DAY, NOW + 5 * DAY]
    assert len(rows(store, other)) == 1
