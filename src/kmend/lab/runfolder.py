"""A folder for the files of one virtual machine: its disk, its logs. It goes away with the machine, or with its owner."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from pathlib import Path

from kmend.core.cache import cache_root, locked
from kmend.core.errors import SystemProblemError
from kmend.lab.errors import LabError


class RunFolder:
    """Made in the cache and locked; folders whose owner has died are removed on the way.

    Raises:
        LabError: it cannot be made.
    """

    def __init__(self) -> None:
        parent = cache_root() / "lab" / "runs"
        try:
            with locked(parent / "lock"):
                for old in parent.glob("vm-*"):
                    _remove_abandoned(old)
                self.path = Path(tempfile.mkdtemp(prefix="vm-", dir=parent))
                self._lock = (self.path / "lock").open("wb")
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (OSError, SystemProblemError) as problem:
            told = problem.strerror if isinstance(problem, OSError) else problem.message
            raise LabError(
                f"cannot make a folder for a guest in {parent}: {told}",
                hint="free some disk space, or set KMEND_CACHE to a folder you may write",
            ) from problem

    def remove(self) -> None:
        """Remove it with everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _remove_abandoned(folder: Path) -> None:
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    except OSError:  # it died before it had a lock
        pass
    shutil.rmtree(folder, ignore_errors=True)
