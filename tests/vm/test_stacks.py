"""What the safety reports say of stacks, held against a real kernel."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.fixmaker import Edit, FixMaker

from kmend import lab
from kmend.core.kernel import KernelRef
from kmend.factory.build import Built, build
from kmend.factory.kernels.packages import fetch_package, kernel_packages
from kmend.factory.kernels.prepared import Kernel

VERSION = "fs/proc/version.c"
HEAD = "static int version_proc_show(struct seq_file *m, void *v)\n"
END = "\treturn 0;\n}\n\nstatic int __init"
NAP = "static noinline int version_nap(struct seq_file *m)\n{\n\tmsleep(4000 + READ_ONCE(m->count) * 0);\n\treturn 0;\n}\n\n"
LOOP = "\tset_freezable();\n\twhile (!kthread_should_stop()) {\n"


@pytest.fixture(scope="module")
def guest(prepared: Kernel) -> Iterator[lab.Vm]:
    """The prepared kernel, running."""
    ref = KernelRef.parse(prepared.identity.ref)
    with lab.boot(lab.unpack(fetch_package(kernel_packages(ref).image, prepared.record.package).path)) as vm:
        yield vm


def napping(prepared: Kernel, maker: FixMaker, end: str, level: int) -> Built:
    """A livepatch whose new function naps for four seconds; `end` calls it."""
    return build(
        prepared,
        [
            maker.fix(
                Edit(VERSION, "#include <linux/fs.h>\n", "#include <linux/delay.h>\n#include <linux/fs.h>\n"),
                Edit(VERSION, HEAD, NAP + HEAD),
                Edit(VERSION, END, END.replace("return 0;", end)),
            )
        ],
        level=level,
    )


def insert(vm: lab.Vm, built: Built) -> str:
    """Load it and wait for its transition; returns its folder in sysfs."""
    name = built.manifest.module.name
    vm.put_bytes(built.module, f"/{name}.ko")
    vm.sh(f"insmod /{name}.ko")
    folder = f"/sys/kernel/livepatch/{name}"
    vm.sh(f"for n in $(seq 100); do [ $(cat {folder}/transition) = 0 ] && exit 0; sleep 0.1; done; exit 1")
    return folder


def goes_while_a_task_naps(vm: lab.Vm, built: Built) -> bool:
    """Whether the livepatch's last transition is over while a task still sleeps in its new function."""
    folder = insert(vm, built)
    vm.sh("cat /proc/version > /napped 2>&1 &")
    vm.sh("sleep 0.7")
    vm.sh(f"echo 0 > {folder}/enabled")
    vm.sh("sleep 1.5")
    gone = vm.sh(f"test -d {folder}", check=False).status != 0
    assert vm.sh("test -s /napped", check=False).status == 1, "the task still sleeps"
    vm.sh(f"for n in $(seq 100); do test -d {folder} || exit 0; sleep 0.1; done; exit 1")
    vm.sh("for n in $(seq 60); do test -s /napped && exit 0; sleep 0.1; done; exit 1")
    vm.sh(f"rm /napped; rmmod {built.manifest.module.name}")
    return gone


def test_a_task_in_a_function_that_was_jumped_to_is_not_seen(guest: lab.Vm, prepared: Kernel, maker: FixMaker) -> None:
    """So the level is pinned: to remove its module now would take the code from under the task."""
    jumped = napping(prepared, maker, "return version_nap(m);", 1)
    called = napping(prepared, maker, 'version_nap(m);\n\tasm volatile("nop");\n\treturn 0;', 2)
    assert any("version_nap" in reason for reason in jumped.manifest.pinned)
    assert called.manifest.pinned == ()
    assert goes_while_a_task_naps(guest, jumped)
    assert not goes_while_a_task_naps(guest, called)


def test_the_main_loop_of_a_thread_holds_the_transition_up(guest: lab.Vm, prepared: Kernel, maker: FixMaker) -> None:
    edit = Edit("kernel/audit.c", LOOP, f'\tasm volatile("nop");\n{LOOP}')
    vouched = "Description: x\nKmend-Allow: always-on-stack kauditd_thread -- to see what comes of it\n---\n"
    built = build(prepared, [maker.fix(edit, header=vouched)], level=3)
    assert "always-on-stack" in {notice.code for notice in built.manifest.warnings}
    name = built.manifest.module.name
    guest.put_bytes(built.module, f"/{name}.ko")
    guest.sh(f"insmod /{name}.ko")
    time.sleep(5)
    assert guest.read(f"/sys/kernel/livepatch/{name}/transition") == b"1\n"
    assert b"kauditd_thread" in guest.sh("cat /proc/$(pidof kauditd)/stack", check=False).stdout
    guest.sh(f"echo 0 > /sys/kernel/livepatch/{name}/enabled")
