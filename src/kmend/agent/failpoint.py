"""Named points at which a test lets the agent die, so that every step's crash safety is proven and not believed.

`KMEND_FAILPOINT=<name>` kills the process with SIGKILL at that point; `<name>:term` sends SIGTERM to it instead,
`<name>:stop` SIGSTOP, so that the world can be changed around it before it goes on, and `<name>:power` makes the kernel reset
the machine at once, without syncing disks (`b` to `/proc/sysrq-trigger`). `trace:<file>` only writes down which points are
passed. Without the variable a point costs one look-up.
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
    "clear.before",
    "clear.after",
    "note.before",
    "note.after",
    "publish.before",
)
"""Points around acts that are not changes of the journal (those have `<change>.before`, `.written`, `.after`)."""

_SIGNALS = {"term": signal.SIGTERM, "stop": signal.SIGSTOP}


def reach(name: str) -> None:
    """Die here, if the environment says so."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    point, _, manner = wanted.partition(":")
    if point == "trace":
        with Path(manner).open("a", encoding="ascii") as stream:
            stream.write(f"{name}\n")
    if point != name:
        return
    if manner == "power":
        Path("/proc/sysrq-trigger").write_bytes(b"b")
        signal.pause()
    os.kill(os.getpid(), _SIGNALS.get(manner, signal.SIGKILL))
