"""Is the host well with the level that is being tried? Log, taint, load and memory, and what policy makes of it.

Pure, but for `vitals`, which reads.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from kmend.agent.journal import Vitals
from kmend.agent.kernellog import GRAVE, Trouble
from kmend.agent.livekernel import read_kernel_file
from kmend.agent.paths import Paths
from kmend.agent.recovery import TAINT_DIE

TAINT_WARN = 1 << 9
"""A warning was issued (`include/linux/panic.h`)."""
TAINT_SOFT_LOCKUP = 1 << 14
"""A soft lockup was seen."""


class Measure(enum.Enum):
    """What to do."""

    NOTHING = "nothing"
    REPORT = "report"
    CONDEMN = "condemn"
    REVERT = "revert"


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on a host whose level is being tried.

    Attributes:
        grave: the kernel has reported an oops or a BUG.
        message: for people; empty if there is nothing.
    """

    measure: Measure
    grave: bool = False
    message: str = ""


WELL = Finding(Measure.NOTHING)


def judge(troubles: Sequence[Trouble], *, taint_before: int, taint: int, on_oops: str, on_warning: str) -> Finding:
    """What the log and the taint flags say, and what policy makes of it.

    Args:
        on_oops: `report` (the level goes into quarantine, the kernel is left alone) or `revert`.
        on_warning: `report` (it is noted) or `revert`; for warnings, hung tasks, lockups and stalls.
    """
    fresh = taint & ~taint_before
    grave = next((trouble for trouble in troubles if trouble.kind in GRAVE), None)
    if grave is not None or fresh & TAINT_DIE:
        text = grave.text if grave is not None else "its taint flags say so"
        message = f"the kernel reported an oops or a BUG after the level was loaded: {text}"
        return Finding(Measure.REVERT if on_oops == "revert" else Measure.CONDEMN, grave=True, message=message)
    if not troubles and not fresh & (TAINT_WARN | TAINT_SOFT_LOCKUP):
        return WELL
    if troubles:
        kinds = ", ".join(sorted({trouble.kind.value for trouble in troubles}))
        message = f"the kernel complained ({kinds}) while the level was being tried: {troubles[0].text}"
    else:
        message = "the kernel's taint flags tell of a warning or a lockup while the level was being tried"
    return Finding(Measure.REVERT if on_warning == "revert" else Measure.REPORT, message=message)


def vitals(paths: Paths) -> Vitals:
    """Load and available memory now; 0 where they cannot be read."""
    words = read_kernel_file(paths.proc / "loadavg").split()
    try:
        load = float(words[0]) if words else 0.0
    except ValueError:
        load = 0.0
    return Vitals(load, meminfo(paths).get("MemAvailable", 0))


def meminfo(paths: Paths) -> dict[str, int]:
    """`/proc/meminfo` in bytes."""
    found = {}
    for line in read_kernel_file(paths.proc / "meminfo").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            found[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return found


def deltas(before: Vitals | None, after: Vitals) -> str:
    """The change in words; empty if it is not known from what."""
    if before is None or not before.available:
        return ""
    megabytes = (after.available - before.available) / 1_000_000
    return f"load {before.load:.2f} -> {after.load:.2f}, available memory {megabytes:+.0f} MB"
