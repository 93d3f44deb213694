"""Verdicts over time: hosts check in, feeds come in, levels come and go; on both databases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select, update
from tests.unit.intel.test_applicability import COMMIT
from tests.unit.intel.test_feeds import record
from tests.unit.server.conftest import NOW
from tests.unit.server.hosts.machines import BUILD_ID, Machine, enrolled, judge
from tests.unit.server.knowledge.test_knowledge import KERNEL, OLD, ONE, THREE, TWO, published, vulns

from kmend.core.wire import Failure, HeldLevel, RunningBuild
from kmend.intel.clocks import Clocks
from kmend.intel.feeds import read_changelog
from kmend.intel.verdicts import Word
from kmend.server import knowledge
from kmend.server.hosts import rings, upkeep
from kmend.server.knowledge import NotKnownError
from kmend.server.store import Store, tables

DAY = 86_400
CHANGELOG = """linux (6.1.9-1) bookworm-security; urgency=high

  * net: mend it (CVE-2026-3001)
  * drm: mend it (CVE-2026-3002)
  * fs: mend it (CVE-2026-3003)

 -- A <a@example.org>  Sun, 20 Sep 2026 12:00:00 +0000

linux (6.1.8-1) bookworm; urgency=medium

  * old: mend it (CVE-2026-3009)

 -- A <a@example.org>  Sat, 01 Aug 2026 12:00:00 +0000
