"""Nothing grows: history, quarantine, levels, lists, leftovers, each filled with much more than it keeps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.conftest import Machine, Published, configure_for, publish
from tests.unit.sample_livepatch import BUILD_ID, KERNEL, OTHER_BUILD_ID, livepatch

from kmend.agent import quarantine, statefile, store, tidying
from kmend.agent.history import MAX_BYTES, History, Record
from kmend.agent.quarantine import Cause, Entry, Quarantine, bounded
from kmend.agent.store import Store
from kmend.core.document import encode
from kmend.core.errors import SystemProblemError
from kmend.core.kernel import KernelIdentity


@pytest.fixture(autouse=True)
def memory_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here is how much there is."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def record(number: int, cves: int) -> Record:
    return Record(
        number, "boot", "settle", f"{number:032x}", 1, "kmend_1_00000000", "x", cves=("CVE-2026-12345",) * cves
    )


def entry(number: int, *, build_id: str = BUILD_ID, cause: Cause = Cause.CRASHED, fixes: int = 1) -> Entry:
    module = f"kmend_{number + 1}_{number:08x}"
    return Entry(
        build_id, number + 1, module, (f"{number:064x}",) * fixes, cause, "x" * 100, number, "boot", f"{number:032x}"
    )


@pytest.mark.parametrize(("count", "cves"), [(5000, 1), (300, 1000), (60, 5000)])
def test_history(tmp_path: Path, count: int, cves: int) -> None:
    subject = History(tmp_path / "history.jsonl")
    written = [record(number, cves) for number in range(count)]
    # Most of them at once; the last ones one by one, over the bound.
    bulk = written[: count - 30]
    (tmp_path / "history.jsonl").write_bytes(b"".join(encode(item) + b"\n" for item in bulk)[-2 * MAX_BYTES :])
    for item in written[count - 30 :]:
        subject.append(item)
        assert (tmp_path / "history.jsonl").stat().st_size <= 2 * MAX_BYTES
    kept = subject.records()
    assert kept[-1] == written[-1]
    assert len(kept) >= min(30, MAX_BYTES // 2 // (20 * cves))
    assert [item.at for item in kept] == sorted(item.at for item in kept)
    assert list(tmp_path.iterdir()) == [tmp_path / "history.jsonl"]


def test_quarantine_of_thousands(tmp_path: Path) -> None:
    subject = Quarantine(tmp_path / "quarantine.json")
    statefile.save(
        tmp_path / "quarantine.json", quarantine.Entries(tuple(entry(n, build_id=OTHER_BUILD_ID) for n in range(3000)))
    )
    subject.add(entry(5000))
    for number in range(5001, 5030):
        subject.add(entry(number, fixes=200))
    subject.add(entry(6000, cause=Cause.UNLOADED))
    kept = subject.entries()
    assert len(kept) == quarantine.MAX_ENTRIES
    assert {item.level for item in kept if item.build_id == BUILD_ID} == {*range(5001, 5031), 6001}
    assert (tmp_path / "quarantine.json").stat().st_size <= statefile.MAX_STATE_BYTES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quarantine.json"]


def test_quarantine_of_large_entries_stays_readable(tmp_path: Path) -> None:
    subject = Quarantine(tmp_path / "quarantine.json")
    for number in range(40):
        subject.add(entry(number, fixes=3000))
    kept = subject.entries()
    assert kept[-1].level == 40
    assert 5 < len(kept) < 40
    assert subject.entries() == Quarantine(tmp_path / "quarantine.json").entries()


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(list(Cause)), st.integers(0, 3)), min_size=1, max_size=30),
)
def test_what_goes_first(rows: list[tuple[bool, Cause, int]]) -> None:
    entries = tuple(
        entry(number, build_id=BUILD_ID if ours else OTHER_BUILD_ID, cause=cause, fixes=fixes)
        for number, (ours, cause, fixes) in enumerate(rows)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quarantine, "MAX_ENTRIES", 10)
        kept = bounded(entries, BUILD_ID)
    assert kept[-1] == entries[-1]
    assert len(kept) == min(10, len(entries))
    assert list(kept) == [item for item in entries if item in kept]
    crashed = [item for item in entries if item.build_id == BUILD_ID and item.cause is Cause.CRASHED]
    if len(crashed) < 10:
        lost = [item for item in crashed if item not in kept]
        # Only what is no less grave may have taken its place.
        assert (
            all(
                item.build_id == BUILD_ID and item.cause not in (Cause.ROLLED_BACK, Cause.UNLOADED)
                for item in kept[:-1]
            )
            or not lost
        )


def filled(folder: Path, count: int, kernel: KernelIdentity = KERNEL, cve: str = "CVE-2026-1001") -> Store:
    subject = Store(folder)
    for number in range(1, count + 1):
        manifest, module = livepatch(number, [cve], kernel=kernel)
        subject.keep(manifest, module, b"\x30\x00")
        for path in folder.glob(f"{manifest.module.name}.*"):
            os.utime(path, (number, number))
    return subject


def test_levels(tmp_path: Path) -> None:
    subject = filled(tmp_path, 200)
    names = [item.module.name for item in subject.manifests(BUILD_ID)]
    subject.prune(frozenset({names[0], names[50]}), BUILD_ID)
    assert [item.module.name for item in subject.manifests(BUILD_ID)] == [
        names[0],
        names[50],
        *names[-store.KEEP_LEVELS :],
    ]
    assert len(list(tmp_path.iterdir())) == 3 * (store.KEEP_LEVELS + 2)


def test_levels_of_other_builds_go_first(tmp_path: Path) -> None:
    filled(tmp_path, 6)
    other = KernelIdentity(OTHER_BUILD_ID, KERNEL.release, KERNEL.version, KERNEL.ref)
    subject = filled(tmp_path, 6, other, "CVE-2026-1002")
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    subject.prune(frozenset(), BUILD_ID)
    assert len(subject.manifests(BUILD_ID)) == 6
    assert len(subject.manifests(OTHER_BUILD_ID)) == 2


def test_levels_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = filled(tmp_path, 5)
    whole = sum(path.stat().st_size for path in tmp_path.glob("kmend_5_*"))
    monkeypatch.setattr(store, "MAX_SPARE_BYTES", 2 * whole + 10)
    subject.prune(frozenset(), BUILD_ID)
    assert [item.level for item in subject.manifests(BUILD_ID)] == [4, 5]


def test_parts_of_levels_that_are_not_whole_go(tmp_path: Path) -> None:
    subject = filled(tmp_path, 2)
    name = subject.manifests(BUILD_ID)[0].module.name
    (tmp_path / f"{name}.json").unlink()
    subject.prune(frozenset({name}), BUILD_ID)
    assert (tmp_path / f"{name}.ko").exists()
    subject.prune(frozenset(), BUILD_ID)
    assert len(list(tmp_path.iterdir())) == 3


def test_what_is_resident_on_its_way_back_or_boots_again_stays(
    machine: Machine, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where no other level is kept at all."""
    monkeypatch.setattr(store, "KEEP_LEVELS", 0)
    one, two, three = (published.levels[number].module.name for number in (1, 2, 3))

    def kept() -> set[str]:
        return {path.stem for path in (machine.paths.state / "levels").glob("*.json")}

    machine.must("update", "--level", "1")
    machine.clock.sleep(400)
    machine.must("status")
    machine.must("update", "--level", "2")
    assert kept() == {one, two}
    machine.must("update", "--level", "3")
    assert machine.kernel.resident() == [one, two, three]
    assert kept() == {one, two, three}
    machine.clock.sleep(400)
    machine.must("status")
    assert machine.kernel.resident() == [three]
    machine.must("rollback")
    assert machine.json("status")["livepatch"]["level"] == 2


