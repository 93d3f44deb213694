"""Feeds come in, verdicts on hosts go out; on both databases."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from tests.unit.intel.test_applicability import CHANGELOG, COMMIT, FACTS
from tests.unit.intel.test_feeds import DYAD, record, tree
from tests.unit.server.conftest import NOW
from tests.unit.server.hosts.machines import BUILD_ID, enrolled, judge

from kmend.intel.feeds import Cna, read_changelog, read_epss, read_folder, read_kev
from kmend.intel.verdicts import Word
from kmend.server import knowledge
from kmend.server.knowledge import NotKnownError
from kmend.server.store import Store, tables

ONE, TWO, THREE, OLD = "CVE-2026-3001", "CVE-2026-3002", "CVE-2026-3003", "CVE-2026-3009"
KERNEL = replace(FACTS, kernel=replace(FACTS.kernel, build_id=BUILD_ID))


def vulns(folder: Path, **more: bytes) -> Cna:
    dyad = f"6.0:{COMMIT}:6.1.9:{COMMIT}\n".encode()

    def one(cve: str, name: str) -> dict[str, bytes]:
        return {
            f"published/2026/{cve}.json": record(cve, affected=[{"programFiles": [name]}]),
            f"published/2026/{cve}.dyad": dyad,
        }

    files = {
        **one(ONE, "net/core/dev.c"),
        **one(TWO, "drivers/gpu/host1x/dev.c"),
        "published/2026/CVE-2026-3099.dyad": dyad,
    }
    return read_folder(tree(folder, {**files, **{f"published/2026/{name}": content for name, content in more.items()}}))


@pytest.fixture
def informed(store: Store, tmp_path: Path) -> Store:
    """Everything is imported, and one kernel build is known."""
    knowledge.import_cna(store, vulns(tmp_path / "v"), version="a", as_of=NOW - 3600, now=NOW)
    knowledge.import_changelog(store, read_changelog(CHANGELOG), as_of=NOW - 60, now=NOW)
    knowledge.import_facts(store, KERNEL, now=NOW)
    assert knowledge.judge_builds(store) == 4
    return store


def published(store: Store, level: int, *cves: str, free: bool = True) -> None:
    with store.write() as connection:
        if connection.execute(select(tables.kernel_builds)).first() is None:
            connection.execute(
                insert(tables.kernel_builds).values(
                    build_id=BUILD_ID,
                    release="6.1.0-9-amd64",
                    version="v",
                    ref="r",
                    architecture="x86_64",
                    first_seen=NOW,
                )
            )
        connection.execute(
            insert(tables.levels).values(
                build_id=BUILD_ID, level=level, module=f"kmend_{level}_0", manifest_sha256="0", module_sha256="0",
                published=NOW, channel="", pinned=False, imported_at=NOW, manifest=b"{}",
            )
        )  # fmt: skip
        connection.execute(
            insert(tables.level_cves), [{"build_id": BUILD_ID, "level": level, "cve": cve} for cve in cves]
        )
        connection.execute(insert(tables.level_fixes).values(build_id=BUILD_ID, level=level, fix=f"{level:064x}"))
        if free:
            connection.execute(
                insert(tables.ring_levels).values(ring="default", build_id=BUILD_ID, level=level, rollout="", since=NOW)
            )


def words(store: Store, cve: str) -> dict[Word, int]:
    with store.read() as connection:
        groups = knowledge.of_cve(connection, cve)
    return {group.verdict.word: group.hosts for group in groups}


def test_verdicts_of_a_host_before_with_and_without_a_level(informed: Store) -> None:
    (host,) = enrolled(informed, "web-1")
    judge(informed, host.check_in())
    assert [words(informed, cve) for cve in (ONE, TWO, THREE, OLD)] == [
        {Word.NEEDS_REBOOT: 1}, {Word.NOT_AFFECTED: 1}, {Word.NEEDS_REBOOT: 1}, {Word.FIXED_BY_KERNEL: 1},
    ]  # fmt: skip
    published(informed, 1, ONE)
    assert words(informed, ONE) == {Word.AVAILABLE: 1}
    host.level, host.phase = 1, "steady"
    judge(informed, host.check_in())
    assert words(informed, ONE) == {Word.LIVE_PATCHED: 1}
    host.level, host.phase, host.boot = 0, "idle", 2
    judge(informed, host.check_in())
    assert words(informed, ONE) == {Word.AVAILABLE: 1}


def test_a_level_that_no_rollout_has_let_go_is_withheld_and_a_recalled_one_blocked(informed: Store) -> None:
    (host,) = enrolled(informed, "web-1")
    judge(informed, host.check_in())
    published(informed, 1, ONE, free=False)
    assert words(informed, ONE) == {Word.WITHHELD: 1}
    with informed.write() as connection:
        connection.execute(
            insert(tables.recalls).values(
                number=1, extent="stop", reason="bad", at=NOW, fix=f"{1:064x}", build_id="", level=0
            )
        )
    assert words(informed, ONE) == {Word.BLOCKED: 1}


def test_the_whole_chain_of_reasoning(informed: Store) -> None:
    (host,) = enrolled(informed, "web-1")
    judge(informed, host.check_in())
    published(informed, 1, ONE)
    with informed.read() as connection:
        (found,) = knowledge.of_host(connection, host.id, NOW, ONE)
        all_of_it = knowledge.of_host(connection, host.id, NOW)
    assert found.verdict.evidence == (
        "Linux 6.1.8 has it, by the CNA's ranges", "net/core/dev.c is in vmlinux", "level 1 closes it",
    )  # fmt: skip
    assert dict(found.feeds) == {"cna": ("a", 3600), "debian": ("6.1.9-1", 60)}
    assert found.stale == ()
    assert {item.verdict.cve for item in all_of_it} == {ONE, TWO, THREE, OLD}


def test_the_effective_version_is_no_more_than_is_true(informed: Store) -> None:
    (host,) = enrolled(informed, "web-1")
    judge(informed, host.check_in())

    def version() -> str:
        with informed.read() as connection:
            found = knowledge.of_host(connection, host.id, NOW)
            return str(knowledge.effective_of(connection, host.id, [item.verdict for item in found]))

    assert version() == "6.1.8"
    published(informed, 1, ONE)
    host.level, host.phase = 1, "steady"
    judge(informed, host.check_in())
    assert version() == "6.1.8+partial", "what nobody knows stands open"
    published(informed, 2, ONE, THREE, free=False)
    host.level = 2
    judge(informed, host.check_in())
    assert version() == "6.1.9"


def test_an_old_feed_makes_verdicts_stale(informed: Store) -> None:
    (host,) = enrolled(informed, "web-1")
    judge(informed, host.check_in())
    with informed.read() as connection:
        (found,) = knowledge.of_host(connection, host.id, NOW + 8 * 86_400, ONE)
    assert set(found.stale) == {"cna", "debian"}


def test_a_kernel_that_nobody_has_looked_into_is_unknown(store: Store, tmp_path: Path) -> None:
    knowledge.import_cna(store, vulns(tmp_path / "v"), version="a", as_of=NOW, now=NOW)
    (host,) = enrolled(store, "web-1")
    judge(store, host.check_in())
    assert words(store, ONE) == {Word.UNKNOWN: 1}
    with store.read() as connection:
        with pytest.raises(NotKnownError, match="nobody has looked"):
            knowledge.of_host(connection, host.id, NOW)
        with pytest.raises(NotKnownError, match="nothing that was imported"):
            knowledge.of_cve(connection, "CVE-2026-77777")


def test_only_what_changed_is_written_and_broken_records_are_kept_aside(informed: Store, tmp_path: Path) -> None:
    again = knowledge.import_cna(informed, vulns(tmp_path / "v"), version="b", as_of=NOW, now=NOW + 5)
    assert (again.changed, again.aside) == ((), 1)
    with informed.read() as connection:
        row = connection.execute(select(tables.feeds).where(tables.feeds.c.name == "cna")).one()
    assert json.loads(row.aside) == [["CVE-2026-3099", "there is no .json"]]
    other = vulns(tmp_path / "w", **{f"{ONE}.dyad": DYAD.replace("6.1.9", "6.1.7").encode()})
    third = knowledge.import_cna(informed, other, version="c", as_of=NOW, now=NOW + 9)
    assert third.changed == (ONE,)
    assert knowledge.judge_builds(informed, only={ONE}) == 0
    with informed.read() as connection:
        assert knowledge.of_cve(connection, ONE) == ()


def test_a_judging_that_is_killed_leaves_what_was_there(informed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def answers() -> set[str]:
        with informed.read() as connection:
            return set(connection.execute(select(tables.applicability.c.cve)).scalars())

    before = answers()

    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as once:
        once.setattr("kmend.server.knowledge.judging._row", killed)
        with pytest.raises(KeyboardInterrupt):
            knowledge.judge_builds(informed)
    assert answers() == before == {ONE, TWO, THREE, OLD}


def test_a_cve_that_is_rejected(informed: Store, tmp_path: Path) -> None:
    (host,) = enrolled(informed, "web-1")
    judge(informed, host.check_in())
    found = replace(vulns(tmp_path / "x"), rejected=frozenset({ONE, "CVE-2026-4000"}))
    records = {cve: item for cve, item in found.records.items() if cve != ONE}
    done = knowledge.import_cna(informed, replace(found, records=records), version="d", as_of=NOW, now=NOW)
    assert set(done.rejected) == {ONE, "CVE-2026-4000"}
    knowledge.judge_builds(informed, only=set(done.changed))
    assert words(informed, ONE) == {Word.NOT_AFFECTED: 1}


def test_listings_come_and_go(informed: Store) -> None:
    def listed(*names: str) -> bytes:
        rows = [{"cveID": name, "dateAdded": "2026-10-01", "dueDate": "2026-10-15"} for name in names]
        return json.dumps({"catalogVersion": "1", "vulnerabilities": rows}).encode()

    assert knowledge.import_kev(informed, read_kev(listed(ONE, TWO)), now=NOW).changed == (ONE, TWO)
    assert knowledge.import_kev(informed, read_kev(listed(ONE, TWO)), now=NOW).changed == ()
    assert knowledge.import_kev(informed, read_kev(listed(TWO)), now=NOW).changed == (ONE,)
    scores = read_epss(f"cve,epss,percentile\n{ONE},0.5,0.9\nCVE-2020-1000,0.1,0.2\n")
    assert knowledge.import_epss(informed, scores, as_of=NOW, now=NOW).changed == (ONE,)
    with informed.read() as connection:
        rows = {row.cve: (row.kev_due, row.epss) for row in connection.execute(select(tables.cve_signals))}
    assert rows == {ONE: (None, 0.5), TWO: (1_792_022_400, None)}


def test_rings_of_others_are_not_counted(informed: Store) -> None:
    for host in enrolled(informed, "web-1", "web-2"):
        judge(informed, host.check_in())
    with informed.read() as connection:
        assert sum(group.hosts for group in knowledge.of_cve(connection, ONE, ("default",))) == 2
        assert knowledge.of_cve(connection, ONE, ("other",)) == ()
