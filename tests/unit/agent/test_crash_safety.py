"""SIGKILL at every fail point, and a power cut at every fail point: the host comes up, tells what happened, and can update.

Each case runs the command in a forked child that dies at the point, then looks at what later commands make of it.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet
from tests.unit.agent.conftest import Machine

from kmend.agent import failpoint, states
from kmend.agent.main import main


def nothing(machine: Machine) -> None:
    """No preparation."""


def vanish(machine: Machine) -> None:
    """Somebody else takes the livepatch off."""
    for folder in machine.kernel.livepatch.iterdir():
        shutil.rmtree(folder)


def shut_down(machine: Machine) -> None:
    """An orderly reboot."""
    machine.must("internal", "note-shutdown")
    machine.kernel.boot()


def linger(machine: Machine) -> None:
    """The replaced module's delay and the soak pass."""
    machine.clock.sleep(1000)


def hang(machine: Machine) -> None:
    """Level 2 is in transition, and does not come to its end."""
    machine.kernel.hold_transitions(hold=True)
    assert machine.run("update", "--level", "2") == 20


def reverting(machine: Machine) -> None:
    """An agent was killed right before it turned the transition of level 2 round."""
    hang(machine)
    child = os.fork()
    if child == 0:
        os.environ[failpoint.VARIABLE] = "reverse.before"
        try:
            os._exit(main(("rollback",), host=machine.host))
        except BaseException:  # noqa: BLE001 - the child of a test must never return into pytest
            os._exit(99)
    os.waitpid(child, 0)
    machine.capture.readouterr()


@dataclass(frozen=True)
class Scenario:
    """A command, what precedes it, and what happens in between."""

    name: str
    before: tuple[tuple[str, ...], ...]
    command: tuple[str, ...]
    between: Callable[[Machine], None] = nothing


AT_REST = tuple(state.value for state in states.REST)
ONE, TWO = ("update", "--level", "1"), ("update", "--level", "2")
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("first-update", (), ONE),
        Scenario("replacing-update", (ONE,), TWO),
        Scenario("rollback", (ONE, TWO), ("rollback",)),
        Scenario("reversed", (ONE,), ("rollback",), hang),
        Scenario("killed-before-reversing", (ONE,), ("check",), reverting),
        Scenario("rollback-with-gap", (TWO,), ("rollback", "--to", "1", "--unload-first")),
        Scenario("unload", (ONE,), ("unload",)),
        Scenario("settling", (ONE, TWO), ("check",), linger),
        Scenario("refused", (), ONE, lambda machine: machine.kernel.refuse(22)),
        Scenario("taken-off-by-another", (ONE,), ("check",), vanish),
        Scenario("after-a-crash", (ONE,), ("check",), lambda machine: machine.kernel.boot()),
        Scenario("after-a-shutdown", (ONE,), ("check",), shut_down),
        Scenario("quarantine-clear", (ONE, ("unload",)), ("quarantine", "clear")),
        Scenario("shutdown", (ONE,), ("internal", "note-shutdown")),
    )
}


def run_until(machine: Machine, scenario: Scenario, point: str) -> bool:
    """Run a scenario's command in a child that dies at `point`; whether it died there."""
    for words in scenario.before:
        machine.must(*words)
    scenario.between(machine)
    child = os.fork()
    if child == 0:
        os.environ[failpoint.VARIABLE] = point
        try:
            os._exit(main(scenario.command, host=machine.host))
        except BaseException:  # noqa: BLE001 - the child of a test must never return into pytest
            os._exit(99)
    _, status = os.waitpid(child, 0)
    machine.capture.readouterr()
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) in (0, 1, 143)
    return False


LOAD = ("arm", "begin_loading", "begin_transition", "begin_soak")
LOAD_ACTS = ("fetched", "finit.before", "finit.after", "confirmed", "publish.before")
OFF = ("arm", "begin_disabling", "finish_disabling")
OFF_ACTS = ("hold.before", "hold.after", "disable.before", "disable.after")


def moments(*changes: str) -> set[str]:
    """The three points of each change."""
    return {f"{change}.{moment}" for change in changes for moment in ("before", "written", "after")}


