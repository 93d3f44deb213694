"""Care for a transition that does not come to its end: who holds it up, turning it round, a newer level that comes meanwhile."""

from __future__ import annotations

import pytest
from tests.unit.agent.conftest import Machine

from kmend.agent.livekernel import LiveKernel
from kmend.core.errors import SystemProblemError


@pytest.fixture
def stuck(machine: Machine) -> Machine:
    """Level 1 is in force, level 2 in transition, and a task holds it up."""
    machine.must("update", "--level", "1")
    machine.kernel.add_task(700, "sleeper", 0)
    machine.kernel.add_task(701, "fine", 1)
    machine.kernel.hold_transitions(hold=True)
    assert machine.run("update", "--level", "2") == 20
    return machine


def names(machine: Machine) -> list[str]:
    """The livepatches with their levels only."""
    return [name.split("_")[1] + name[-1].strip("0123456789abcdef") for name in machine.kernel.active()]


def test_progress_is_told(stuck: Machine) -> None:
    assert "1 of 2 tasks are switched; waiting for sleeper (700)" in stuck.err
    livepatch = stuck.json("status")["livepatch"]
    assert (livepatch["tasks"], livepatch["left"]) == (2, 1)
    assert livepatch["moving_seconds"] >= 60
    assert livepatch["blocking"][0]["stack"][0].startswith("ep_poll")
    assert "1 of 2 tasks are switched after 6" in stuck.must("status")


def test_stack_that_cannot_be_read_is_explained(stuck: Machine) -> None:
    (stuck.paths.proc / "700/task/700/stack").unlink()
    (task,) = stuck.json("status")["livepatch"]["blocking"]
    assert (task["stack"], task["why"]) == ([], "this kernel shows no stacks (CONFIG_STACKTRACE)")
    stuck.kernel.write("700/task/700/stack", "")
    (stuck.paths.proc / "700/task/700/stack").write_text("")
    assert "runs right now" in stuck.must("status")


def test_fake_signal_only_where_the_kernel_has_it(machine: Machine) -> None:
    machine.kernel.hold_transitions(hold=True)
    assert machine.run("update", "--level", "1") == 20
    (folder,) = machine.kernel.livepatch.iterdir()
    assert not (folder / "signal").exists(), "kmend makes no file"
    (folder / "signal").write_text("")
    assert machine.run("update", "--level", "1") == 20
    assert (folder / "signal").read_text() == "1"


def test_rollback_turns_it_round(stuck: Machine) -> None:
    document = stuck.json("rollback")
    assert (stuck.status, document["way"], document["level"], document["left"]) == (0, "reverse", 1, 2)
    assert names(stuck) == ["1"]
    assert stuck.json("status")["state"] == "quarantined"
    stuck.kernel.hold_transitions(hold=False)
    assert stuck.run("update") == 30, "a person went back"


def test_rollback_to_another_level_has_to_wait(stuck: Machine) -> None:
    assert stuck.run("rollback", "--to", "3") == 3
    assert "leads to level 1 only" in stuck.err
    assert names(stuck) == ["1", "2!"]


def test_rollback_of_the_first_level(machine: Machine) -> None:
    machine.kernel.hold_transitions(hold=True)
    assert machine.run("update", "--level", "1") == 20
    assert machine.run("rollback") == 3
    assert "kmend unload" in machine.err
    document = machine.json("unload")
    assert (machine.status, document["level"]) == (0, 1)
    assert machine.kernel.active() == []
    machine.kernel.hold_transitions(hold=False)
    assert machine.run("update") == 30, "a person took it off"


def test_newer_level_takes_its_place(stuck: Machine) -> None:
    stuck.run("update", "--level", "3")
    assert "level 2 is still in transition: it is taken off again, then level 3 is loaded" in stuck.err
    assert names(stuck) == ["1", "3!"]
    stuck.kernel.hold_transitions(hold=False)
    stuck.must("status")
    assert names(stuck) == ["3"]
    events = [record["event"] for record in stuck.json("history")["records"]]
    assert events[-6:] == [
        *("begin_reverting", "finish_disabling", "arm"),
        *("begin_loading", "begin_transition", "begin_soak"),
    ]


def test_same_level_goes_on_waiting(stuck: Machine) -> None:
    assert stuck.run("update", "--level", "2") == 20
    assert names(stuck) == ["1", "2!"]


def test_kernel_that_does_not_turn_round(stuck: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: LiveKernel, name: str) -> None:
        raise SystemProblemError(f"the kernel does not disable {name}: Device or resource busy")

    monkeypatch.setattr(LiveKernel, "disable", refuse)
    assert stuck.run("rollback") == 1
    assert stuck.json("status")["state"] == "transitioning"
    assert names(stuck) == ["1", "2!"]