"""


def at(day: float) -> int:
    return NOW + int(day * DAY)


@pytest.fixture
def informed(store: Store, tmp_path: Path) -> Store:
    """The CNA's tree and a kernel's facts are there; the distro has mended nothing yet."""
    knowledge.import_cna(store, vulns(tmp_path / "v"), version="a", as_of=NOW, now=NOW)
    knowledge.import_facts(store, KERNEL, now=NOW)
    knowledge.judge_builds(store)
    return store


def says(store: Store, host: Machine, day: float, **now: object) -> None:
    """The host is so from then on, and checks in."""
    for name, value in now.items():
        setattr(host, name, value)
    received = host.check_in()
    (answer,) = judge(store, received, now=at(day))
    host.take(answer, received)


def told(store: Store, host: Machine, cve: str = ONE, day: float = 100) -> list[tuple[int, Word]]:
    with store.read() as connection:
        found = knowledge.changes_of(connection, host.id, cve, at(day))
    return [(change.at, change.word) for change in found]


def clock(store: Store, host: Machine, cve: str = ONE, day: float = 100) -> Clocks:
    with store.read() as connection:
        return knowledge.clocks_of_host(connection, host.id, at(day))[cve]


def level(store: Store, number: int, *names: str, day: float, free: bool = True) -> None:
    """A level is published, and let go at once."""
    published(store, number, *names, free=free)
    with store.write() as connection:
        here = tables.levels.c.level == number
        connection.execute(update(tables.levels).where(here).values(published=at(day), imported_at=at(day)))
        if free:
            connection.execute(
                update(tables.ring_levels).where(tables.ring_levels.c.level == number).values(since=at(day))
            )


def test_a_reboot_reopens_with_the_original_clock(informed: Store) -> None:
    (host,) = enrolled(informed, "web-1")
    says(informed, host, 1)
    level(informed, 1, ONE, day=2)
    says(informed, host, 3, level=1, phase="steady")
    assert told(informed, host) == [(at(1), Word.NO_FIX_YET), (at(2), Word.AVAILABLE), (at(3), Word.LIVE_PATCHED)]
    closed = clock(informed, host, day=5)
    assert closed == Clocks(at(1), at(2), at(3), 2 * DAY, 0, at(3))
    says(informed, host, 10, level=0, phase="idle", boot=2)
    assert told(informed, host)[-1] == (at(10), Word.AVAILABLE)
    assert clock(informed, host, day=12) == Clocks(at(1), at(2), None, 4 * DAY, 1, at(10))
    says(informed, host, 13, level=1, phase="steady")
    assert told(informed, host)[-1] == (at(13), Word.LIVE_PATCHED)
    assert clock(informed, host, day=50) == Clocks(at(1), at(2), at(13), 5 * DAY, 1, at(13))


def test_a_transition_counts_when_it_is_over(informed: Store) -> None:
    (host,) = enrolled(informed, "web-1")
    says(informed, host, 1)
    level(informed, 1, ONE, day=1)
    trying = HeldLevel(1, "kmend_1_00000000", "0" * 64, "transitioning")
    says(informed, host, 2, phase="transitioning", extra={"trying": trying})
    says(informed, host, 3, phase="soaking", level=1, extra={"trying": replace(trying, state="soaking")})
    assert told(informed, host) == [(at(1), Word.AVAILABLE), (at(2), Word.PENDING), (at(3), Word.LIVE_PATCHED)]


def test_quarantine_and_recall_leave_it_open_and_the_clock_running(informed: Store) -> None:
    (host,) = enrolled(informed, "web-1")
    says(informed, host, 1)
    level(informed, 1, ONE, day=2)
    says(informed, host, 3, level=1, phase="steady")
    failure = Failure(1, "kmend_1_00000000", "oopsed", "as told", at(4))
    says(informed, host, 4, level=0, phase="quarantined", extra={"failures": (failure,)})
    with informed.write() as connection:
        values = {"extent": "stop", "reason": "bad", "fix": f"{1:064x}", "build_id": "", "level": 0}
        connection.execute(insert(tables.recalls).values(number=1, at=at(6), withdrawn_at=at(8), **values))
    assert told(informed, host)[2:] == [
        (at(3), Word.LIVE_PATCHED), (at(4), Word.WITHHELD), (at(6), Word.BLOCKED), (at(8), Word.WITHHELD),
    ]  # fmt: skip
    assert clock(informed, host, day=9) == Clocks(at(1), at(2), None, 2 * DAY + 5 * DAY, 1, at(8))


def test_what_a_ring_was_given_and_when(informed: Store) -> None:
    with informed.write() as connection:
        rings.put(connection, "late", position=200, description="", actor="token:1", now=NOW)
    (host,) = enrolled(informed, "web-1")
    says(informed, host, 1)
    level(informed, 1, ONE, day=2, free=False)
    with informed.write() as connection:
        given = {"build_id": BUILD_ID, "level": 1}
        connection.execute(
            insert(tables.ring_releases),
            [{"ring": "default", "since": at(4), **given}, {"ring": "late", "since": at(20), **given}],
        )
        connection.execute(insert(tables.ring_levels).values(ring="default", since=at(4), **given))
        connection.execute(insert(tables.ring_levels).values(ring="late", since=at(20), **given))
    with informed.write() as connection:
        upkeep.move(connection, host.id, "late", actor="token:1", now=at(6))
    assert told(informed, host) == [
        (at(1), Word.NO_FIX_YET), (at(2), Word.WITHHELD), (at(4), Word.AVAILABLE), (at(6), Word.WITHHELD),
        (at(20), Word.AVAILABLE),
    ]  # fmt: skip


def test_a_rejected_cve_closes(informed: Store, tmp_path: Path) -> None:
    (host,) = enrolled(informed, "web-1")
    says(informed, host, 1)
    tree = vulns(tmp_path / "x")
    records = {cve: item for cve, item in tree.records.items() if cve != ONE}
    gone = replace(tree, records=records, rejected=frozenset({ONE}))
    knowledge.import_cna(informed, gone, version="b", as_of=at(5), now=at(5))
    knowledge.judge_builds(informed)
    assert told(informed, host) == [(at(1), Word.NO_FIX_YET), (at(5), Word.NOT_AFFECTED)]
    assert clock(informed, host) == Clocks(at(1), None, at(5), 4 * DAY, 0, at(5))
    # They come back, too; the clock goes on where it was.
    knowledge.import_cna(informed, tree, version="c", as_of=at(7), now=at(7))
    knowledge.judge_builds(informed)
    assert clock(informed, host, day=8) == Clocks(at(1), None, None, 5 * DAY, 1, at(7))


def test_ranges_that_change(informed: Store, tmp_path: Path) -> None:
    (host,) = enrolled(informed, "web-1")
    says(informed, host, 1)
    mended = vulns(tmp_path / "w", **{f"{ONE}.dyad": f"6.0:{COMMIT}:6.1.7:{COMMIT}\n".encode()})
    knowledge.import_cna(informed, mended, version="b", as_of=at(3), now=at(3))
    knowledge.judge_builds(informed, only={ONE})
    knowledge.judge_builds(informed)
    assert told(informed, host) == [(at(1), Word.NO_FIX_YET), (at(3), Word.NOT_AFFECTED)]
    knowledge.import_cna(informed, vulns(tmp_path / "v"), version="c", as_of=at(9), now=at(9))
    knowledge.judge_builds(informed)
    assert told(informed, host)[2:] == [(at(9), Word.NO_FIX_YET)]
    with informed.read() as connection:
        assert knowledge.timelines_of_host(connection, host.id, at(10))[ONE].changes == knowledge.changes_of(
            connection, host.id, ONE, at(10)
        )


def test_a_release_that_turns_out_to_have_it_has_it_from_then_on(informed: Store, tmp_path: Path) -> None:
    """That nothing is kept of a CVE is an answer, too, once it has been judged."""
    (host,) = enrolled(informed, "web-1")
    says(informed, host, 1)
    four = "CVE-2026-3004"
    late = {f"{four}.json": record(four), f"{four}.dyad": f"6.1.9:{COMMIT}:0:0\n".encode()}
    knowledge.import_cna(informed, vulns(tmp_path / "x", **late), version="b", as_of=at(2), now=at(2))
    knowledge.judge_builds(informed)
    assert told(informed, host, four) == [(at(1), Word.NOT_AFFECTED)]
    late[f"{four}.dyad"] = f"6.0:{COMMIT}:0:0\n".encode()
    knowledge.import_cna(informed, vulns(tmp_path / "y", **late), version="c", as_of=at(6), now=at(6))
    knowledge.judge_builds(informed)
    assert told(informed, host, four) == [(at(1), Word.NOT_AFFECTED), (at(6), Word.NO_FIX_YET)]
    assert clock(informed, host, four, day=7).open_since == at(6)


def test_a_cve_that_comes_later_is_open_since_it_was_published(informed: Store, tmp_path: Path) -> None:
    (host,) = enrolled(informed, "web-1")
    says(informed, host, 1)
    names = {"CVE-2026-3005": None, "CVE-2026-3006": "2026-09-25T14:13:20.000Z"}
    new = {f"{cve}.json": record(cve) for cve in names} | {
        f"{cve}.dyad": f"6.0:{COMMIT}:0:0\n".encode() for cve in names
    }
    new["CVE-2026-3006.json"] = new["CVE-2026-3006.json"].replace(
        b'"cveMetadata": {', b'"cveMetadata": {"datePublished": "2026-09-25T14:13:20.000Z", '
    )
    knowledge.import_cna(informed, vulns(tmp_path / "x", **new), version="b", as_of=at(6), now=at(6))
    knowledge.judge_builds(informed)
    assert clock(informed, host, "CVE-2026-3005").open_since == at(6)
    assert clock(informed, host, "CVE-2026-3006").open_since == at(4)
    # A tree that does not say it takes nothing back, and changes nothing.
    again = knowledge.import_cna(informed, vulns(tmp_path / "x", **new), version="c", as_of=at(8), now=at(8))
    assert again.changed == ()


def test_a_package_that_mends_it(informed: Store) -> None:
    (host,) = enrolled(informed, "web-1")
    says(informed, host, 1)
    uploaded = CHANGELOG.replace("20 Sep 2026 12:00:00", "26 Sep 2026 14:13:20")
    knowledge.import_changelog(informed, read_changelog(uploaded), as_of=at(8), now=at(8))
    knowledge.judge_builds(informed)
    assert told(informed, host) == [(at(1), Word.NO_FIX_YET), (at(5), Word.NEEDS_REBOOT)]
    # An upload more does not make the first one newer.
    more = uploaded.replace("linux (6.1.9-1)", "linux (6.1.10-1) bookworm; urgency=low\n\n  * x: mend (CVE-2026-3077)\n\n"
                            " -- A <a@example.org>  Wed, 30 Sep 2026 12:00:00 +0000\n\nlinux (6.1.9-1)", 1)  # fmt: skip
    knowledge.import_changelog(informed, read_changelog(more), as_of=at(9), now=at(9))
    with informed.read() as connection:
        fixes = tables.distro_fixes.c
        rows = connection.execute(select(fixes.cve, fixes.seen_at)).all()
    assert {row.cve: row.seen_at for row in rows} == {
        ONE: at(8), TWO: at(8), THREE: at(8), OLD: at(8), "CVE-2026-3077": at(9),
    }  # fmt: skip
    knowledge.judge_builds(informed)
    newer = replace(KERNEL.kernel, build_id="d" * 40, ref="debian:6.1.0-10-amd64@6.1.9-1")
    knowledge.import_facts(informed, replace(KERNEL, kernel=newer), now=at(9))
    knowledge.judge_builds(informed)
    running = RunningBuild("d" * 40, "6.1.0-10-amd64", "#1 SMP Debian 6.1.9-1", "x86_64")
    says(informed, host, 11, boot=2, extra={"kernel": running})
    assert told(informed, host)[-1] == (at(11), Word.FIXED_BY_KERNEL)
    assert clock(informed, host) == Clocks(at(1), at(5), at(11), 10 * DAY, 0, at(11))
    says(informed, host, 12, boot=3, extra={})
    assert clock(informed, host, day=14) == Clocks(at(1), at(5), None, 12 * DAY, 1, at(12)), "the old kernel again"


def test_the_present_verdict_is_the_last_change_of_all(informed: Store) -> None:
    (host,) = enrolled(informed, "web-1")
    knowledge.import_changelog(informed, read_changelog(CHANGELOG), as_of=NOW, now=NOW)
    knowledge.judge_builds(informed)
    says(informed, host, 1)
    level(informed, 1, ONE, "CVE-2026-3077", day=2)
    says(informed, host, 3, level=1, phase="steady")
    level(informed, 2, ONE, THREE, day=4, free=False)
    with informed.read() as connection:
        present = {
            item.verdict.cve: (item.verdict.word, item.verdict.detail)
            for item in knowledge.of_host(connection, host.id, at(9))
        }
        before = knowledge.timelines_of_host(connection, host.id, at(9))
        last = {cve: (item.changes[-1].word, item.changes[-1].detail) for cve, item in before.items()}
        for cve in (*before, "CVE-2026-3077"):
            changes = knowledge.changes_of(connection, host.id, cve, at(9))
            (now,) = knowledge.of_host(connection, host.id, at(9), cve)
            assert (changes[-1].word, changes[-1].detail) == (now.verdict.word, now.verdict.detail)
    assert last == present
    assert set(last) == {ONE, TWO, THREE, OLD}


def test_one_that_is_taken_out_is_exposed_no_longer(informed: Store) -> None:
    (host,) = enrolled(informed, "web-1")
    says(informed, host, 1)
    with informed.write() as connection:
        upkeep.decommission(connection, host.id, actor="token:1", now=at(4))
    level(informed, 1, ONE, day=6)
    assert told(informed, host) == [(at(1), Word.NO_FIX_YET)]
    assert clock(informed, host) == Clocks(at(1), None, None, 3 * DAY, 0, at(1))


def test_one_that_is_silent_stands_as_it_last_said(informed: Store) -> None:
    (host,) = enrolled(informed, "web-1")
    says(informed, host, 1)
    level(informed, 1, ONE, day=6)
    assert told(informed, host) == [(at(1), Word.NO_FIX_YET), (at(6), Word.AVAILABLE)]
    assert clock(informed, host, day=31).exposed == 30 * DAY


def test_a_kernel_that_nobody_has_looked_into_and_hosts_that_said_nothing(informed: Store) -> None:
    strange, mute = enrolled(informed, "web-1", "web-2")
    running = RunningBuild("e" * 40, "6.1.0-99-amd64", "#1", "x86_64")
    says(informed, strange, 1, extra={"kernel": running})
    assert told(informed, strange) == [(at(1), Word.UNKNOWN)]
    assert told(informed, mute) == []
    with informed.read() as connection:
        assert knowledge.clocks_of_host(connection, mute.id, NOW) == {}
        with pytest.raises(NotKnownError, match="no host"):
            knowledge.clocks_of_host(connection, "0" * 32, NOW)
        with pytest.raises(NotKnownError, match="nothing that was imported"):
            knowledge.changes_of(connection, mute.id, "CVE-2026-77777", NOW)


def test_a_report_that_an_older_server_has_taken_counts(informed: Store) -> None:
    """Servers are upgraded one after the other; the older ones write no periods."""
    (host,) = enrolled(informed, "web-1")
    says(informed, host, 1)
    level(informed, 1, ONE, day=2)
    says(informed, host, 3, level=1, phase="steady")
    with informed.write() as connection:
        connection.execute(delete(tables.host_periods).where(tables.host_periods.c.at == at(3)))
    assert told(informed, host)[-1] == (at(3), Word.LIVE_PATCHED)


def test_answers_that_were_replaced_long_ago_are_forgotten(informed: Store, tmp_path: Path) -> None:
    mended = vulns(tmp_path / "w", **{f"{ONE}.dyad": f"6.0:{COMMIT}:6.1.7:{COMMIT}\n".encode()})
    knowledge.import_cna(informed, mended, version="b", as_of=at(3), now=at(3))
    knowledge.judge_builds(informed)
    with informed.write() as connection:
        assert knowledge.prune_answers(connection, at(403), days=400) == 0
        assert knowledge.prune_answers(connection, at(404), days=400) == 1