REMOVAL = {"remove.before", "remove.after"}
HOLD = {"hold.before", "hold.after"}
PASSES: dict[str, set[str]] = {
    "first-update": moments(*LOAD) | set(LOAD_ACTS),
    "replacing-update": moments("supersede", *LOAD) | set(LOAD_ACTS),
    "rollback": moments("supersede", *LOAD) | HOLD | REMOVAL | (set(LOAD_ACTS) - {"fetched"}),
    "reversed": moments("begin_reverting", "finish_disabling") | {"reverse.before", "reverse.after", "publish.before"},
    "killed-before-reversing": moments("resume_transition") | {"publish.before"},
    "rollback-with-gap": moments("supersede", *OFF, *LOAD) | set(OFF_ACTS) | (set(LOAD_ACTS) - {"fetched"}),
    "unload": moments("supersede", *OFF) | set(OFF_ACTS) | REMOVAL | {"publish.before"},
    "settling": moments("settle") | REMOVAL | {"publish.before"},
    "refused": moments("arm", "begin_loading", "refuse") | {"fetched", "finit.before", "publish.before"},
    "taken-off-by-another": moments("lapse") | {"publish.before"},
    "after-a-crash": moments("condemn") | {"publish.before"},
    "after-a-shutdown": moments("conclude_nothing") | {"publish.before"},
    "quarantine-clear": {"clear.before", "clear.after", "publish.before"},
    "shutdown": {"note.before", "note.after"},
}


def cases() -> Iterator[ParameterSet]:
    """Every point in every scenario; a point is tried again in the quick tests only between a change's two writes."""
    tried: set[str] = set()
    for name, points in PASSES.items():
        for point in sorted(points):
            again = point in tried and not point.endswith(".written")
            tried.add(point)
            yield pytest.param(name, point, marks=[pytest.mark.slow] if again else [])


def test_every_fail_point_is_tried() -> None:
    assert set().union(*PASSES.values()) == set(states.fail_points())


@pytest.mark.parametrize(("name", "point"), list(cases()))
def test_host_survives(machine: Machine, name: str, point: str, tmp_path: Path) -> None:
    assert run_until(machine, SCENARIOS[name], point), f"{name} does not pass {point}"
    shutil.copytree(machine.paths.root, tmp_path / "kept", symlinks=True)
    survives_kill(machine, point)
    shutil.rmtree(machine.paths.root)
    (tmp_path / "kept").rename(machine.paths.root)
    survives_power_cut(machine)


def survives_kill(machine: Machine, point: str) -> None:
    """The same boot goes on."""
    machine.kernel.hold_transitions(hold=False)  # the kernel goes on without the agent
    machine.kernel.tick()
    document = machine.json("status")
    assert document["state"] in (*AT_REST, "soaking")
    assert len(machine.kernel.active()) <= 1, "nothing is left half done"
    if "begin" in point or "finit" in point:
        assert document["notes"] or document["state"] == "soaking"
    can_update(machine)


def survives_power_cut(machine: Machine) -> None:
    """Another boot comes up."""
    machine.kernel.hold_transitions(hold=False)
    left = (machine.paths.state / "intent.json").exists()
    machine.kernel.boot()
    document = machine.json("status")
    assert document["state"] in AT_REST
    assert document["livepatch"] is None
    assert bool(document["notes"]) or not left
    again = machine.json("status")
    assert again["quarantine"] == document["quarantine"]
    assert again["notes"] == document["notes"]
    can_update(machine)


@pytest.mark.parametrize(
    ("point", "quarantined"),
    [
        ("arm.after", False),
        ("begin_loading.written", True),
        ("finit.after", True),
        ("begin_transition.after", True),
        ("begin_soak.after", True),
    ],
)
def test_power_cut_quarantines_exactly_from_loading_on(machine: Machine, point: str, quarantined: bool) -> None:
    assert run_until(machine, SCENARIOS["first-update"], point)
    machine.kernel.boot()
    entries = machine.json("status")["quarantine"]
    assert [entry["level"] for entry in entries] == ([1] if quarantined else [])


@pytest.mark.parametrize("point", sorted(PASSES["first-update"] - {"publish.before"}))
def test_stopped_by_sigterm(machine: Machine, point: str) -> None:
    child = os.fork()
    if child == 0:
        os.environ[failpoint.VARIABLE] = f"{point}:term"
        try:
            os._exit(main(ONE, host=machine.host))
        except BaseException:  # noqa: BLE001 - the child of a test must never return into pytest
            os._exit(99)
    _, status = os.waitpid(child, 0)
    machine.capture.readouterr()
    assert os.waitstatus_to_exitcode(status) == 143
    machine.kernel.boot()
    document = machine.json("status")
    assert document["quarantine"] == []
    assert document["state"] in AT_REST
    can_update(machine)


def can_update(machine: Machine) -> None:
    """A person can go on to the newest level from here, after at most the delay of a lingering module."""
    machine.kernel.refuse(0)
    machine.clock.sleep(100)
    machine.must("update", "--level", "3")
    document = machine.json("status", "--exit-code")
    assert machine.status == 0
    assert document["livepatch"]["level"] == 3
    assert document["livepatch"]["state"] == "in-force"
