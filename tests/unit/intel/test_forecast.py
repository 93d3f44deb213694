"""Policies and forecasts, driven through time."""

from __future__ import annotations

import datetime
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from kmend.intel.clocks import Clocks
from kmend.intel.deadlines import DAY, Clock, Row, Signals
from kmend.intel.forecast import BUCKET_NAMES, Forecast, Span, Standing, bucket, forecast
from kmend.intel.frameworks import rows_of
from kmend.intel.policies import Policy, deadlines

START = 1_790_000_000
CVE = "CVE-2026-1"


def at(day: float) -> int:
    return START + int(day * DAY)


def policy(framework: str, ring: str = "web", **more: object) -> Policy:
    return replace(Policy(framework, ring, framework, rows_of(framework)), **more)  # type: ignore[arg-type]


def standing(*spans: Span, signals: Signals = Signals(severity=7.8), **more: object) -> Standing:  # noqa: B008
    return replace(Standing(CVE, "web", signals, spans), **more)  # type: ignore[arg-type]


def look(day: float, *items: Standing, policies: tuple[Policy, ...] = (), within: float = 7) -> Forecast:
    by_ring: dict[str, list[Policy]] = {}
    for item in policies or (policy("cyber-essentials"),):
        by_ring.setdefault(item.ring, []).append(item)
    return forecast(items, by_ring, at(day), within=int(within * DAY))


def test_a_breach_is_forecast_and_then_happens() -> None:
    item = standing(Span(at(0), at(1), 10))
    early = look(3, item)
    assert (early.due, early.overdue, early.later) == ((), (), 10)
    near = look(9, item)
    (due,) = near.due
    assert (due.hosts, due.due, due.overdue, near.buckets) == (10, at(15), False, {})
    late = look(17, item)
    (over,) = late.overdue
    assert (over.hosts, over.due, late.due) == (10, at(15), ())
    assert late.buckets == {over.row: {"0-7": 10, "8-14": 0, "15-30": 0, "31-90": 0, ">90": 0}}


def test_hosts_that_came_later_have_more_time_and_are_counted_apart() -> None:
    found = look(
        20, standing(Span(at(0), at(1), 10), Span(at(5), at(1), 4), Span(at(12), at(1), 2), Span(at(0), None, 1))
    )
    (over,), (due,) = found.overdue, found.due
    assert (over.hosts, over.due, over.latest) == (14, at(15), at(19))
    assert (due.hosts, due.due) == (2, at(26))
    assert found.unbound == 0, "where nothing closes it yet, that clock does not run; others of the CVE are bound"
    assert look(20, standing(Span(at(0), None, 3))).unbound == 3


def test_several_policies_count_beside_each_other_and_their_rows_do_not() -> None:
    both = (policy("cyber-essentials"), policy("essential-eight"))
    signals = Signals(severity=9.8, kev_added=at(0), exposed=True)
    found = look(30, standing(Span(at(0), at(0), 5), signals=signals), policies=both)
    assert {item.row: item.hosts for item in found.overdue} == {
        "UK Cyber Essentials, A6.4: high and critical": 5, "ASD Essential Eight: critical": 5,
    }  # fmt: skip
    nearest = deadlines(both, signals, Clocks(at(0), at(0), None, 0, 0), at(1))
    assert [item.due for item in nearest] == [at(2), at(14)]


def test_a_ring_without_a_policy_is_unbound() -> None:
    assert look(30, standing(Span(at(0), at(0), 5), ring="db")).unbound == 5
    over = policy("cyber-essentials", valid_to=datetime.date(2026, 9, 22))
    assert look(30, standing(Span(at(0), at(0), 5)), policies=(over,)).unbound == 5


def test_a_listing_shortens_the_deadline_and_a_forecast_tells() -> None:
    directive = (policy("cisa-bod-26-04"),)
    quiet = standing(Span(at(0), None, 3), signals=Signals(exposed=False, total=True, automatable=False))
    assert look(10, quiet, policies=directive).upgrade == 3
    listed = replace(quiet, signals=replace(quiet.signals, kev_added=at(10)))
    (due,) = look(20, listed, policies=directive).due
    assert due.due == at(24)
    exposed = replace(listed, signals=replace(listed.signals, exposed=None))
    (over,) = look(20, exposed, policies=directive).overdue
    assert (over.due, over.forensic) == (at(13), True)


def test_what_is_accepted_is_counted_apart() -> None:
    found = look(30, standing(accepted=4))
    assert (found.accepted, found.overdue, found.unbound) == (4, (), 0)


def test_buckets_by_age() -> None:
    ages = {
        0.1: "0-7",
        7: "0-7",
        7.1: "8-14",
        14: "8-14",
        15: "15-30",
        30: "15-30",
        31: "31-90",
        90: "31-90",
        90.1: ">90",
    }
    assert {age: bucket(int(age * DAY)) for age in ages} == ages


spans = st.builds(
    Span, st.integers(0, 100).map(at), st.one_of(st.none(), st.integers(0, 100).map(at)), st.integers(1, 50)
)


@given(st.lists(spans, max_size=8), st.integers(0, 200), st.integers(0, 60))
def test_every_host_is_counted_once_for_each_policy(found: list[Span], day: int, within: int) -> None:
    rows = (Row("fix", 240, Clock.FIX), Row("any", 480, Clock.DISCLOSURE))
    own = Policy("p", "web", "own", rows)
    answer = look(day, standing(*found), policies=(own,), within=within)
    counted = sum(item.hosts for item in (*answer.overdue, *answer.due)) + answer.later
    assert counted == sum(span.hosts for span in found)
    late = sum(item.hosts for item in answer.overdue)
    assert sum(sum(ages.values()) for ages in answer.buckets.values()) == late
    assert all(set(ages) == set(BUCKET_NAMES) for ages in answer.buckets.values())
