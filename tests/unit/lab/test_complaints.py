"""Which lines of a kernel's log are complaints."""

from __future__ import annotations

import pytest

from kmend.lab import complaints
from kmend.lab.complaints import MAX_LINES

CONTENT = """\
[    2.1] kmend_1_1bc2cf90: loading out-of-tree module taints kernel.
[    2.1] kmend_1_1bc2cf90: tainting kernel with TAINT_LIVEPATCH
[    2.1] kmend_1_1bc2cf90: module verification failed: signature and/or required key missing - tainting kernel
[    2.2] livepatch: enabling patch 'kmend_1_1bc2cf90'
[    2.3] livepatch: 'kmend_1_1bc2cf90': patching complete
[    2.4] clocksource: Switched to clocksource tsc
"""


def test_a_livepatchs_life_is_none() -> None:
    assert complaints(CONTENT) == ()


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: CPU: 0 PID: 1 at fs/a.c:1 f+0x1/0x2",
        "BUG: unable to handle page fault for address: 0000",
        "kernel BUG at fs/a.c:1!",
        "general protection fault, probably for non-canonical address",
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "INFO: task cat:1 blocked for more than 120 seconds.",
        "livepatch: failed to initialize patch",
        "kmend_1_0: Unknown symbol f (err -2)",
    ],
)
def test_from_the_first_one_on(line: str) -> None:
    found = complaints(f"{CONTENT}[    3.0] {line}\n" + "[    3.1] more\n" * 100)
    assert found[0] == f"[    3.0] {line}"
    assert len(found) == MAX_LINES
