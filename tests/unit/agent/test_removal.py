"""What happens to the record when the package goes while a level is still being tried."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.unit.agent.conftest import Machine

from kmend.agent.removal import end_helpers


def test_removal_while_soaking_is_no_crash(machine: Machine) -> None:
    """Without the closing record the level would be taken for one that crashed the host."""
    machine.must("update", "--level", "1")
    assert machine.json("status")["state"] == "soaking"
    machine.must("internal", "before-removal")
    assert machine.json("status")["livepatch"]["level"] == 1
    machine.kernel.boot()
    document = machine.json("status")
    assert document["quarantine"] == []
    assert "was removed from this host" in machine.must("history")
    machine.must("update")


def test_removal_with_nothing_open_records_nothing(machine: Machine) -> None:
    before = machine.must("history")
    machine.must("internal", "before-removal")
    assert machine.must("history") == before


def test_removal_with_a_broken_configuration(machine: Machine) -> None:
    machine.must("update", "--level", "1")
    machine.configure("nonsense = [")
    machine.must("internal", "before-removal")


def test_the_helper_that_holds_the_lock_is_asked_to_end(tmp_path: Path) -> None:
    lock = tmp_path / "settle.lock"
    script = (
        "import fcntl, sys, time; f = open(sys.argv[2], 'w'); fcntl.flock(f, 2); print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, "settle", lock], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        end_helpers(Path("/proc"), lock)
        assert child.wait(30) == -signal.SIGTERM


def test_another_holder_is_left_alone(tmp_path: Path) -> None:
    lock = tmp_path / "settle.lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    end_helpers(Path("/proc"), lock)
    end_helpers(tmp_path, lock)
    end_helpers(Path("/proc"), tmp_path / "none")
    os.close(descriptor)
