"""When hosts look at the repository: spread evenly, on time, and not all together after a failure."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from kmend.agent import schedule

draws = st.floats(0, 1, exclude_max=True)
intervals = st.integers(60, 86_400)


def test_hosts_are_spread_evenly() -> None:
    hosts, interval = 30_000, 900
    slots = Counter(schedule.slot(f"{number:032x}", interval) for number in range(hosts))
    mean = hosts / interval
    assert len(slots) == interval
    # A Poisson variable of mean 33 exceeds 75 less than once in 1e9 draws.
    assert max(slots.values()) < 75
    chi = sum((slots[second] - mean) ** 2 / mean for second in range(interval))
    assert 700 < chi < 1100  # 899 degrees of freedom: mean 899, deviation 42


@given(st.integers(0, 2**40), intervals, st.text(max_size=40))
def test_the_next_time_is_this_hosts_own(now: int, interval: int, identity: str) -> None:
    own = schedule.slot(identity, interval)
    wait = schedule.until_slot(now, interval, own)
    assert 1 <= wait <= interval
    assert (now + wait) % interval == own


@given(st.integers(1, 2**40), st.integers(0, 2**40), intervals, draws)
def test_a_service_that_starts_looks_at_once_or_soon_unless_it_has_just_looked(
    now: int, last: int, interval: int, draw: float
) -> None:
    wait = schedule.until_first(now, last, interval, 5, draw)
    if last == 0:
        assert wait == 0
    elif last <= now < last + interval:
        assert wait == schedule.until_slot(now, interval, 5)
    else:
        assert 0 <= wait <= schedule.START_SECONDS


@given(st.integers(1, 10_000), intervals, draws, st.none() | st.floats(0, 1e9))
def test_failures_are_retried_within_limits(
    failures: int, interval: int, draw: float, retry_after: float | None
) -> None:
    wait = schedule.after_failure(failures, interval, draw, retry_after)
    most = max(interval, schedule.MAX_RETRY_SECONDS, schedule.FIRST_RETRY_SECONDS)
    asked = min(retry_after or 0, schedule.MAX_ATTEMPT_SECONDS)
    assert max(1, asked) <= wait <= most + asked
    if failures == 1:
        assert wait <= schedule.FIRST_RETRY_SECONDS + asked


@given(st.integers(1, 10_000), intervals)
def test_a_level_that_fails_is_tried_less_and_less_often(attempts: int, interval: int) -> None:
    wait = schedule.before_attempt(attempts, interval)
    assert min(interval, schedule.MAX_ATTEMPT_SECONDS) <= wait <= schedule.MAX_ATTEMPT_SECONDS
    assert wait <= schedule.before_attempt(attempts + 1, interval)
