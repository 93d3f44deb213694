"""Torn and foreign state files never keep kmend from starting; they are set aside and named."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tests.unit.agent.conftest import Machine

from kmend.agent import statefile
from kmend.agent.history import History, Record
from kmend.agent.quarantine import Entries
from kmend.core.errors import SystemProblemError

STATE = ["intent.json", "quarantine.json", "last_check.json", "soaked.json", "shutdown.json", "history.jsonl"]


@pytest.mark.parametrize("name", STATE)
@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"{", b"[]", b"\xff\xfe", b'{"format":"other"}', b"[" * 99_999])
def test_corrupt_state_never_prevents_a_start(machine: Machine, name: str, content: bytes) -> None:
    machine.must("update", "--level", "1")
    machine.clock.sleep(400)
    machine.must("status")
    (machine.paths.state / name).write_bytes(content)
    machine.must("status")
    machine.must("update")
    assert machine.json("status")["livepatch"]["level"] == 3


@pytest.mark.parametrize("suffix", ["json", "ko", "p7s"])
def test_corrupt_store_is_not_trusted(machine: Machine, suffix: str) -> None:
    machine.must("update", "--level", "1")
    machine.must("update", "--level", "2")
    machine.clock.sleep(100)
    for path in (machine.paths.state / "levels").glob(f"kmend_1_*.{suffix}"):
        path.write_bytes(b"")
    machine.must("rollback", "--to", "1")
    assert machine.json("status")["livepatch"]["level"] == 1


def test_corrupt_run_time_files(machine: Machine) -> None:
    machine.must("update", "--level", "1")
    machine.must("update", "--level", "2")
    for name in ("residents.json", "state.json", "lock"):
        (machine.paths.run / name).write_bytes(b"\0" * 100)
    machine.must("status")
    machine.clock.sleep(100)
    machine.must("status")
    assert len(machine.kernel.resident()) == 1


def test_set_aside_is_bounded_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "quarantine.json"
    with caplog.at_level(logging.WARNING):
        for _ in range(30):
            path.write_bytes(b"garbage")
            assert statefile.load(path, Entries) is None
            assert not path.exists()
    assert "was set aside as quarantine.json.corrupt-1" in caplog.text
    assert len(list(tmp_path.glob("*.corrupt-*"))) == 20


def record(number: int) -> Record:
    return Record(number, "boot", "settle", f"intent-{number}", 1, "kmend_1_00000000", "message")


def test_history_skips_a_torn_line_and_loses_nothing_after_it(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.append(record(1))
    with (tmp_path / "history.jsonl").open("ab") as stream:
        stream.write(b'{"at": 2, "boot')
    history.append(record(3))
    assert [item.at for item in history.records()] == [1, 3]


def test_history_recognises_a_repeated_record(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.append(record(1))
    history.append(record(1))
    assert len(history.records()) == 1


def test_history_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmend.agent.history.MAX_BYTES", 20_000)
    monkeypatch.setattr("kmend.agent.history.KEEP_RECORDS", 10)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    history = History(tmp_path / "history.jsonl")
    for number in range(300):
        history.append(record(number))
    assert (tmp_path / "history.jsonl").stat().st_size < 21_000
    assert history.records()[-1].at == 299


def test_history_that_is_far_too_large_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_bytes(b"x" * 3_000_000)
    history = History(tmp_path / "history.jsonl")
    history.append(record(1))
    assert [item.at for item in history.records()] == [1]
    assert (tmp_path / "history.jsonl.corrupt-1").exists()


def test_full_disk_changes_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The intent cannot be stored, so nothing is loaded; the error that is shown is the disk's."""
    machine.must("check")

    def full(path: Path, content: bytes, *, mode: int = 0o644) -> None:
        raise SystemProblemError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr("kmend.core.durable.write_durably", full)
    assert machine.run("update") == 1
    assert "No space left" in machine.err
    monkeypatch.undo()
    assert machine.kernel.noted("loads") == []
    machine.must("update")
