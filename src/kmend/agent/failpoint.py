"""Named points at which a test lets the agent die, so that every step's crash safety is proven and not believed.

`KMEND_FAILPOINT=<name>` kills the process with SIGKILL at that point; `<name>:term` sends SIGTERM to it instead, and
`<name>:power` makes the kernel reset the machine at once, without syncing disks (`b` to `/proc/sysrq-trigger`). Without
the variable a point costs one look-up.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

VARIABLE = "KMEND_FAILPOINT"

ACTS = (
    "fetched",
    "finit.before",
    "finit.after",
    "confirmed",
    "hold.before",
    "hold.after",
    "disable.before",
    "disable.after",
    "reverse.before",
    "reverse.after",
    "remove.before",
    "remove.after",
    "publish.before",
)
"""Points around acts that are not changes of the journal (those have `<change>.before`, `.written`, `.after`)."""


def reach(name: str) -> None:
    """Die here, if the environment says so."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    point, _, manner = wanted.partition(":")
    if point != name:
        return
    if manner == "power":
        Path("/proc/sysrq-trigger").write_bytes(b"b")
        signal.pause()
    os.kill(os.getpid(), signal.SIGTERM if manner == "term" else signal.SIGKILL)
