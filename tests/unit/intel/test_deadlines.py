"""Clocks and deadlines, driven through time."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.intel.clocks import Change, clocks
from kmend.intel.deadlines import DAY, Assumptions, Clock, Exploitation, Row, Signals, applying, of_directive
from kmend.intel.feeds import read_bod
from kmend.intel.frameworks import FRAMEWORKS
from kmend.intel.verdicts import CLOSED, Word

START = 1_790_000_000


def at(day: float) -> int:
    return START + int(day * DAY)


HISTORY = [
    Change(at(0), Word.NO_FIX_YET),
    Change(at(5), Word.AVAILABLE),
    Change(at(6), Word.PENDING),
    Change(at(6.1), Word.LIVE_PATCHED),
    Change(at(20), Word.AVAILABLE),
]


def test_a_reboot_reopens_with_the_original_clock() -> None:
    closed = clocks(HISTORY[:4], at(10))
    assert (closed.open_since, closed.fix_since, closed.closed_since, closed.reopened) == (at(0), at(5), at(6.1), 0)
    again = clocks(HISTORY, at(21))
    assert (again.open_since, again.fix_since, again.closed_since, again.reopened) == (at(0), at(5), None, 1)
    assert again.exposed == at(6.1) - at(0) + DAY


def test_nothing_is_open_before_it_was_published() -> None:
    found = clocks(HISTORY, at(4), published=at(3))
    assert found.open_since == at(3)
    assert clocks([], at(3)).open_since is None
    assert clocks([Change(at(0), Word.NOT_AFFECTED)], at(3)).exposed == 0


words = st.sampled_from(list(Word))


@given(
    st.lists(st.tuples(st.integers(0, 100), words), max_size=10, unique_by=lambda item: item[0]), st.integers(0, 100)
)
def test_what_stands_last_counts(history: list[tuple[int, Word]], more: int) -> None:
    changes = [Change(at(day), word) for day, word in history]
    found = clocks(changes, at(101 + more))
    if changes:
        last = max(changes, key=lambda change: change.at)
        assert (found.closed_since is not None) == (last.word in CLOSED)
    opened = [change.at for change in changes if change.word not in CLOSED]
    assert found.open_since == (min(opened) if opened else None)
    assert 0 <= found.exposed <= at(101 + more) - START


def test_a_breach_is_seen_before_it_comes() -> None:
    open_since = clocks([Change(at(0), Word.AVAILABLE)], at(13))
    (deadline,) = applying(FRAMEWORKS["cyber-essentials"].rows, Signals(severity=7.8), open_since, at(13))
    assert deadline.due == at(14)
    assert not deadline.overdue(open_since, at(13))
    assert deadline.overdue(open_since, at(14.1))
    mended = clocks([Change(at(0), Word.AVAILABLE), Change(at(13.5), Word.LIVE_PATCHED)], at(30))
    assert not deadline.overdue(mended, at(30))
    late = clocks([Change(at(0), Word.AVAILABLE), Change(at(15), Word.LIVE_PATCHED)], at(30))
    assert deadline.overdue(late, at(30))


def test_what_nobody_has_scored_counts_as_the_worst() -> None:
    open_since = clocks([Change(at(0), Word.AVAILABLE)], at(1))
    assert applying(FRAMEWORKS["pci-dss"].rows, Signals(severity=8.9), open_since, at(1)) == ()
    assert len(applying(FRAMEWORKS["pci-dss"].rows, Signals(severity=None), open_since, at(1))) == 1


def test_a_mitigation_stops_no_clock() -> None:
    found = clocks([Change(at(0), Word.AVAILABLE), Change(at(1), Word.MITIGATED)], at(40))
    (deadline,) = applying(FRAMEWORKS["cis"].rows, Signals(), found, at(40))
    assert deadline.overdue(found, at(40))


def test_a_listing_shortens_the_deadline(data: Path) -> None:
    table = read_bod((data / "cisa-bod-26-04.csv").read_text())
    found = clocks([Change(at(0), Word.NO_FIX_YET)], at(10))
    signals = Signals(automatable=False, total=True, exposed=False)
    before = of_directive(table, signals, found)
    assert before is not None
    assert before.due is None, "with the next upgrade of the system"
    listed = of_directive(table, replace(signals, kev_added=at(10)), found)
    assert listed is not None
    assert (listed.due, listed.forensic) == (at(24), False)
    exposed = of_directive(table, replace(signals, kev_added=at(10), exposed=None), found)
    assert exposed is not None
    assert (exposed.due, exposed.forensic) == (at(13), True)
    rows = (Row("KEV", 24, Clock.LISTING, exploited=True),)
    assert applying(rows, signals, found, at(10)) == ()
    assert applying(rows, replace(signals, kev_added=at(10)), found, at(10))[0].due == at(11)


def test_rows_hold_from_their_day_on() -> None:
    row = Row("new", 24, Clock.DISCLOSURE, valid_from=datetime.date(2026, 9, 27))
    found = clocks([Change(at(0), Word.AVAILABLE)], at(1))
    assert applying([row], Signals(), found, at(4)) == ()
    assert applying([row], Signals(), found, at(8))
    old = replace(row, valid_from=datetime.date.min, valid_to=row.valid_from)
    assert applying([old], Signals(), found, at(4))
    assert applying([old], Signals(), found, at(8)) == ()


@pytest.mark.parametrize("name", list(FRAMEWORKS))
def test_nothing_is_due_where_nothing_is_open(name: str) -> None:
    never = clocks([Change(at(0), Word.FIXED_BY_KERNEL)], at(100))
    assert applying(FRAMEWORKS[name].rows, Signals(kev_added=at(0)), never, at(100)) == ()


def names(framework: str, signals: Signals, day: float = 1) -> list[tuple[str, float | None]]:
    found = clocks([Change(at(0), Word.AVAILABLE)], at(day))
    deadlines = applying(FRAMEWORKS[framework].rows, signals, found, at(day))
    return [(item.name.partition(": ")[2] or item.name, None if item.due is None else (item.due - at(0)) / DAY)
            for item in deadlines]  # fmt: skip


def test_the_essential_eight_at_both_levels() -> None:
    inside, outside = Signals(severity=7.0, exposed=False), Signals(severity=7.0, exposed=True)
    assert names("essential-eight", inside) == [("ASD Essential Eight", 30)]
    assert names("essential-eight", outside) == [("reachable", 14), ("ASD Essential Eight", 30)]
    assert names("essential-eight", replace(outside, exposed=None)) == names("essential-eight", outside)
    poc = replace(inside, exploitation=Exploitation.POC)
    assert names("essential-eight", poc) == [("ASD Essential Eight", 30)]
    assert names("essential-eight-ml3", poc)[0] == ("exploited", 2)
    assert names("essential-eight", replace(poc, exposed=True))[0] == ("exploited", 2)
    assert names("essential-eight-ml3", replace(inside, severity=9.8))[0] == ("critical", 2)
    assert names("essential-eight-ml3", replace(inside, severity=None))[0] == ("ASD Essential Eight ML3", 30)


def test_cisas_due_date_is_its_whole_day() -> None:
    row = Row("due", 24, Clock.CISA_DUE, exploited=True)
    found = clocks([Change(at(0), Word.AVAILABLE)], at(1))
    (deadline,) = applying([row], Signals(kev_added=at(1), kev_due=at(15)), found, at(2))
    assert deadline.due == at(16)
    assert applying([row], Signals(kev_added=at(1)), found, at(2)) == ()


def test_what_nobody_knows_counts_as_the_policy_says() -> None:
    rows = (
        Row("total", 24, Clock.DISCLOSURE, total=True), Row("partial", 48, Clock.DISCLOSURE, total=False),
        Row("likely", 72, Clock.DISCLOSURE, likely=True), Row("not likely", 96, Clock.DISCLOSURE, likely=False),
        Row("automatable", 120, Clock.DISCLOSURE, automatable=True),
    )  # fmt: skip
    found = clocks([Change(at(0), Word.AVAILABLE)], at(1))

    def which(signals: Signals, **more: bool) -> set[str]:
        return {item.name for item in applying(rows, signals, found, at(1), Assumptions(**more))}

    assert which(Signals()) == {"total", "likely"}
    assert which(Signals(), total=False, automatable=True) == {"partial", "likely", "automatable"}
    assert which(Signals(total=False, automatable=False), total=True, automatable=True) == {"partial", "likely"}
    assert which(Signals(), likely=False) == {"total", "not likely"}
    for known in (Signals(kev_added=1), Signals(exploitation=Exploitation.ACTIVE), Signals(percentile=0.95)):
        assert "likely" in which(known, likely=False)


def test_a_listing_counts_from_when_both_are_true_or_from_the_earlier() -> None:
    rows = (Row("KEV", 24, Clock.LISTING, exploited=True),)
    found = clocks([Change(at(3), Word.AVAILABLE)], at(6))
    for listed in (1, 5):
        both = applying(rows, Signals(kev_added=at(listed)), found, at(6))
        earlier = applying(rows, Signals(kev_added=at(listed)), found, at(6), Assumptions(earlier=True))
        assert (both[0].due, earlier[0].due) == (at(max(listed, 3) + 1), at(min(listed, 3) + 1))
