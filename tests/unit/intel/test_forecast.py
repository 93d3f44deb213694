"""Policies and forecasts, driven through time."""

from __future__ import annotations

import datetime
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from kmend.intel.clocks import Clocks
from kmend.intel.deadlines import DAY, Assumptions, Clock, Row, Signals
from kmend.intel.forecast import BUCKET_NAMES, BUCKETS, OLDEST, Forecast, Span, Standing, earliest, forecast
from kmend.intel.frameworks import rows_of
from kmend.intel.policies import Policy, deadlines

START = 1_790_000_000
CVE = "CVE-2026-1"


def at(day: float) -> int:
    return START + int(day * DAY)


def span(came: int, fix: int | None, hosts: int, known: int = 0) -> Span:
    return Span((came,) * hosts, known, fix)


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
    item = standing(span(at(0), at(1), 10))
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
        20, standing(span(at(0), at(1), 10), span(at(5), at(1), 4), span(at(12), at(1), 2), span(at(0), None, 1))
    )
    (over,), (due,) = found.overdue, found.due
    assert (over.hosts, over.due, over.latest) == (14, at(15), at(19))
    assert (due.hosts, due.due) == (2, at(26))
    assert found.unbound == 1, "where nothing closes it yet, that clock does not run"


def test_several_policies_count_beside_each_other_and_their_rows_do_not() -> None:
    both = (policy("cyber-essentials"), policy("essential-eight"))
    signals = Signals(severity=9.8, kev_added=at(0), exposed=True)
    found = look(30, standing(span(at(0), at(0), 5), signals=signals), policies=both)
    assert {item.row: item.hosts for item in found.overdue} == {
        "UK Cyber Essentials, A6.4: high and critical": 5, "ASD Essential Eight: critical": 5,
    }  # fmt: skip
    nearest = deadlines(both, signals, Clocks(at(0), at(0), None, 0, 0), at(1))
    assert [item.due for item in nearest] == [at(2), at(14)]


def test_a_ring_without_a_policy_is_unbound() -> None:
    assert look(30, standing(span(at(0), at(0), 5), ring="db")).unbound == 5
    over = policy("cyber-essentials", valid_to=datetime.date(2026, 9, 22))
    assert look(30, standing(span(at(0), at(0), 5)), policies=(over,)).unbound == 5


def test_a_listing_shortens_the_deadline_and_a_forecast_tells() -> None:
    directive = (policy("cisa-bod-26-04"),)
    quiet = standing(span(at(0), None, 3), signals=Signals(exposed=False, total=True, automatable=False))
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


def bucket(seconds: int) -> str:
    """As a person would count: a day that has begun counts."""
    return next((name for most, name in BUCKETS if seconds <= most * DAY), OLDEST)


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
    for age, name in ages.items():
        found = look(14 + age, standing(span(at(0), at(0), 3)))
        assert {name for by in found.buckets.values() for name, hosts in by.items() if hosts} == {name}


times = st.integers(0, 100).map(at)
spans = st.builds(Span, st.lists(times, max_size=20).map(sorted), times, st.one_of(st.none(), times))
rows = st.builds(Row, st.sampled_from(["a", "b"]), st.one_of(st.none(), st.integers(1, 2000)), st.sampled_from(Clock))
signals_of_some = st.builds(Signals, kev_added=st.one_of(st.none(), times), kev_due=st.one_of(st.none(), times))


@given(st.lists(spans, max_size=5), st.lists(rows, min_size=1, max_size=4), signals_of_some, st.integers(0, 200),
       st.integers(0, 60), st.booleans())  # fmt: skip
def test_groups_come_to_what_host_by_host_comes_to(
    found: list[Span], of_policy: list[Row], signals: Signals, day: int, within: int, earlier: bool
) -> None:
    own = Policy("p", "web", "own", tuple(of_policy), Assumptions(earlier=earlier))
    item = standing(*found, signals=signals)
    answer = look(day, item, policies=(own,), within=within)
    late = soon = later = upgrade = unbound = 0
    ages = dict.fromkeys(BUCKET_NAMES, 0)
    dues = []
    for one in found:
        for came in one.comings:
            held = deadlines([own], signals, Clocks(max(came, one.known), one.fix_since, None, 0, 0), at(day))
            if not held:
                unbound += 1
            elif held[0].due is None:
                upgrade += 1
            else:
                dues.append(held[0].due)
                late += held[0].due < at(day)
                soon += at(day) <= held[0].due <= at(day + within)
                later += held[0].due > at(day + within)
                if held[0].due < at(day):
                    ages[bucket(at(day) - held[0].due)] += 1
    assert sum(due.hosts for due in answer.overdue) == late
    assert sum(due.hosts for due in answer.due) == soon
    assert (answer.later, answer.upgrade, answer.unbound) == (later, upgrade, unbound)
    assert {name: sum(by[name] for by in answer.buckets.values()) for name in BUCKET_NAMES} == ages
    assert all(due.due <= due.latest for due in (*answer.overdue, *answer.due))
    assert earliest(item, [own], at(day)) == (min(dues, default=None), late)
