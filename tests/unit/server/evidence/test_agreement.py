"""A pack and the server's own answers (`explain`, `cves`) say the same of every CVE after every report of a history."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import insert
from tests.unit.sample_livepatch import KERNEL, livepatch, write_build
from tests.unit.server.evidence.packing import DAY, FIRST, KNOWN, SECOND, Yard, wrong
from tests.unit.server.evidence.test_verifying import changed_row, changed_rows
from tests.unit.server.hosts.machines import judge
from tests.unit.server.repository.conftest import Press

from kmend.core.manifest import Manifest, PatchedFunction, PatchedObject
from kmend.core.wire import Answer, HeldLevel, ModuleReport
from kmend.intel.applicability import Reason
from kmend.intel.verdicts import Word
from kmend.server.compliance import exceptions
from kmend.server.evidence import showing, timelines
from kmend.server.evidence.documents import STATES, TIMELINES, State, Timeline
from kmend.server.evidence.reading import Reader
from kmend.server.knowledge.answering import of_host
from kmend.server.store import Store, tables
from kmend.trust.signing.publishing import read_build

EXFAT = PatchedObject("exfat", "ab" * 20, (PatchedFunction("exfat_find", 0, 10, 20, "fs/exfat/namei.c"),))
MEANS = {
    # CVE: affected, presence, objects, complete
    FIRST: (True, "built in", '["vmlinux"]', True),
    SECOND: (True, "module", '["exfat"]', True),
    "CVE-2026-2010": (True, "module", '["rds"]', True),
    "CVE-2026-2011": (True, "module", '["rds", "dccp"]', True),
    "CVE-2026-2012": (True, "module", '["rds", "ext4"]', True),
    "CVE-2026-2013": (None, "module", '["dccp"]', True),
    "CVE-2026-2014": (True, "module", '["rds"]', False),
    "CVE-2026-2015": (None, "unknown", "[]", False),
    "CVE-2026-2016": (False, "module", '["rds"]', True),
}
PAIRS = f"6.2:{'1' * 40}:6.3:{'2' * 40}"
"""Of a later release than the build's."""
NAMES = ("exfat", "ext4", "rds", "dccp")


def build(level: int) -> tuple[Manifest, bytes]:
    """Level 1 mends the kernel itself, level 2 a module too."""
    manifest, module = livepatch(level, [FIRST, SECOND][:level], base=level - 1 or None)
    if level == 1:
        return manifest, module
    first, second = manifest.fixes
    fixes = (first, replace(second, files=("fs/exfat/namei.c",)))
    return replace(manifest, fixes=fixes, objects=(*manifest.objects, EXFAT)), module


@pytest.fixture
def yard(store: Store, press: Press, tmp_path: Path) -> Yard:
    made = Yard(store, press, tmp_path)
    for level in (1, 2):
        press.publisher.publish([read_build(write_build(tmp_path / f"level-{level}", *build(level)))])
    press.take(store)
    with store.write() as connection:
        for cve, (affected, presence, objects, complete) in MEANS.items():
            row = {"build_id": KERNEL.build_id, "cve": cve, "affected": affected, "reason": Reason.NO_RECORD.value,
                   "evidence": "[]", "presence": presence, "objects": objects, "complete": complete, "in_c": True}  # fmt: skip
            connection.execute(insert(tables.applicability).values(**row))
            known = {"cve": cve, "title": cve, "cvss": "", "pairs": PAIRS, "files": "[]", "commits": "[]",
                     "changed_at": 1, "rejected": False}  # fmt: skip
            connection.execute(insert(tables.cves).values(**known))
        made_at = made.begin - DAY
        got = exceptions.ask(
            connection, cve=FIRST, extent=exceptions.Extent.RING, subject="default", reason="r", control="c",
            expires_at=made_at + 60 * DAY, actor="token:1", now=made_at,
        )  # fmt: skip
        exceptions.approve(connection, got.id, actor="token:2", now=made_at)
    made.enrol("web-1", "default")
    return made


def explained(yard: Yard, now: int) -> Mapping[str, Word]:
    host = yard.machines["web-1"].id
    with yard.store.read() as connection:
        return {cve: of_host(connection, host, now, cve)[0].verdict.word for cve in MEANS}


def draw_report(draw: random.Random) -> ModuleReport | None:
    if draw.random() < 0.15:
        return None
    loaded = tuple(sorted(draw.sample(NAMES, draw.randrange(5))))
    others = [name for name in NAMES if name not in loaded]
    barred, absent = (tuple(sorted(draw.sample(others, draw.randrange(len(others) + 1)))) for _ in range(2))
    unpatched = ("exfat",) if "exfat" in loaded and draw.random() < 0.4 else ()
    return ModuleReport(loaded, barred, absent, draw.random() < 0.2, unpatched)


