"""Verdicts over time: hosts check in, feeds come in, levels come and go; on both databases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update
from tests.unit.intel.test_applicability import COMMIT
from tests.unit.server.conftest import NOW
from tests.unit.server.hosts.machines import BUILD_ID, Machine, enrolled, judge
from tests.unit.server.knowledge.test_knowledge import KERNEL, OLD, ONE, THREE, TWO, published, vulns

from kmend.core.wire import Failure, RunningBuild
from kmend.intel.clocks import Change, Clocks
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
