"""Debian's own changelog, by the package client, against the map of CVEs that was made of it apart from this code."""

from __future__ import annotations

import csv
from pathlib import Path

from kmend.intel import KernelVersion, is_vulnerable
from kmend.intel.feeds import read_archive, read_changelog
from kmend.intel.outlook import fixed_until, named_after, named_again
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


def test_two_sources_agree_on_three_kernels() -> None:
    """The CNA's ranges against Debian's changelog, every CVE that both know; each disagreement is explained."""
    records = read_archive(MAP.parent / "vulns-2026-08-21.tar.xz").records
    releases = read_changelog(changelog().text)
    known = {release.version for release in releases}
    places = {(fix.cve, release.version): fix.stable for release in releases for fix in release.fixes}
    compared = 0
    for package in ("6.1.170-3", "6.1.176-1", "6.1.187-1"):
        assert package in known
        running = KernelVersion.of_package(package)
        again = named_again(releases, package)
        for cve in sorted(fixed_until(releases, package) & records.keys()):
            compared += 1
            if not is_vulnerable(records[cve].pairs, running) or cve in again:
                continue
            # Mended by Debian's own patch before upstream, or by a stable update that this state of the CNA's tree has not noted.
            mended = [place for (name, version), place in places.items() if name == cve and version in known]
            branch = {
                pair.fixed.update for pair in records[cve].pairs if pair.fixed and pair.fixed.branch == running.branch
            }
            assert "" in mended or not branch or min(branch) > running.update, cve
        for cve in named_after(releases, package):
            if cve not in records:
                continue
            compared += 1
            if not is_vulnerable(records[cve].pairs, running):
                # It came with a later update, and went with one; or the CNA knows no pair of this branch at all.
                later = [
                    pair for pair in records[cve].pairs if pair.introduced and pair.introduced.branch == running.branch
                ]
                never = all(pair.introduced and not pair.introduced.is_in(running) for pair in records[cve].pairs)
                assert never or all(pair.introduced.update > running.update for pair in later if pair.introduced), cve
    assert compared > 5000
