"""The fault matrix on a real kernel: the agent killed, and the power cut, at every journaled step of every command.

The steps are those of `kmend.agent.states.fail_points`; which a command passes is traced, so that a new one is covered, or fails
a test here. After each fault the kernel runs the old level or the new one, the record agrees with it, and the next update works.
A seeded sample runs always, the whole with the slow tests.
"""

from __future__ import annotations

import pytest
from _pytest.mark.structures import ParameterSet
from tests.vm.faulted import UNDECIDED, WAYS, Struck, cells, sample

from kmend.agent.states import fail_points

KILLS, CUTS = 1, 1
"""How many of each are in the quick sample."""
SIGKILL = 137
TRACE = "/run/trace"
TIMED = {"remove.before", "remove.after"}
"""Passed or not, by how long the command takes."""
TOLD = {"publish.before"}
"""A transition that takes long is published while it does."""


def chosen(purpose: str, count: int, among: list[tuple[str, str]]) -> list[ParameterSet]:
    """All cells; those outside a seeded sample are slow."""
    quick = sample(purpose, count, among)
    return [pytest.param(*cell, marks=[] if cell in quick else [pytest.mark.slow]) for cell in among]


def cuts() -> list[tuple[str, str]]:
    """Every step once, and in each command every moment after something was written."""
    seen: set[str] = set()
    found = []
    for name, point in cells():
        if point not in seen or point.endswith((".written", ".after")):
            found.append((name, point))
        seen.add(point)
    return found


def test_every_step_is_reached() -> None:
    assert set(fail_points()) - {point for _, point in cells()} == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_ways_pass_what_they_say(struck: Struck, name: str) -> None:
    way = WAYS[name]
    struck.lead(way)
    struck.vm.sh(f"rm -f {TRACE}")
    struck.vm.run(struck.words(way), environment={"KMEND_FAILPOINT": f"trace:{TRACE}"}, check=False, timeout=180)
    passed = set(struck.vm.read(TRACE).decode().split())
    points = set(way.points)
    assert passed - points <= TIMED | TOLD, passed - points
    assert points - passed <= TIMED, points - passed
    struck.goes_on()


@pytest.mark.parametrize(("name", "point"), chosen("kill", KILLS, cells()))
def test_killed(struck: Struck, name: str, point: str) -> None:
    way = WAYS[name]
    struck.lead(way)
    done = struck.vm.run(struck.words(way), environment={"KMEND_FAILPOINT": point}, check=False, timeout=180)
    killed = done.status == SIGKILL or (done.status and "systemd-run" in way.command)
    assert killed, (way.command, done.status, done.text, done.stderr.decode())
    struck.agrees(way)
    struck.goes_on()


@pytest.mark.parametrize(("name", "point"), chosen("power", CUTS, cuts()))
def test_power_cut(struck: Struck, name: str, point: str) -> None:
    way = WAYS[name]
    struck.lead(way)
    struck.vm.sh("sync")
    struck.vm.start_command(struck.words(way), environment={"KMEND_FAILPOINT": f"{point}:power"})
    struck.vm.wait_end(120)
    struck.vm.start()
    assert struck.level() == 0
    document = struck.status()
    assert document["state"] in ("idle", "held", "quarantined")
    assert document["state"] not in UNDECIDED
    struck.goes_on()


def test_sample_is_the_same_everywhere() -> None:
    assert sample("kill", KILLS, cells()) == sample("kill", KILLS, list(reversed(cells())))
