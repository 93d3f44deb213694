"""The changes of verdicts over a host's history, as pure data."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from kmend.intel.applicability import Applicability, Presence, Reason
from kmend.intel.timeline import Answer, History, LevelStory, Period, Story
from kmend.intel.verdicts import HostKernel, Level, Word, verdict

HAS = Applicability("CVE", True, Reason.PRESENT, Presence.BUILT_IN)
NOT = Applicability("CVE", False, Reason.RELEASE, Presence.UNKNOWN)
LEVEL = LevelStory(1, 10, {"one": 20})
OPEN = Story((Answer(None, HAS),), (1,))


def period(at: int, level: int = 0, build: str = "a") -> Period:
    return Period(at, build, "one", HostKernel(level), level)


def test_what_happens_meanwhile_counts_from_when_it_happened() -> None:
    found = History([period(5), period(30, 1), period(40)], {"a": [LEVEL]}, 50).changes({"a": OPEN})
    assert [(item.at, item.word) for item in found] == [
        (5, Word.NO_FIX_YET), (10, Word.WITHHELD), (20, Word.AVAILABLE), (30, Word.LIVE_PATCHED), (40, Word.AVAILABLE),
    ]  # fmt: skip


def test_another_kernel_in_between() -> None:
    history = History([period(5), period(7, build="b"), period(9)], {}, 50)
    assert set(history.builds) == {"a", "b"}
    found = history.changes({"a": Story((Answer(None, HAS),)), "b": Story((Answer(None, NOT),))})
    assert [(item.at, item.word) for item in found] == [
        (5, Word.NO_FIX_YET), (7, Word.NOT_AFFECTED), (9, Word.NO_FIX_YET),
    ]  # fmt: skip


def test_nothing_is_said_after_the_end() -> None:
    gone = Period(30, "a", "one", HostKernel(), gone=True)
    history = History([period(5), gone], {"a": [LEVEL]}, 50)
    found = history.clocks({"a": OPEN})
    assert (history.end, found.exposed, found.since, found.fix_since) == (30, 25, 20, 10)
    assert History([], {}, 50).changes({}) == ()


def test_what_was_closed_before_it_was_published_never_was_open() -> None:
    history = History([period(5), period(30, 1)], {"a": [LEVEL]}, 50)
    assert history.clocks({"a": OPEN}, published=40).open_since is None
    assert history.clocks({"a": OPEN}, published=29).open_since == 29


spans = st.lists(
    st.tuples(st.integers(0, 90), st.integers(0, 3)), min_size=1, max_size=8, unique_by=lambda item: item[0]
)
answered = st.lists(st.integers(1, 95), max_size=4, unique=True).map(sorted)


@given(spans, answered, st.lists(st.tuples(st.integers(0, 95), st.integers(0, 95)), min_size=3, max_size=3))
def test_each_moment_is_as_the_rules_say(
    stood: list[tuple[int, int]], replaced: list[int], told: list[tuple[int, int]]
) -> None:
    stories = [LevelStory(number, at, {"one": free}) for number, (at, free) in enumerate(told, start=1)]
    answers = tuple(Answer(until, (HAS, NOT)[place % 2]) for place, until in enumerate((*replaced, None)))
    story = Story(answers, (1, 2, 3), "6.1.9-1", 50)
    found = History([period(at, level) for at, level in stood], {"a": stories}, 99).changes({"a": story})
    assert all((one.word, one.detail) != (two.word, two.detail) for one, two in itertools.pairwise(found))
    for moment in range(min(at for at, _ in stood), 100):
        level = max(item for item in stood if item[0] <= moment)[1]
        free = max([level, *(item.level for item in stories if item.freed["one"] <= moment)])
        there = [item.level for item in stories if item.published <= moment or item.level == level]
        levels = [
            Level(number, frozenset({"CVE"}), withheld=() if number <= free else ("rollout",)) for number in there
        ]
        answer = next(item for item in answers if item.until is None or item.until > moment)
        wanted = verdict(answer.found, HostKernel(level), levels, fixed_in="6.1.9-1" if moment >= 50 else "")
        held = [change for change in found if change.at <= moment][-1]
        assert (held.word, held.detail) == (wanted.word, wanted.detail)
