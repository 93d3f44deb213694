"""Changelogs of several releases of the distro beside each other, and uploads that mend no CVE."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from tests.unit.intel.test_applicability import CHANGELOG
from tests.unit.server.conftest import NOW
from tests.unit.server.hosts.machines import BUILD_ID, Machine, enrolled, judge
from tests.unit.server.knowledge.test_bringing import HOUR, ways
from tests.unit.server.knowledge.test_knowledge import KERNEL, OLD, ONE, vulns

from kmend.core.errors import KmendError, MalformedError
from kmend.core.wire import RunningBuild
from kmend.intel.feeds import read_changelog
from kmend.intel.verdicts import Word
from kmend.server import knowledge
from kmend.server.knowledge import NotKnownError, bring, bring_file, bringing
from kmend.server.store import Store, tables

OTHER = "d" * 40
SIGNED = "\n -- A <a@example.org>  Sat, 21 Nov 2026 11:29:58 +0100\n\n"
PLAIN = "linux (6.1.8-2) bookworm; urgency=medium\n\n  * Rebuild with a fixed compiler.\n" + SIGNED
TWELVE = CHANGELOG.replace("linux (6.1.8-1)", PLAIN + "linux (6.1.8-1)")
THIRTEEN = (
    f"linux (6.12.60-1) trixie; urgency=medium\n\n  * net: mend it ({ONE})\n{SIGNED}"
    f"linux (6.12.57-1) trixie; urgency=medium\n\n  * other: mend it (CVE-2026-3050)\n{SIGNED}"
)


def build(store: Store, build_id: str, release: str, package: str) -> None:
    kernel = replace(KERNEL.kernel, build_id=build_id, release=release, ref=f"debian:{release}@{package}")
    knowledge.import_facts(store, replace(KERNEL, kernel=kernel), now=NOW)


def said(
    store: Store, host: Machine, cve: str, now: int = NOW
) -> tuple[Word, str, dict[str, tuple[str, int]], tuple[str, ...]]:
    with store.read() as connection:
        (found,) = knowledge.of_host(connection, host.id, now, cve)
    return found.verdict.word, found.verdict.detail, dict(found.feeds), found.stale


@pytest.fixture
def two(store: Store, tmp_path: Path) -> tuple[Store, Machine, Machine]:
    """A host on a package of Debian 12's that mends no CVE itself, and one on a backport of Debian 13's."""
    knowledge.import_cna(store, vulns(tmp_path / "v"), version="a", as_of=NOW, now=NOW)
    knowledge.import_changelog(store, read_changelog(TWELVE), as_of=NOW - 60, now=NOW)
    build(store, BUILD_ID, "6.1.0-8-amd64", "6.1.8-2")
    build(store, OTHER, "6.12.57+deb12-amd64", "6.12.57-1~bpo12+1")
    knowledge.judge_builds(store)
    one, other = enrolled(store, "web-1", "web-2")
    judge(store, one.check_in())
    running = RunningBuild(OTHER, "6.12.57+deb12-amd64", "#1 SMP Debian 6.12.57-1~bpo12+1", "x86_64")
    other.extra = {"kernel": running}
    judge(store, other.check_in())
    return store, one, other


def test_an_upload_that_mends_no_cve_has_what_was_mended_before_it(two: tuple[Store, Machine, Machine]) -> None:
    store, one, _ = two
    assert said(store, one, OLD)[:2] == (Word.FIXED_BY_KERNEL, "")
    assert said(store, one, ONE)[:2] == (Word.NEEDS_REBOOT, "6.1.9-1")


def test_what_one_changelog_names_says_nothing_of_another_release(two: tuple[Store, Machine, Machine]) -> None:
    store, one, other = two
    # 6.12 has the bug by the CNA's ranges; 6.1.9-1 is no package for it, and nobody has told what is.
    with store.write() as connection:
        connection.execute(tables.cves.update().values(pairs="6.0:" + "a" * 40 + ":6.1.9:" + "b" * 40))
    knowledge.judge_builds(store)
    assert said(store, other, ONE)[:2] == (Word.NO_FIX_YET, "")
    assert "debian" not in said(store, other, ONE)[2]
    assert said(store, other, ONE)[3] == ("debian",)
    imported = knowledge.import_changelog(store, read_changelog(THIRTEEN), as_of=NOW - 120, now=NOW)
    knowledge.judge_builds(store)
    assert imported.feed == "debian-6.12"
    assert said(store, other, ONE)[:2] == (Word.NEEDS_REBOOT, "6.12.60-1")
    assert said(store, other, ONE)[2]["debian"] == ("6.12.60-1", 120)
    assert said(store, other, "CVE-2026-3050")[0] is Word.FIXED_BY_KERNEL, "a backport has what it was made from"
    assert said(store, one, ONE)[1:3] == ("6.1.9-1", {"cna": ("a", 0), "debian": ("6.1.9-1", 60)})
    assert said(store, one, ONE)[3] == ()


def test_each_is_replaced_by_one_of_its_own_branch(two: tuple[Store, Machine, Machine]) -> None:
    store, one, other = two
    knowledge.import_changelog(store, read_changelog(THIRTEEN), as_of=NOW, now=NOW)
    newer = f"linux (6.1.10-1) bookworm; urgency=low\n\n  * Rebuild.\n{SIGNED}{TWELVE}"
    again = knowledge.import_changelog(store, read_changelog(newer), as_of=NOW, now=NOW)
    assert (again.feed, again.changed, again.moved) == ("debian", (), True)
    assert not knowledge.import_changelog(store, read_changelog(newer), as_of=NOW, now=NOW).moved
    knowledge.import_changelog(store, read_changelog(CHANGELOG), as_of=NOW, now=NOW)
    knowledge.judge_builds(store)
    assert said(store, other, ONE)[1] == "6.12.60-1"
    # 6.1.8-2 is not in it any more: what is certain is that 6.1.8-1 may have been left out.
    assert said(store, one, OLD)[0] is not Word.FIXED_BY_KERNEL
    knowledge.forget(store, "debian-6.12", NOW)
    assert said(store, other, ONE)[3] == ("debian",)
    with pytest.raises(NotKnownError, match=r"debian-6\.12"):
        knowledge.forget(store, "debian-6.12", NOW)


def test_the_next_import_takes_away_what_a_server_of_an_earlier_version_wrote(
    two: tuple[Store, Machine, Machine],
) -> None:
    store, _, _ = two
    with store.write() as connection:
        row = {"branch": "", "package": "6.1.9-1", "cve": ONE, "place": 2, "stable": ""}
        connection.execute(insert(tables.distro_fixes).values(row))
    knowledge.import_changelog(store, read_changelog(CHANGELOG), as_of=NOW, now=NOW)
    with store.read() as connection:
        branches = set(connection.execute(select(tables.distro_fixes.c.branch)).scalars())
    assert branches == {"6.1"}


def test_a_package_that_waits_for_a_restart_may_be_of_the_next_release(two: tuple[Store, Machine, Machine]) -> None:
    store, one, _ = two
    knowledge.import_changelog(store, read_changelog(THIRTEEN), as_of=NOW, now=NOW)
    for installed, detail in (
        ("6.12.57-1", "6.1.9-1"),
        ("6.12.60-1", "6.1.9-1, installed"),
        ("6.1.9-1", "6.1.9-1, installed"),
        ("6.6.1-1", "6.1.9-1"),
    ):
        with store.write() as connection:
            connection.execute(tables.hosts.update().where(tables.hosts.c.id == one.id).values(installed=installed))
        assert said(store, one, ONE)[1] == detail


def test_fetched_under_its_branch_and_no_other(sqlite: Store, tmp_path: Path) -> None:
    twelve, thirteen = tmp_path / "12.gz", tmp_path / "13.gz"
    twelve.write_bytes(gzip.compress(CHANGELOG.encode()))
    thirteen.write_bytes(gzip.compress(THIRTEEN.encode()))
    assert bring(sqlite, ways(tmp_path), "debian", str(twelve), NOW) is not None
    assert bring(sqlite, ways(tmp_path), "debian-6.12", str(thirteen), NOW) is not None
    with pytest.raises(KmendError, match=r"of 6\.1: it is not debian-6\.6"):
        bring(sqlite, ways(tmp_path), "debian-6.6", str(twelve), NOW)
    with sqlite.read() as connection:
        found, stale = knowledge.ages(connection, NOW + HOUR)
    assert ({name: version for name, (version, _) in found.items()}, stale) == (
        {"debian": "6.1.9-1", "debian-6.12": "6.12.60-1"}, ("cna",),
    )  # fmt: skip
    # The machine is of the next release now: its changelog stands under one name, and the one before is not kept fresh by it.
    assert bring(sqlite, ways(tmp_path), "debian", str(thirteen), NOW + HOUR, force=True) is not None
    with sqlite.read() as connection:
        assert set(connection.execute(select(tables.feeds.c.name)).scalars()) == {"debian"}
    # By hand a changelog finds its name by itself.
    assert bring_file(sqlite, "debian", twelve, NOW + HOUR).feed == "debian-6.1"
    with sqlite.read() as connection:
        assert set(connection.execute(select(tables.feeds.c.name)).scalars()) == {"debian", "debian-6.1"}


def test_forgetting_that_was_stopped_is_finished_by_the_next_import(
    two: tuple[Store, Machine, Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, one, _ = two
    assert said(store, one, OLD)[0] is Word.FIXED_BY_KERNEL

    def stop(_: Store) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bringing, "judge_builds", stop)
        with pytest.raises(KeyboardInterrupt):
            knowledge.forget(store, "debian", NOW)
    thirteen = tmp_path / "13"
    thirteen.write_text(THIRTEEN)
    assert bring(store, ways(tmp_path), "debian", str(thirteen), NOW) is not None
    with store.read() as connection:
        words = {item.verdict.cve: item.verdict.word for item in knowledge.of_host(connection, one.id, NOW)}
    assert words[OLD] is Word.UNKNOWN, "nobody says any more that this build has it mended"


def test_a_changelog_of_no_release(sqlite: Store) -> None:
    with pytest.raises(MalformedError, match="no release of Linux"):
        knowledge.import_changelog(
            sqlite, read_changelog(CHANGELOG.replace("6.1.9-1", "git2026-1")), as_of=NOW, now=NOW
        )
