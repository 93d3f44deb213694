"""What hosts say of their modules: asked for, kept, forgotten; what verdicts make of it, now and in history. Both databases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, update
from tests.unit.intel.test_feeds import record
from tests.unit.server.conftest import NOW
from tests.unit.server.hosts.machines import Machine, enrolled, judge
from tests.unit.server.knowledge.test_knowledge import KERNEL, published, vulns, words

from kmend.core.wire import Answer, ModuleReport
from kmend.intel.feeds import read_changelog
from kmend.intel.verdicts import Word
from kmend.server import knowledge
from kmend.server.compliance.standing import fleet
from kmend.server.hosts import modulesets
from kmend.server.store import Store, tables

DAY = 86_400
EXFAT = "CVE-2026-3004"
NOTHING = ModuleReport(("ext4",))
CHANGELOG = """linux (6.1.8-1) bookworm; urgency=medium

  * old: mend it (CVE-2026-3009)

 -- A <a@example.org>  Sat, 01 Aug 2026 12:00:00 +0000
"""
FIXED = f"""linux (6.1.9-1) bookworm-security; urgency=high

  * exfat: mend it ({EXFAT})

 -- A <a@example.org>  Sun, 20 Sep 2026 12:00:00 +0000

"""


@pytest.fixture
def informed(store: Store, tmp_path: Path) -> Store:
    """A kernel build with a CVE in a module, and no fix."""
    dyad = b"6.0:" + b"a" * 40 + b":6.1.9:" + b"a" * 40 + b"\n"
    more = {
        f"{EXFAT}.json": record(EXFAT, affected=[{"programFiles": ["fs/exfat/dir.c"]}]),
        f"{EXFAT}.dyad": dyad,
    }
    knowledge.import_cna(store, vulns(tmp_path / "v", **more), version="a", as_of=NOW, now=NOW)
    knowledge.import_changelog(store, read_changelog(CHANGELOG), as_of=NOW, now=NOW)
    knowledge.import_facts(store, KERNEL, now=NOW)
    knowledge.judge_builds(store)
    return store


def says(store: Store, host: Machine, day: float, modules: ModuleReport | None = None, **now: object) -> Answer:
    """The host is so from then on, checks in, and sends what it is asked for."""
    for name, value in now.items():
        setattr(host, name, value)
    host.modules = modules or host.modules
    moment = NOW + int(day * DAY)
    for _ in range(2):
        received = host.check_in()
        (answer,) = judge(store, received, now=moment)
        taken = host.take(answer, received)
        if not taken.send_modules:
            break
    return taken


def sets(store: Store) -> list[str]:
    with store.read() as connection:
        return sorted(connection.execute(select(tables.module_sets.c.names)).scalars())


def history(store: Store, host: Machine, day: float = 100) -> list[tuple[float, Word]]:
    with store.read() as connection:
        found = knowledge.changes_of(connection, host.id, EXFAT, NOW + int(day * DAY))
    return [((change.at - NOW) / DAY, change.word) for change in found]


def test_a_host_is_asked_once_and_what_it_said_holds_while_it_names_the_same(informed: Store) -> None:
    host, other, old = enrolled(informed, "web-1", "web-2", "old")
    assert not says(informed, old, 0).send_modules, "an agent that names none is not asked"
    for machine in (host, other):
        received = replace(machine, modules=NOTHING).check_in()
        (answer,) = judge(informed, received)
        assert isinstance(answer, Answer)
        assert (answer.send_modules, answer.next) == (True, 1)
        machine.counter += 1
        assert not says(informed, machine, 0, NOTHING).send_modules
    assert sets(informed) == ['["ext4"]'], "one list for both"
    assert not says(informed, host, 1).send_modules
    with informed.read() as connection:
        query = select(tables.hosts.c.loaded, tables.hosts.c.modules).where(tables.hosts.c.id == host.id)
        before = connection.execute(query).one()
    assert before.loaded
    host.modules = ModuleReport(("ext4", "xfs"))
    for boot, kept in ((1, tuple(before)), (2, ("", ""))):
        host.boot = boot
        (answer,) = judge(informed, host.check_in(), now=NOW + 2 * DAY)
        assert isinstance(answer, Answer)
        assert answer.send_modules
        with informed.read() as connection:
            assert tuple(connection.execute(query).one()) == kept, "until the new one is there, but not over a restart"


def test_the_report_is_evidence_beside_the_state(informed: Store) -> None:
    (host,) = enrolled(informed, "web-1")
    says(informed, host, 0, NOTHING)
    with informed.read() as connection:
        bodies = [bytes(body) for body in connection.execute(select(tables.reports.c.body)).scalars()]
    assert any(b'"module_report":{' in body for body in bodies)


@pytest.mark.parametrize(
    ("report", "word"),
    [
        (ModuleReport(("exfat",), barred=("exfat",)), Word.NO_FIX_YET),
        (ModuleReport(("ext4",)), Word.NO_FIX_YET),
        (ModuleReport(("ext4",), barred=("exfat",)), Word.MITIGATED),
        (ModuleReport(("ext4",), sealed=True), Word.MITIGATED),
        (ModuleReport(("ext4",), absent=("exfat",)), Word.NOT_AFFECTED),
        (ModuleReport((), absent=("exfat",)), Word.NOT_AFFECTED),
    ],
)
def test_the_verdict_now_and_in_the_history(informed: Store, report: ModuleReport, word: Word) -> None:
    (host,) = enrolled(informed, "web-1")
    says(informed, host, 0)
    says(informed, host, 1, report)
    assert words(informed, EXFAT) == {word: 1}
    with informed.read() as connection:
        (found,) = knowledge.of_host(connection, host.id, NOW + DAY, EXFAT)
    assert found.verdict.word is word
    assert any(line.startswith("exfat is ") for line in found.verdict.evidence)
    wanted = [(0, Word.NO_FIX_YET)] + ([(1, word)] if word is not Word.NO_FIX_YET else [])
    assert history(informed, host) == wanted


def test_a_restart_ends_what_was_said_and_the_clock_goes_on(informed: Store) -> None:
    (host,) = enrolled(informed, "web-1")
    says(informed, host, 0, ModuleReport((), sealed=True))
    says(informed, host, 3, ModuleReport(("exfat",)), boot=2)
    assert history(informed, host) == [(0, Word.MITIGATED), (3, Word.NO_FIX_YET)]
    with informed.read() as connection:
        clocks = knowledge.clocks_of_host(connection, host.id, NOW + 5 * DAY)[EXFAT]
    assert (clocks.open_since, clocks.closed_since, clocks.reopened) == (NOW, None, 0), "a mitigation ends no clock"


def test_what_is_loaded_is_written_down_only_where_a_verdict_turns_on_it(informed: Store) -> None:
    plain, strict = enrolled(informed, "plain", "strict")
    for number in range(4):
        loaded = (f"m{number}",)
        says(informed, plain, number, ModuleReport(loaded))
        says(informed, strict, number, ModuleReport(loaded, barred=("exfat",)))
    with informed.read() as connection:
        found = list(connection.execute(select(tables.host_periods.c.host)).scalars())
    assert (found.count(plain.id), found.count(strict.id)) == (1, 4)


def test_a_level_that_the_kernel_has_not_patched_a_module_with_closes_nothing(informed: Store) -> None:
    (host,) = enrolled(informed, "web-1")
    says(informed, host, 0)
    published(informed, 1, EXFAT)
    says(informed, host, 1, ModuleReport(("exfat",)), level=1, phase="steady")
    assert words(informed, EXFAT) == {Word.LIVE_PATCHED: 1}
    with informed.read() as connection:
        assert EXFAT not in {item.cve for item in fleet(connection, NOW + DAY).open}
    says(informed, host, 2, ModuleReport(("exfat",), unpatched=("exfat",)))
    assert words(informed, EXFAT) == {Word.BLOCKED: 1}
    assert history(informed, host)[-2:] == [(1, Word.LIVE_PATCHED), (2, Word.BLOCKED)]
    with informed.read() as connection:
        assert EXFAT in {item.cve for item in fleet(connection, NOW + 2 * DAY).open}


def test_objects_that_a_level_patches_for_a_cve_say_which_module_counts(informed: Store) -> None:
    (host,) = enrolled(informed, "web-1")
    published(informed, 1, EXFAT)
    with informed.write() as connection:
        connection.execute(update(tables.level_cves).values(objects='["exfat"]'))
    says(informed, host, 0, ModuleReport(("exfat",), unpatched=("ext4",)), level=1, phase="steady")
    assert words(informed, EXFAT) == {Word.LIVE_PATCHED: 1}
    assert history(informed, host) == [(0, Word.LIVE_PATCHED)]


def test_lists_that_nobody_names_any_more_are_forgotten_and_those_of_the_history_stay(informed: Store) -> None:
    (host,) = enrolled(informed, "web-1")
    says(informed, host, 0, ModuleReport(("a",), barred=("exfat",)))
    says(informed, host, 1, ModuleReport(("b",)))
    says(informed, host, 1, ModuleReport(("c",)))
    later = NOW + 1 * DAY + modulesets.KEEP_SECONDS + 1
    informed.transact(lambda connection: modulesets.prune(connection, later - DAY))
    assert sets(informed) == ['["a"]', '["b"]', '["c"]', '["exfat"]']
    informed.transact(lambda connection: modulesets.prune(connection, later))
    assert sets(informed) == ['["a"]', '["c"]', '["exfat"]']
    assert history(informed, host) == [(0, Word.MITIGATED), (1, Word.NO_FIX_YET)]


def test_the_newest_kernel_that_is_installed_is_held_against_the_fix(informed: Store) -> None:
    (host,) = enrolled(informed, "web-1")
    says(informed, host, 0, replace(NOTHING, installed="6.1.9-1"))
    knowledge.import_changelog(informed, read_changelog(FIXED + CHANGELOG), as_of=NOW, now=NOW)
    with informed.read() as connection:
        (found,) = knowledge.of_host(connection, host.id, NOW, EXFAT)
    assert (found.verdict.word, found.verdict.detail) == (Word.NEEDS_REBOOT, "6.1.9-1, installed")