def test_leftovers_go_and_what_is_new_stays(machine: Machine) -> None:
    machine.must("update", "--level", "1")
    state = machine.paths.state
    old, new = state / ".intent.json.abcd1234", state / "levels/.x.json.zzzz9999"
    for path in (old, new):
        path.write_text("torn")
    os.utime(old, (1, 1))
    lists = [state / "repository/levels" / f"{number:040x}.json" for number in range(50)]
    for number, path in enumerate(lists):
        path.write_text("{}")
        os.utime(path, (number, number))
    aside = [state / f"history.jsonl.corrupt-{number}" for number in range(1, 40)]
    for number, path in enumerate(aside):
        path.write_text("x" * 100)
        os.utime(path, (number, number))
    machine.must("update")
    assert not old.exists()
    assert new.exists()
    assert [path for path in lists if path.exists()] == lists[-tidying.KEEP_BUILDS :]
    assert (state / "repository/levels" / f"{BUILD_ID}.json").exists()
    assert [path for path in aside if path.exists()] == aside[-tidying.KEEP_ASIDE :]


def test_what_cannot_be_removed_fails_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise SystemProblemError("no")

    machine.must("update", "--level", "1")
    left = machine.paths.state / ".x.abcd1234"
    left.write_text("torn")
    os.utime(left, (1, 1))
    monkeypatch.setattr(
        "kmend.agent.tidying.durable.remove_durably",
        lambda path: refuse(path) if path == left else path.unlink(missing_ok=True),
    )
    machine.must("update")
    assert left.exists()


def size(folder: Path) -> tuple[int, int]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return len(files), sum(path.stat().st_size for path in files)


def test_forty_levels_one_after_the_other(machine: Machine, tmp_path: Path, keys: Path) -> None:
    """The files of the state stay as many as they were, and no module stays in memory."""
    repository = tmp_path / "many"
    names = [f"CVE-2026-{number:04}" for number in range(2001, 2041)]
    publish(repository, keys, [livepatch(number, names[:number], base=number - 1 or None) for number in range(1, 41)])
    configure_for(machine, repository, keys / "root.json")
    counts = {}
    for number in range(1, 41):
        machine.must("update", "--level", str(number))
        machine.clock.sleep(400)
        machine.must("status")
        counts[number] = size(machine.paths.state)[0], size(machine.paths.run)[0]
        assert len(machine.kernel.resident()) == 1
    assert counts[40] == counts[20]
    assert machine.json("status")["livepatch"]["level"] == 40


def test_a_broken_path_for_metrics_keeps_no_helper_from_starting(machine: Machine) -> None:
    started: list[bool] = []
    object.__setattr__(machine.host, "spawn_settler", lambda: started.append(True))
    machine.configure('[publish]\nprometheus = "/nowhere/kmend.prom"\n', "agent.toml.d/p.toml")
    machine.must("update")
    assert started
