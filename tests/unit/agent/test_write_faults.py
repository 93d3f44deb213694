"""A write that fails: each one that a command makes, once or from then on. No traceback, and nothing in between or lost.

Every durable write ends in `fsync`, of a file or of a folder, so that its calls enumerate the writes: a new one is covered by
itself.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.agent.conftest import Machine
from tests.unit.agent.test_crash_safety import ONE, SCENARIOS, TWO, Scenario

from kmend.agent import statefile
from kmend.core.errors import SystemProblemError

COMMANDS = (
    *(
        SCENARIOS[name]
        for name in (
            "first-update",
            "replacing-update",
            "rollback",
            "reversed",
            "rollback-with-gap",
            "unload",
            "settling",
            "refused",
            "after-a-crash",
            "quarantine-clear",
            "shutdown",
        )
    ),
    Scenario("boot", (ONE,), ("boot",), lambda machine: soaked(machine)),
    Scenario("status", (ONE, TWO), ("status",), lambda machine: machine.clock.sleep(1000)),
    Scenario("check", (), ("check",)),
)
MAX_WRITES = 400
CODES = (errno.ENOSPC, errno.EROFS, errno.EIO)


def soaked(machine: Machine) -> None:
    """Level 1 has soaked, and another boot has begun."""
    machine.clock.sleep(1000)
    machine.must("check")
    machine.must("internal", "note-shutdown")
    machine.kernel.boot()


class FailingDisk:
    """Counts what is synced, and fails: `first` is the number of the write, from 0 on; None never fails."""

    def __init__(self, first: int | None, *, stays: bool, code: int) -> None:
        self.count = 0
        self._first = first
        self._stays = stays
        self._code = code

    def sync(self, descriptor: int) -> None:
        number, self.count = self.count, self.count + 1
        if self._first is not None and (number == self._first or (self._stays and number > self._first)):
            raise OSError(self._code, os.strerror(self._code))


def lead(machine: Machine, scenario: Scenario) -> None:
    for words in scenario.before:
        machine.must(*words)
    scenario.between(machine)


def settled(machine: Machine, before: list[str]) -> None:
    """The disk works again: the kernel has the old or the new level, all is told, and an update works."""
    machine.kernel.hold_transitions(hold=False)
    machine.kernel.tick()
    active = machine.kernel.active()
    assert len(active) <= 1, (before, active)
    document = machine.json("status")
    assert document["state"] not in ("armed", "loading", "transitioning", "reverting")
    machine.kernel.refuse(0)
    machine.clock.sleep(100)
    machine.must("update", "--level", "3")
    assert machine.json("status", "--exit-code")["livepatch"]["level"] == 3
    assert machine.status == 0


CASES = [
    pytest.param(
        scenario,
        stays,
        id=f"{scenario.name}-{'from-then-on' if stays else 'once'}",
        marks=[] if stays and scenario.name != "rollback" else [pytest.mark.slow],
    )
    for scenario in COMMANDS
    for stays in (True, False)
]


@pytest.mark.parametrize(("scenario", "stays"), CASES)
def test_every_write_fails(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scenario: Scenario, stays: bool
) -> None:
    lead(machine, scenario)
    shutil.copytree(machine.paths.root, tmp_path / "kept", symlinks=True)
    restore = keeper(machine, tmp_path / "kept")
    disk = FailingDisk(None, stays=stays, code=0)
    monkeypatch.setattr("os.fsync", disk.sync)
    machine.run(*scenario.command)
    total = disk.count
    assert 0 < total < MAX_WRITES
    for number, code in zip(range(total), itertools.cycle(CODES), strict=False):
        restore()
        before = machine.kernel.active()
        disk = FailingDisk(number, stays=stays, code=code)
        monkeypatch.setattr("os.fsync", disk.sync)
        status = machine.run(*scenario.command)
        assert disk.count > number
        assert "Traceback" not in machine.err
        told = status == 0 or "error" in machine.err or scenario.name == "reversed"
        assert told, (number, status, machine.err)
        if stays:
            # A disk that stays so hides nothing.
            assert machine.run("status") == 0, (number, machine.err)
            assert machine.out
        monkeypatch.setattr("os.fsync", lambda descriptor: None)
        settled(machine, before)


def keeper(machine: Machine, kept: Path) -> Callable[[], None]:
    """What puts a host back to how it was kept."""

    def restore() -> None:
        shutil.rmtree(machine.paths.root)
        shutil.copytree(kept, machine.paths.root, symlinks=True)

    return restore


def test_full_run_folder_keeps_nobody_from_working(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the holder's name in the lock, nor what is published, can be written."""
    write, save = os.pwrite, statefile.save

    def pwrite(descriptor: int, content: bytes, offset: int) -> int:
        if b"update" in content:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content, offset)

    def refusing(path: Path, document: object) -> None:
        if path.is_relative_to(machine.paths.run):
            raise SystemProblemError(f"cannot write {path}: No space left on device")
        save(path, document)

    monkeypatch.setattr("os.pwrite", pwrite)
    monkeypatch.setattr("kmend.agent.statefile.save", refusing)
    machine.must("update", "--level", "1")
    machine.must("update", "--level", "2")
    assert machine.json("status")["livepatch"]["level"] == 2


def test_lock_on_a_read_only_file_system_is_explained(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if str(path).endswith("/lock"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr("kmend.agent.lock.os.open", refusing)
    assert machine.run("update") == 1
    assert f"make {machine.paths.run} writable" in machine.err
