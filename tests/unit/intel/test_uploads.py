"""Where packages stand among the uploads of changelogs."""

from __future__ import annotations

import pytest

from kmend.intel.uploads import branch_of, changelog_of, place_of

TWELVE = {"6.1.4-1": 1, "6.1.8-1": 2, "6.1.8-2": 3, "6.1.9-1": 4}
THIRTEEN = {"6.1.4-1": 1, "6.5.1-1~exp1": 2, "6.12.57-1": 3, "6.12.73-1": 4}
BOTH = {"6.1": TWELVE, "6.12": THIRTEEN}


@pytest.mark.parametrize(
    ("package", "branch"),
    [
        ("6.1.176-1", "6.1"),
        ("6.12.57-1~bpo12+1", "6.12"),
        ("1:6.1-2", "6.1"),
        ("2.6.32-48", "2.6.32"),
        ("6.1.0-50-cloud-amd64", "6.1"),
        ("7.1~rc4-1~exp1", "7.1"),
        ("git20260101", ""),
        ("", ""),
    ],
)
def test_branch(package: str, branch: str) -> None:
    assert branch_of(package) == branch


@pytest.mark.parametrize(
    ("package", "changelog"),
    [
        ("6.1.4-1", "6.1"),
        ("6.1.200-1", "6.1"),
        ("6.12.57-1~bpo12+1", "6.12"),
        ("6.5.1-1~exp1", "6.12"),
        ("6.6.1-1", ""),
        ("nonsense", ""),
    ],
)
def test_the_changelog_that_speaks_of_a_package(package: str, changelog: str) -> None:
    assert changelog_of(package, BOTH) == changelog
    assert changelog_of(package, {}) == ""


@pytest.mark.parametrize(
    ("package", "place"),
    [
        ("6.1.8-1", 2),
        ("6.1.8-2", 3),
        ("6.1.8-3", 1),  # it may have been made from 6.1.8-1 as well
        ("6.1.8-2~bpo11+1", 3),
        ("6.1.9-1+local1", 3),
        ("6.1.10-1", 4),
        ("6.1.3-1", 0),
        ("6.12.1-1", 0),
        ("nonsense", 0),
    ],
)
def test_place(package: str, place: int) -> None:
    assert place_of(package, TWELVE) == place


def test_a_stable_update_of_another_branch_is_not_before_it() -> None:
    assert place_of("6.12.60-1", THIRTEEN) == 3
    assert place_of("6.12.1-1", THIRTEEN) == 0
