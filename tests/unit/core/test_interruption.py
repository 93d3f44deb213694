"""A program that is asked to stop: what it started ends first, it says so once, and its status tells the signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

PROGRAM = """
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from kmend.core import interruption
from kmend.core.process import ProgramFailedError, run
from kmend.core.scratch import scratch_folder
from kmend.core.workers import worker_pool

def work(folder):
    run(["sh", "-c", f"echo $$ > {folder}/child; sleep 60 & echo $! > {folder}/grandchild; wait"])

place = Path(sys.argv[1])
for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)  # whoever started the tests may ignore them (nohup, a background job)
interruption.watch()
try:
    with scratch_folder("trial", place):
        WORK
except interruption.Interrupted as stop:
    print("interrupted", stop)
    sys.exit(stop.exit_status)
except ProgramFailedError as problem:
    print("failed", problem.message)
    sys.exit(1)
"""
WAYS = {
    "main thread": "work(place)",
    "thread": "\n".join(
        ["with ThreadPoolExecutor(2) as pool:", "    jobs = [pool.submit(work, place)]", "    jobs[0].result()"]
    ),
}


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def _started(folder: Path, way: str) -> tuple[subprocess.Popen[str], list[int]]:
    """The program at work, with the numbers of what it started."""
    text = PROGRAM.replace("WORK", textwrap.indent(WAYS[way], " " * 8).strip())
    (folder / "program.py").write_text(text)
    child = subprocess.Popen([sys.executable, folder / "program.py", folder], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    pids: list[int] = []
    while len(pids) < 2 and time.monotonic() < deadline:
        names = [folder / "child", folder / "grandchild"]
        pids = [int(path.read_text()) for path in names if path.exists() and path.read_text().strip()]
        time.sleep(0.02)
    assert len(pids) == 2
    return child, pids


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_everything_ends(tmp_path: Path, way: str, number: signal.Signals) -> None:
    child, pids = _started(tmp_path, way)
    child.send_signal(number)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    assert output == f"interrupted interrupted by {number.name}\n"
    assert [pid for pid in pids if _alive(pid)] == []
    assert list(tmp_path.glob(".kmend-*")) == []


def test_a_program_that_somebody_else_ends_is_a_failure(tmp_path: Path) -> None:
    child, pids = _started(tmp_path, "main thread")
    os.kill(pids[0], signal.SIGKILL)
    os.kill(pids[1], signal.SIGKILL)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 1
    assert output.startswith("failed killed by SIGKILL: ")


POOL = """
import sys, time
from pathlib import Path
from kmend.core import interruption
from kmend.core.process import run
from kmend.core.workers import worker_pool

def work(folder):
    run(["sh", "-c", f"echo $$ > {folder}/child.tmp; mv {folder}/child.tmp {folder}/child; exec sleep 60"])

def main():
    place = Path(sys.argv[1])
    interruption.watch()
    try:
        with worker_pool(1) as pool:
            for job in [pool.submit(work, place) for _ in range(5)]:
                job.result()
    except interruption.Interrupted as stop:
        sys.exit(stop.exit_status)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_of_a_pool_end_with_it(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "pool.py").write_text(POOL)
    child = subprocess.Popen([sys.executable, tmp_path / "pool.py", tmp_path], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "child").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    pid = int((tmp_path / "child").read_text())
    child.send_signal(number)
    child.communicate(timeout=60)
    assert child.returncode == (143 if number == signal.SIGTERM else -signal.SIGKILL)
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(pid)
