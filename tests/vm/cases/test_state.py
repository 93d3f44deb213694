"""What the kernel has counted and locked stays one thing, whichever code runs: static locals over levels that come and go."""

from __future__ import annotations

import re
import time

import pytest
from tests.fixmaker import Edit, FixMaker
from tests.vm.cases.builtin import AUDITED, CASES, LOST, QUEUED, SERIAL, UUID, UUID_NEW, WARNED
from tests.vm.livepatched import Loaded, complaints

from kmend import lab
from kmend.factory.build import build
from kmend.factory.kernels.prepared import Kernel

NEGATIVE = "tries to set negative timeout"
COUNTED = "\t\tif (warned < 10 && net_ratelimit()) {\n\t\t\twarned += 1 + (tv.tv_sec == -77);\n"


def audited(word: str) -> list[Edit]:
    """`audit_serial()` and `audit_rate_check()` are inlined into these functions; two spinlocks are called `lock`."""
    return [
        Edit("kernel/audit.c", SERIAL, f"{SERIAL}\tbarrier();\n"),
        Edit("kernel/audit.c", AUDITED, AUDITED.replace("audit(", f"{word}(")),
        Edit("kernel/audit.c", QUEUED, f"\t\tbarrier();\n{QUEUED}"),
        Edit("kernel/audit.c", LOST, LOST.replace("audit_lost=", f"{word}_lost=")),
    ]


def serials(vm: lab.Vm, count: int) -> list[tuple[str, int]]:
    """(word, serial number) of as many new audit records."""
    vm.run(["dmesg", "-c"])
    vm.sh(f"for n in $(seq {count}); do /call audit record; done")
    for _ in range(50):
        found = re.findall(r"\b(\w+)\(\d+\.\d+:(\d+)\):", vm.kernel_log())
        if len(found) >= count:
            break
        time.sleep(0.2)
    return [(word, int(number)) for word, number in found]


def negatives(vm: lab.Vm, count: int) -> int:
    """How many of so many negative timeouts the kernel tells of."""
    vm.run(["dmesg", "-c"])
    vm.run(["/call", "negative_timeouts", str(count)])
    return vm.kernel_log().count(NEGATIVE)


@pytest.mark.slow
def test_static_locals_go_on_over_levels(prepared: Kernel, maker: FixMaker, fresh: lab.Vm) -> None:
    moved = next(case for case in CASES if case.name == "static local: moved from the cold part")
    first = build(prepared, [maker.fix(*audited("first"), *moved.edits, Edit("drivers/char/random.c", UUID, UUID_NEW))])
    second = build(prepared, [maker.fix(*audited("second"), Edit("net/core/sock.c", WARNED, COUNTED))], level=2)
    log = fresh.kernel_log()
    fresh.sh("echo 0 > /proc/sys/kernel/printk_ratelimit")
    boot_id = fresh.read("/proc/sys/kernel/random/boot_id").decode()
    seen = serials(fresh, 3)
    assert {word for word, _ in seen} == {"audit"}
    assert negatives(fresh, 4) == 4

    one = Loaded(fresh, first)
    one.insert()
    now = serials(fresh, 3)
    assert now == [("first", seen[-1][1] + n) for n in (1, 2, 3)], "the serial number is the kernel's own"
    assert negatives(fresh, 20) == 6, "four of the ten messages were spent before"
    assert fresh.read("/proc/sys/kernel/random/boot_id").decode() == boot_id.upper()
    assert re.search("first_lost=[1-9]", throttled(fresh))

    last = serials(fresh, 1)[-1][1]
    two = Loaded(fresh, second)
    two.insert()
    assert serials(fresh, 2) == [("second", last + 1), ("second", last + 2)]
    assert negatives(fresh, 3) == 0, "and stays spent in the next level"
    assert fresh.read("/proc/sys/kernel/random/boot_id").decode() == boot_id
    assert re.search("second_lost=[1-9]", throttled(fresh))

    last = serials(fresh, 1)[-1][1]
    two.disable()
    assert serials(fresh, 2) == [("audit", last + 1), ("audit", last + 2)]
    assert negatives(fresh, 3) == 0
    assert complaints(log + fresh.kernel_log()) == []


def throttled(vm: lab.Vm) -> str:
    """What the kernel says while more audit records come than its limit allows; the limit is lifted again."""
    vm.run(["dmesg", "-c"])
    vm.sh("/call audit_rate 2; for n in $(seq 20); do /call audit much; done; /call audit_rate 0")
    return vm.kernel_log()
