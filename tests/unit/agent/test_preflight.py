"""Every reason not to touch the kernel, as a person meets it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.unit.agent.conftest import Machine

from kmend.agent.recovery import TAINT_DIE


def namespace(kind: str) -> Callable[[Machine], None]:
    def enter(machine: Machine) -> None:
        link = machine.paths.proc / "self/ns" / kind
        link.unlink()
        link.symlink_to(f"{kind}:[4026532999]")

    return enter


def without_interface(machine: Machine) -> None:
    machine.kernel.livepatch.rmdir()


def setting(name: str, value: str) -> Callable[[Machine], None]:
    return lambda machine: machine.kernel.write(name, value)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (namespace("pid"), "inside a container"),
        (namespace("user"), "inside a container"),
        (without_interface, "CONFIG_LIVEPATCH"),
        (setting("vmcore", ""), "kdump kernel"),
        (setting("cmdline", "root=/dev/vda1 elfcorehdr=0x1000"), "kdump kernel"),
        (setting("self/status", "CapEff:\t0000000000000000"), "CAP_SYS_MODULE"),
        (setting("sys/kernel/modules_disabled", "1"), "modules_disabled"),
        (setting("sys/kernel/ftrace_enabled", "0"), "ftrace"),
        (setting("sys/kernel/tainted", str(TAINT_DIE | 1)), "oops"),
        (setting("self/mountinfo", "1 1 0:1 / / rw - ext4 a rw\n2 1 0:2 / /var rw - tmpfs b rw"), "survive a reboot"),
        (setting("self/mountinfo", "1 1 0:1 / / rw - rootfs rootfs rw"), "survive a reboot"),
    ],
)
def test_host_is_refused(machine: Machine, prepare: Callable[[Machine], None], words: str) -> None:
    prepare(machine)
    assert machine.run("update") == 3
    assert words in machine.err
    assert machine.kernel.noted("loads") == []
    assert machine.json("status")["livepatch"] is None


def test_volatile_state_can_be_allowed(machine: Machine) -> None:
    machine.kernel.write("self/mountinfo", "1 1 0:1 / / rw - tmpfs a rw")
    machine.configure("[policy]\nvolatile_state = true\n", "agent.toml.d/1.toml")
    machine.must("update")


def test_mount_below_counts_only_where_it_is(machine: Machine) -> None:
    machine.kernel.write("self/mountinfo", "1 1 0:1 / / rw - ext4 a rw\n2 1 0:2 / /var/lib/kmend-other rw - tmpfs b rw")
    machine.must("update")


@pytest.mark.parametrize("lockdown", ["none [integrity] confidentiality", "none integrity [confidentiality]"])
def test_unsigned_module_under_lockdown(machine: Machine, lockdown: str) -> None:
    path = machine.paths.sys / "kernel/security/lockdown"
    path.parent.mkdir(parents=True)
    path.write_text(lockdown)
    machine.configure('[repository]\nsigner = "nobody"\n', "agent.toml.d/1.toml")
    assert machine.run("update") == 3
    assert "only signed modules" in machine.err
    machine.configure("", "agent.toml.d/1.toml")
    machine.must("update")


def test_transition_of_another_tool_is_explained(machine: Machine) -> None:
    machine.kernel.add_foreign("kpatch_cve")
    machine.kernel.hold_transitions(hold=True)
    (machine.kernel.livepatch / "kpatch_cve/transition").write_text("1\n")
    machine.configure("[policy]\nreplace_foreign = true\n", "agent.toml.d/1.toml")
    assert machine.run("update") == 3
    assert "until its transition is over" in machine.err
