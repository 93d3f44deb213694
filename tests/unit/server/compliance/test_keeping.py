"""What takes long is found out once for all who ask."""

from __future__ import annotations

import threading

import pytest

from kmend.server.compliance.keeping import LONGEST_SECONDS, MAX_KEPT, TIMES, Keeping


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.takes = 0.0
        self.found = 0

    def __call__(self) -> float:
        return self.now

    def find(self) -> int:
        self.now += self.takes
        self.found += 1
        return self.found


def test_what_is_quick_is_always_new() -> None:
    clock = Clock()
    clock.takes = 0.1
    keeping = Keeping(clock)
    assert [keeping.get("a", clock.find) for _ in range(3)] == [1, 2, 3]


def test_what_takes_long_is_kept_for_a_multiple_of_that() -> None:
    clock = Clock()
    clock.takes = 2.0
    keeping = Keeping(clock)
    assert keeping.get("a", clock.find) == 1
    clock.now += TIMES * 2.0 - 0.1
    assert keeping.get("a", clock.find) == 1
    assert keeping.get("b", clock.find) == 2, "another question"
    clock.now += 0.2
    assert keeping.get("a", clock.find) == 3
    clock.takes = 1e6
    assert keeping.get("c", clock.find) == 4
    clock.now += LONGEST_SECONDS
    assert keeping.get("c", clock.find) == 5


def test_only_so_many_are_kept() -> None:
    clock = Clock()
    clock.takes = 50.0
    keeping = Keeping(clock)
    for number in range(MAX_KEPT + 1):
        keeping.get(number, clock.find)
    before = clock.found
    keeping.get(MAX_KEPT, clock.find)
    assert clock.found == before
    keeping.get(0, clock.find)
    assert clock.found == before + 1


def test_who_asks_meanwhile_waits_and_takes_the_same() -> None:
    clock = Clock()
    clock.takes = 5.0
    keeping = Keeping(clock)
    begun, go = threading.Event(), threading.Event()

    def find() -> int:
        begun.set()
        assert go.wait(10)
        return clock.find()

    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(keeping.get("a", find))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert answers == [1, 1, 1, 1]


def test_an_error_keeps_nothing() -> None:
    clock = Clock()
    clock.takes = 5.0
    keeping = Keeping(clock)

    def fail() -> int:
        clock.find()
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        keeping.get("a", fail)
    assert keeping.get("a", clock.find) == 2
