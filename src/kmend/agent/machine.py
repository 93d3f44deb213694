"""What stays with a machine and differs between two: a digest of it, so that a clone finds out that it is one.

It holds the machine ID and what the firmware calls the machine, which only root may read; so a command with privilege writes
the digest where the service can read it.
"""

from __future__ import annotations

import contextlib
import hashlib

from kmend.agent.livekernel import read_kernel_file
from kmend.agent.paths import Paths
from kmend.core import durable
from kmend.core.errors import SystemProblemError

_PARTS = ("etc/machine-id", "sys/class/dmi/id/product_uuid", "sys/class/dmi/id/board_serial")


def digest(paths: Paths) -> str:
    """SHA-256, hexadecimal; the machine ID itself cannot be told from it."""
    found = hashlib.sha256(b"kmend machine")
    for part in _PARTS:
        found.update(b"\0" + read_kernel_file(paths.root / part).strip().encode())
    return found.hexdigest()


def note(paths: Paths) -> None:
    """Leave the digest for the service, once a boot; what cannot be written stops nothing."""
    path = paths.run / "machine"
    with contextlib.suppress(SystemProblemError):
        if not path.exists():
            durable.write_durably(path, f"{digest(paths)}\n".encode())


def noted(paths: Paths) -> str:
    """What was left; empty if nothing was, on this boot."""
    with contextlib.suppress(SystemProblemError, UnicodeDecodeError):
        return durable.read_bounded(paths.run / "machine", max_bytes=200).decode().strip()
    return ""
