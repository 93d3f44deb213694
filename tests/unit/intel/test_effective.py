"""The effective version says no more than is true."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.intel.effective import effective
from kmend.intel.versions import KernelVersion

RUNNING = KernelVersion((6, 1), 176)


@pytest.mark.parametrize(
    ("opened", "patched", "expected"),
    [
        ([], [], "6.1.176"),
        ([177], [], "6.1.176"),
        ([], [177, 180], "6.1.180"),
        ([179], [177, 178], "6.1.178"),
        ([179], [177, 178, 183], "6.1.178+partial"),
        ([177], [183], "6.1.176+partial"),
        ([170], [177], "6.1.176+partial"),  # the distro took a fix back
        ([170], [], "6.1.176"),
        ([], [199], "6.1.176+partial"),
        ([195], [193], "6.1.176+partial"),
    ],
)
def test_as_far_as_it_is_true(opened: list[int], patched: list[int], expected: str) -> None:
    assert str(effective(RUNNING, opened, patched, 192)) == expected


updates = st.lists(st.integers(170, 200), max_size=6)


@given(updates, updates)
def test_nothing_that_stands_open_is_passed(opened: list[int], patched: list[int]) -> None:
    found = effective(RUNNING, opened, patched, 192)
    assert RUNNING.update <= found.release.update <= 192
    assert found.release == RUNNING or not [update for update in opened if update <= found.release.update]
    assert found.partial == any(update > found.release.update for update in patched if update > RUNNING.update)