@pytest.mark.parametrize("seed", range(4))
def test_a_pack_says_what_the_server_says(yard: Yard, seed: int) -> None:
    draw = random.Random(seed)
    machine = yard.machines["web-1"]
    said: dict[int, Mapping[str, Word]] = {}
    seen: set[Word] = set()
    for step in range(60):
        at = yard.begin + step * 3600
        if draw.random() < 0.25:
            machine.boot += 1
        if draw.random() < 0.6:
            machine.modules = draw_report(draw)
        level, trying = draw.randrange(3), draw.random() < 0.2
        held = _held(level)
        machine.phase = "transitioning" if trying and held else "idle"
        machine.extra = {
            "at": at,
            "kernel": KNOWN,
            "loaded": None if trying else held,
            "trying": held if trying else None,
        }
        for _ in range(2):
            received = machine.check_in(full=True)
            (answer,) = judge(yard.store, received, now=at + 5)
            assert isinstance(answer, Answer)
            machine.take(answer, received)
            said[received.message.counter] = explained(yard, at + 6)
            seen |= set(said[received.message.counter].values())
            if not answer.send_modules:
                break
        machine.send_modules = False
    assert {Word.LIVE_PATCHED, Word.MITIGATED, Word.BLOCKED, Word.NOT_AFFECTED} <= seen, seen
    path = yard.pack()
    assert wrong(yard.verify(path)) == {}
    reader = Reader(path)
    states = {(item.build_id, item.level): item.open for item in reader.rows(State, STATES)}
    open_in = timelines.opened(lambda *key: states[key], reader.surroundings().__getitem__)
    (way,) = reader.rows(Timeline, TIMELINES)
    for counter, words in said.items():
        stay = [item for item in way.stays if item.counter <= counter][-1]
        told = {
            cve
            for cve, word in words.items()
            if word not in (Word.LIVE_PATCHED, Word.NOT_AFFECTED, Word.FIXED_BY_KERNEL)
        }
        assert set(open_in(timelines.key_of(stay))) & MEANS.keys() == told, (counter, stay)
    last = said[max(said)]
    for cve, word in last.items():
        rows = list(showing.of_cve(reader, cve))
        assert [row.mitigated for row in rows if row.open] == [word is Word.MITIGATED] * sum(
            row.open for row in rows
        ), cve


def _held(level: int) -> HeldLevel | None:
    if not level:
        return None
    manifest, _ = build(level)
    return HeldLevel(level, manifest.module.name, manifest.module.sha256)


def test_a_cve_of_a_level_that_the_build_never_had(yard: Yard) -> None:
    """Nothing is kept of what a release has mended; a level names it all the same."""
    with yard.store.write() as connection:
        connection.execute(tables.applicability.delete().where(tables.applicability.c.cve == FIRST))
        facts = {"build_id": KERNEL.build_id, "package": "6.1.176-1", "imported_at": 1, "facts": b""}
        connection.execute(insert(tables.kernel_facts).values(**facts))
    yard.say("web-1", 1, 0)
    path = yard.pack()
    assert wrong(yard.verify(path)) == {}
    with yard.store.read() as connection:
        (found,) = of_host(connection, yard.machines["web-1"].id, yard.press.now, FIRST)
    assert found.verdict.word is Word.NOT_AFFECTED
    assert list(showing.of_cve(Reader(path), FIRST)) == []


def test_what_modules_change_cannot_be_changed(yard: Yard, tmp_path: Path) -> None:
    machine = yard.machines["web-1"]
    machine.modules, machine.send_modules = ModuleReport((), absent=("rds",)), True
    yard.say("web-1", 1, 0)
    path = yard.pack()
    assert wrong(yard.verify(path)) == {}
    assert [row.open for row in showing.of_cve(Reader(path), "CVE-2026-2014")] == [True], "another object may have it"
    assert list(showing.of_cve(Reader(path), "CVE-2026-2010")) == []
    (around,) = Reader(path).surroundings()
    copy = tmp_path / "copy.tar"
    copy.write_bytes(path.read_bytes())
    for check, change in (
        ("states", changed_row("surroundings", lambda row: row["not_present"].append(FIRST))),
        ("states", changed_row("surroundings", lambda row: row["around"]["absent"].append("dccp"))),
        ("states", changed_rows("surroundings", lambda rows: rows.clear())),
        ("states", changed_rows("surroundings", lambda rows: rows.insert(0, {**rows[0], "not_present": []}))),
        ("timelines", changed_rows("timelines", lambda rows: rows[0]["stays"][0].update(around=""))),
        ("reports", changed_row("reports", lambda row: row.update(body=row["body"].replace('"rds"', '"dccp"')))),
        ("states", changed_rows("kernels", lambda rows: [row.update(complete=True) for row in rows])),
    ):
        found = wrong(yard.verify(yard.forge(copy, change), server_alone=True))
        assert check in found, found
    assert around
