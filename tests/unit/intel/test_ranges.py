"""Which releases have a bug: by branch, never by number alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.core.errors import MalformedError
from kmend.intel.ranges import Pair, fixed_in, is_vulnerable, read_dyad
from kmend.intel.versions import KernelVersion

parse = KernelVersion.parse
COMMIT = "a" * 40
STABLE = f"""# dyad version: 1.2.0
6.1.141:{COMMIT}:6.1.183:{COMMIT}
6.6.93:{COMMIT}:6.6.144:{COMMIT}
6.9:{COMMIT}:6.12.95:{COMMIT}
6.9:{COMMIT}:7.1:{COMMIT}
"""
"""The shape of CVE-2026-53361: a stable update brought the bug into older branches."""


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("5.15.200", False),
        ("6.1", False),
        ("6.1.140", False),
        ("6.1.141", True),
        ("6.1.182", True),
        ("6.1.183", False),
        ("6.6.92", False),
        ("6.6.93", True),
        ("6.8.12", False),
        ("6.9", True),
        ("6.9.12", True),
        ("6.12.94", True),
        ("6.12.95", False),
        ("6.15", True),
        ("7.0.9", True),
        ("7.1", False),
        ("7.2.3", False),
    ],
)
def test_a_bug_that_stable_updates_brought(release: str, expected: bool) -> None:
    assert is_vulnerable(read_dyad(STABLE), parse(release)) is expected


def test_where_it_came_from_is_not_known() -> None:
    pairs = read_dyad(f"0:0:6.1.5:{COMMIT}\n0:0:6.3:{COMMIT}")
    assert [is_vulnerable(pairs, parse(text)) for text in ("2.6.32.9", "6.1.4", "6.1.5", "6.2.9", "6.3")] == [
        True, True, False, True, False,
    ]  # fmt: skip


def test_not_mended_anywhere() -> None:
    pairs = read_dyad(f"5.4:{COMMIT}:0:0")
    assert is_vulnerable(pairs, parse("7.1.2"))
    assert not is_vulnerable(pairs, parse("5.3.18"))
    assert fixed_in(pairs, (6, 1)) is None


def test_which_update_mends_it() -> None:
    assert fixed_in(read_dyad(STABLE), (6, 1)) == parse("6.1.183")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "6.1:abc:6.2:def",
        f"6.1:{COMMIT}",
        f"6.x:{COMMIT}:0:0",
        f"{STABLE}junk\n",
        f"6.1:{COMMIT}:6.2:{COMMIT}:x",
    ],
)
def test_what_is_broken_is_refused_as_a_whole(text: str) -> None:
    with pytest.raises(MalformedError):
        read_dyad(text)


@pytest.mark.parametrize(
    ("text", "branch", "update"),
    [
        ("6.1", (6, 1), 0),
        ("6.1.176", (6, 1), 176),
        ("2.6.32", (2, 6, 32), 0),
        ("2.6.32.9", (2, 6, 32), 9),
        ("5.0", (5, 0), 0),
    ],
)
def test_releases(text: str, branch: tuple[int, ...], update: int) -> None:
    assert parse(text) == KernelVersion(branch, update)
    assert str(parse(text)) == text


@pytest.mark.parametrize("text", ["6", "6.1.2.3", "2.6", "6.1-rc1", "", "v6.1", "6.1.", "6.1.99999999"])
def test_what_is_no_release(text: str) -> None:
    with pytest.raises(MalformedError):
        parse(text)


@pytest.mark.parametrize(
    ("package", "release"),
    [("6.1.176-1", "6.1.176"), ("6.12.48-1+deb13u1", "6.12.48"), ("6.1.187-1~bpo11+1", "6.1.187"), ("6.9-1", "6.9")],
)  # fmt: skip
def test_the_release_of_a_package(package: str, release: str) -> None:
    assert KernelVersion.of_package(package) == parse(release)


versions = st.builds(
    KernelVersion, st.sampled_from([(5, 15), (6, 1), (6, 6), (6, 9), (6, 12), (7, 0), (7, 1)]), st.integers(0, 5)
)


@given(versions, versions, versions)
def test_being_in_the_past_is_an_order(one: KernelVersion, two: KernelVersion, three: KernelVersion) -> None:
    assert one.is_in(one)
    if one.is_in(two) and two.is_in(three):
        assert one.is_in(three)
    if one.is_in(two) and two.is_in(one):
        assert one == two


@given(
    st.lists(st.tuples(st.none() | versions, st.none() | versions), min_size=1, max_size=6), versions, st.integers(1, 5)
)
def test_a_later_update_of_a_branch_never_has_it_again(
    found: list[tuple[KernelVersion | None, KernelVersion | None]], release: KernelVersion, more: int
) -> None:
    """Once a pair of this branch, or of its mainline past, has mended it, it stays mended, unless a later update brings it in."""
    pairs = [Pair(introduced, "", fixed, "") for introduced, fixed in found]
    later = KernelVersion(release.branch, release.update + more)
    entered = [pair for pair in pairs if pair.introduced is None or pair.introduced.is_in(release)]
    entered_later = [pair for pair in pairs if pair.introduced is None or pair.introduced.is_in(later)]
    if entered and len(entered_later) == len(entered) and not is_vulnerable(pairs, release):
        assert not is_vulnerable(pairs, later)


def test_a_fix_that_is_older_than_the_bug_mends_another_one() -> None:
    """The shape of CVE-2025-38585: 6.1 has the second bug, and nothing that mends it."""
    pairs = read_dyad(f"4.12:{COMMIT}:4.18:{COMMIT}\n5.8:{COMMIT}:6.12.42:{COMMIT}\n5.8:{COMMIT}:6.17:{COMMIT}")
    told = {text: is_vulnerable(pairs, parse(text)) for text in ("4.11", "4.12", "4.18", "5.7", "6.1.176", "6.12.41")}
    assert told == {"4.11": False, "4.12": True, "4.18": False, "5.7": False, "6.1.176": True, "6.12.41": True}
    assert not any(is_vulnerable(pairs, parse(text)) for text in ("6.12.42", "6.17", "7.1"))


def test_a_bug_that_came_back_in_a_stable_update() -> None:
    pairs = read_dyad(f"5.4:{COMMIT}:6.1.10:{COMMIT}\n6.1.20:{COMMIT}:6.1.30:{COMMIT}")
    told = [is_vulnerable(pairs, parse(f"6.1.{update}")) for update in (9, 10, 19, 20, 29, 30)]
    assert told == [True, False, False, True, True, False]
