"""Debian's own changelog, by the package client, against the map of CVEs that was made of it apart from this code."""

from __future__ import annotations

import csv
from pathlib import Path

from kmend.intel.feeds import read_changelog
from kmend.server.feeds import changelog

MAP = Path(__file__).parents[3] / "shared/data/debian-6.1-cve-fixes.csv"


def test_every_upload_closes_what_the_map_says() -> None:
    found = {release.version: {fix.cve for fix in release.fixes} for release in read_changelog(changelog().text)}
    expected: dict[str, set[str]] = {}
    with MAP.open() as stream:
        for row in csv.DictReader(stream):
            expected.setdefault(row["deb_version"], set()).add(row["cve"])
    # Debian edits old entries when a CVE is given later: what is there may have grown, and never shrinks.
    assert {version: expected[version] - found.get(version, set()) for version in expected if version in found} == {
        version: set() for version in expected if version in found
    }
    assert len(expected.keys() & found.keys()) > 40
    assert len(expected["6.1.192-1"]) == 1262
