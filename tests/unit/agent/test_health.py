"""While a level is being tried: what the kernel's log and taint mean, hooks, and the measures that policy wants."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.agent.conftest import Machine

from kmend.agent import health, kernellog
from kmend.agent.health import Measure
from kmend.agent.journal import Vitals
from kmend.agent.kernellog import Kind, LogRecord
from kmend.agent.main import main
from kmend.agent.recovery import TAINT_DIE
from kmend.agent.settling import _step

LINES = {
    "BUG: kernel NULL pointer dereference, address: 0000000000000000": Kind.BUG,
    "BUG: unable to handle page fault for address: ffffc900": Kind.OOPS,
    "Oops: 0002 [#1] PREEMPT SMP NOPTI": Kind.OOPS,
    "general protection fault, probably for non-canonical address 0xdead: 0000 [#1]": Kind.OOPS,
    "kernel BUG at mm/slub.c:440!": Kind.BUG,
    "BUG: KASAN: use-after-free in unix_ioctl+0x10/0x20": Kind.BUG,
    "list_del corruption. prev->next should be 1": Kind.BUG,
    "WARNING: CPU: 0 PID: 1 at kernel/livepatch/core.c:1 klp_x+0x1/0x2": Kind.WARNING,
    "INFO: task jbd2/vda1-8:123 blocked for more than 120 seconds.": Kind.HUNG_TASK,
    "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [sh:1]": Kind.LOCKUP,
    "NMI watchdog: Watchdog detected hard LOCKUP on cpu 1": Kind.LOCKUP,
    "rcu: INFO: rcu_preempt self-detected stall on CPU": Kind.RCU_STALL,
    "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:": Kind.RCU_STALL,
}


@pytest.mark.parametrize("text", LINES)
def test_kernels_own_words(text: str) -> None:
    (trouble,) = kernellog.troubles([LogRecord(7, True, text)])
    assert (trouble.kind, trouble.sequence) == (LINES[text], 7)
    assert kernellog.troubles([LogRecord(7, False, text)]) == (), "a program may write that too"


@pytest.mark.parametrize(
    "text",
    [
        "livepatch: enabling patch 'kmend_1_0'",
        "debug: fine",
        "ACPI: no warning: here",
        "systemd[1]: Oopsy",
        "no BUG: x",
    ],
)
def test_other_lines(text: str) -> None:
    assert kernellog.troubles([LogRecord(7, True, text)]) == ()


def test_log_is_read_from_a_number_on(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.write_bytes(b"6,1,0,-;one\n SUBSYSTEM=pci\n4,2,9,c,caller=T1;two\nrubbish\n12,3,9,-;\xff three\n")
    assert [record.sequence for record in kernellog.read_after(path, -1)] == [1, 2, 3]
    (last,) = kernellog.read_after(path, 2)
    assert (last.own, last.sequence) == (False, 3)
    assert kernellog.newest(path) == 3
    assert kernellog.newest(tmp_path / "absent") == -1


def test_real_log_can_be_read() -> None:
    if os.access("/dev/kmsg", os.R_OK):
        assert kernellog.newest(Path("/dev/kmsg")) >= -1


@pytest.mark.parametrize(
    ("kinds", "taint", "policy", "measure"),
    [
        ((), 0, "report", Measure.NOTHING),
        ((), 1 << 12, "revert", Measure.NOTHING),
        ((Kind.OOPS,), 0, "report", Measure.CONDEMN),
        ((Kind.WARNING, Kind.BUG), 0, "report", Measure.CONDEMN),
        ((), TAINT_DIE, "report", Measure.CONDEMN),
        ((), TAINT_DIE, "revert", Measure.REVERT),
        ((Kind.WARNING,), 0, "report", Measure.REPORT),
        ((Kind.RCU_STALL,), 0, "revert", Measure.REVERT),
        ((), health.TAINT_WARN, "report", Measure.REPORT),
        ((), health.TAINT_SOFT_LOCKUP, "revert", Measure.REVERT),
    ],
)
def test_judgement(kinds: tuple[Kind, ...], taint: int, policy: str, measure: Measure) -> None:
    troubles = [kernellog.Trouble(kind, 1, "x") for kind in kinds]
    finding = health.judge(troubles, taint_before=0, taint=taint, on_oops=policy, on_warning=policy)
    assert finding.measure is measure
    assert bool(finding.message) == (measure is not Measure.NOTHING)
    before = health.judge([], taint_before=taint, taint=taint, on_oops=policy, on_warning=policy)
    assert before.measure is Measure.NOTHING, "what was there before is not the level's doing"


def test_deltas() -> None:
    assert (
        health.deltas(Vitals(0.5, 900_000_000), Vitals(1.25, 890_000_000))
        == "load 0.50 -> 1.25, available memory -10 MB"
    )
    assert health.deltas(None, Vitals(1, 1)) == ""


def test_warning_is_reported_and_the_level_stays(machine: Machine) -> None:
    machine.kernel.log("WARNING: CPU: 0 before the load")
    machine.must("update", "--level", "1")
    machine.kernel.log("WARNING: CPU: 1 PID: 2 at net/unix/af_unix.c:1")
    notes = machine.json("status")["notes"]
    assert [("af_unix.c" in note["message"], "before" in note["message"]) for note in notes] == [(True, False)]
    machine.clock.sleep(301)
    document = machine.json("status")
    assert (document["state"], len(document["notes"])) == ("steady", 1)
    assert "load 0.10 -> 0.10, available memory +0 MB" in machine.json("history")["records"][-1]["message"]


def test_oops_in_the_log_stops_and_reports(machine: Machine) -> None:
    machine.must("update", "--level", "1")
    machine.kernel.log("Oops: 0002 [#1] PREEMPT SMP")
    document = machine.json("status")
    assert document["quarantine"][0]["cause"] == "oopsed"
    assert document["state"] == "quarantined"
    assert document["livepatch"]["level"] == 1, "a damaged kernel is not operated on"
    _step(machine.host)
    assert len(machine.kernel.active()) == 1


def test_oops_reverts_by_policy_only(machine: Machine) -> None:
    machine.configure('[policy]\non_oops = "revert"\n', "agent.toml.d/9.toml")
    machine.must("update", "--level", "1")
    machine.kernel.write("sys/kernel/tainted", str(TAINT_DIE))
    machine.must("status")
    assert len(machine.kernel.active()) == 1, "a person who looks changes nothing"
    _step(machine.host)
    machine.kernel.tick()
    _step(machine.host)
    assert machine.kernel.active() == []
    (entry,) = machine.json("status")["quarantine"]
    assert (entry["level"], entry["cause"]) == (1, "oopsed")


def test_warning_reverts_by_policy(machine: Machine) -> None:
    machine.configure('[policy]\non_warning = "revert"\n', "agent.toml.d/9.toml")
    machine.must("update", "--level", "1")
    machine.kernel.log("INFO: task sh:9 blocked for more than 120 seconds.")
    machine.clock.sleep(301)
    machine.must("status")
    assert "soaked" not in machine.must("history"), "it is not called good meanwhile"
    _step(machine.host)
    assert machine.kernel.active() == []
    assert machine.json("status")["quarantine"][0]["cause"] == "complained"
    assert machine.run("update") == 30


def test_transition_that_hangs_is_given_up_by_policy(machine: Machine) -> None:
    machine.kernel.hold_transitions(hold=True)
    assert machine.run("update", "--level", "1") == 20
    machine.clock.sleep(21_600)
    _step(machine.host)
    assert len(machine.kernel.active()) == 1, "the kernel goes on trying"
    machine.configure('[policy]\nstuck_transition = "revert"\n', "agent.toml.d/9.toml")
    _step(machine.host)
    assert machine.kernel.active() == []
    assert machine.json("status")["quarantine"][0]["cause"] == "stuck"
    machine.kernel.hold_transitions(hold=False)
    machine.must("update"), "a later level may be tried"


def hooks(machine: Machine, text: str) -> None:
    machine.configure(f"[hooks]\n{text}\n", "agent.toml.d/9.toml")


def test_hooks_are_told_what_happens(machine: Machine, tmp_path: Path) -> None:
    told = tmp_path / "told"
    command = f"sh -c 'echo $KMEND_LEVEL $KMEND_CAUSE $KMEND_CVES >> {told}'"
    hooks(machine, f'before = ["{command}"]\nafter = ["{command}"]')
    machine.must("update", "--level", "1")
    assert told.read_text() == "1 update CVE-2026-1001\n" * 2
    _step(machine.host)
    assert told.read_text() == "1 update CVE-2026-1001\n" * 2, "once"


def test_hook_before_keeps_the_level_out(machine: Machine) -> None:
    hooks(machine, 'before = ["true", "sh -c \'echo the database is busy; exit 3\'"]')
    assert machine.run("update") == 3
    assert "the database is busy" in machine.err
    assert machine.json("status")["state"] == "idle"
    assert machine.kernel.noted("loads") == []


def test_hook_after_is_reported_or_reverts(machine: Machine) -> None:
    hooks(machine, 'after = ["false"]')
    machine.must("update", "--level", "1")
    assert "'false' failed" in machine.err
    hooks(machine, 'after = ["false"]\non_failure = "revert"')
    assert machine.run("update", "--level", "2") == 1
    assert "taken off again" in machine.err
    assert machine.json("status")["quarantine"][0]["level"] == 2


@pytest.mark.parametrize("text", ['before = ["/nowhere/at-all"]', 'before = ["\'unbalanced"]'])
def test_hook_that_cannot_be_run(machine: Machine, text: str) -> None:
    hooks(machine, text)
    assert machine.run("update") == 3
    assert machine.kernel.noted("loads") == []


@pytest.mark.parametrize("text", ['[policy]\non_oops = "maybe"', "[hooks]\nseconds = 0", '[hooks]\non_failure = "x"'])
def test_configuration_is_checked(machine: Machine, text: str) -> None:
    machine.configure(text, "agent.toml.d/9.toml")
    assert main(("check",), host=machine.host) == 78
