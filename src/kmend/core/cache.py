"""Where things that can be made again are kept: `KMEND_CACHE`, by default `~/.cache/kmend`."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kmend.core.errors import SystemProblemError


def cache_root() -> Path:
    """The cache's folder, created if need be.

    Raises:
        SystemProblemError: it cannot be created.
    """
    configured = os.environ.get("KMEND_CACHE")
    root = Path(configured).expanduser() if configured else Path.home() / ".cache" / "kmend"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise SystemProblemError(
            f"cannot create the cache folder {root}: {problem.strerror}",
            hint="set KMEND_CACHE to a folder you may write",
        ) from problem
    return root.resolve()


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold an exclusive lock named by the file `path` (created, never removed); others wait for it.

    Yields the descriptor that holds it. A program that inherits that goes on holding the lock if this process is killed.

    Raises:
        SystemProblemError: the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("ab")
    except OSError as problem:
        raise SystemProblemError(
            f"cannot make the lock {path}: {problem.strerror}", hint="make its folder writable, or set KMEND_CACHE"
        ) from problem
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream.fileno()
