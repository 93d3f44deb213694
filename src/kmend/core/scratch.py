"""Temporary folders that know whether their owner is alive.

A folder is locked (flock on the folder itself) for as long as its owner works in it; the kernel drops the lock when the process
ends, however it ends. So what a killed process left is told from what another one is using, and is removed by whoever comes
next. Process numbers, which come round again and mean nothing in another container, play no part.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kmend.core.errors import SystemProblemError

_NAME = re.compile(r"\.?kmend-[a-z]+\.[A-Za-z0-9_]{8}")
"""What such folders are called; hidden where they stand beside lasting things."""
_swept: set[Path] = set()


@contextmanager
def scratch_folder(purpose: str, parent: Path | None = None) -> Iterator[Path]:
    """A new folder, removed with everything in it on leaving (it may have been renamed to something lasting by then).

    What dead processes left in the same place is removed on the way.

    Args:
        purpose: a word that its name carries.
        parent: where to make it; None for the system's folder for temporary files (`TMPDIR`).

    Raises:
        SystemProblemError: it cannot be made.
    """
    place = parent or Path(tempfile.gettempdir())
    if place not in _swept:
        _swept.add(place)
        remove_abandoned(place)
    prefix = f"{'.' if parent else ''}kmend-{purpose}."
    folder, lock = _made(prefix, place)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _made(prefix: str, place: Path) -> tuple[Path, int]:
    try:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
            lock = _lock(folder)
            if lock is not None:
                return folder, lock
    except OSError as problem:
        raise SystemProblemError(
            f"cannot make a temporary folder in {place}: {problem.strerror}",
            hint="free space there, or set TMPDIR to a folder you may write",
        ) from problem


def _lock(folder: Path) -> int | None:
    """The descriptor that holds the folder's lock; None if another process has it, or removed the folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink and os.path.samestat(os.fstat(descriptor), folder.lstat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def is_scratch(folder: Path) -> bool:
    """Whether a folder is, by its name, one of these."""
    return _NAME.fullmatch(folder.name) is not None


def abandoned_folders(place: Path) -> tuple[Path, ...]:
    """The folders in `place`, of this user, whose owner is dead."""
    return tuple(folder for folder in _candidates(place) if _is_abandoned(folder))


def remove_abandoned(place: Path) -> tuple[Path, ...]:
    """Remove them, and say which; what cannot be removed stays."""
    removed = []
    for folder in _candidates(place):
        with suppress(OSError):
            lock = _lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
                removed.append(folder)
    return tuple(removed)


def _candidates(place: Path) -> list[Path]:
    found = []
    with suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            with suppress(OSError):
                if (
                    _NAME.fullmatch(entry.name)
                    and entry.is_dir(follow_symlinks=False)
                    and entry.stat(follow_symlinks=False).st_uid == os.geteuid()
                ):
                    found.append(Path(entry.path))
    return sorted(found)


def _is_abandoned(folder: Path) -> bool:
    with suppress(OSError):
        lock = _lock(folder)
        if lock is not None:
            os.close(lock)
            return True
    return False
