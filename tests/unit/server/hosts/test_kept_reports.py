"""Reports are evidence, and a host does not fill the disk with them."""

from __future__ import annotations

from sqlalchemy import select
from tests.unit.server.conftest import NOW
from tests.unit.server.hosts.machines import enrolled, judge

from kmend.core.wire import Answer
from kmend.server.hosts.checkin import MAX_REPORTS_AN_HOUR
from kmend.server.store import Store, tables


def test_a_host_that_reports_without_end_fills_no_disk_and_its_newest_report_is_kept(store: Store) -> None:
    (host, other) = enrolled(store, "h", "other")

    def report(number: int, now: int) -> None:
        host.extra = {"tainted": number}
        received = host.check_in()
        (answer,) = judge(store, received, now=now)
        assert isinstance(answer, Answer), "it is judged all the same"
        host.take(answer, received)

    def kept() -> list[int]:
        table = tables.reports.c
        with store.read() as connection:
            query = select(table.counter).where(table.host == host.id).order_by(table.counter)
            return list(connection.execute(query).scalars())

    judge(store, other.check_in())
    for number in range(MAX_REPORTS_AN_HOUR + 20):
        report(number, NOW + number)
    assert kept() == [*range(1, MAX_REPORTS_AN_HOUR), MAX_REPORTS_AN_HOUR + 20]
    report(1000, NOW + 3600)
    assert len(kept()) == MAX_REPORTS_AN_HOUR + 1, "an hour after the first"
