"""The newest kernel that is installed, and the order of Debian's versions."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.agent.kernelpackages import is_newer, newest

RELEASES = {"6.1.0-50-cloud-amd64", "6.1.0-56-cloud-amd64"}


def entry(package: str, version: str, status: str = "install ok installed") -> list[str]:
    return [f"Package: {package}\n", f"Status: {status}\n", "Description: a kernel\n", f"Version: {version}\n", "\n"]


def test_the_highest_of_those_that_are_installed_and_can_be_started() -> None:
    lines = [
        *entry("linux-image-6.1.0-56-cloud-amd64", "6.1.190-1", "hold ok installed"),
        *entry("linux-image-6.1.0-50-cloud-amd64", "6.1.176-1"),
        *entry("linux-image-6.1.0-57-cloud-amd64", "6.1.195-1"),
        *entry("linux-image-6.1.0-56-cloud-amd64-dbg", "6.1.999-1"),
        *entry("linux-image-cloud-amd64", "6.1.999-1"),
        *entry("linux-headers-6.1.0-56-cloud-amd64", "6.1.999-1"),
    ]
    assert newest(lines, RELEASES) == "6.1.190-1"
    assert newest(lines, RELEASES - {"6.1.0-56-cloud-amd64"}) == "6.1.176-1"
    assert newest(lines, ()) == ""
    assert newest([], RELEASES) == ""


@pytest.mark.parametrize("status", ["deinstall ok config-files", "install ok half-configured", "installed", ""])
def test_what_is_not_all_there_does_not_count(status: str) -> None:
    assert newest(entry("linux-image-6.1.0-50-cloud-amd64", "6.1.176-1", status), RELEASES) == ""


def test_an_unsigned_one_counts_and_so_does_one_at_the_end_of_the_file() -> None:
    lines = entry("linux-image-unsigned-6.1.0-50-cloud-amd64", "6.1.176-1")[:-1]
    assert newest(lines, RELEASES) == "6.1.176-1"


@pytest.mark.parametrize("version", ["²:1", "x:1", ":", "-", "", "1" * 5000, "é", "99999999999999:1-"])
def test_an_odd_version_is_no_error(version: str) -> None:
    lines = [
        *entry("linux-image-6.1.0-50-cloud-amd64", "6.1.176-1"),
        *entry("linux-image-6.1.0-56-cloud-amd64", version),
    ]
    newest(lines, RELEASES)


ASCENDING = [
    "", "1.0~~", "1.0~rc1-1", "1.0~rc1-2", "1.0", "1.0-1~bpo12+1", "1.0-1", "1.0-1+b1", "1.0a", "1.0.1", "1.2", "1.10",
    "6.1.99-1", "6.1.176-1", "6.1.176-1+deb12u1", "6.12.3-1~bpo12+1", "6.12.3-1", "1:0.1",
]  # fmt: skip
"""As `dpkg --compare-versions` has them."""


def test_versions_are_in_debians_order() -> None:
    for older, newer in itertools.combinations(ASCENDING, 2):
        assert is_newer(newer, older), (newer, older)
        assert not is_newer(older, newer), (newer, older)
    assert not is_newer("1.0-0", "1.0")


@given(st.text("0123456789.~+-:a", max_size=12), st.text("0123456789.~+-:a", max_size=12))
def test_no_two_are_newer_than_each_other(one: str, other: str) -> None:
    assert not (is_newer(one, other) and is_newer(other, one))
