"""Opening files in a folder that somebody writes who is not trusted: no symbolic link below it is followed.

Root that follows such a link reads, and so tells of, what is not that account's to read; and opening a device is an act already
(a watchdog begins to count).
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def open_file(path: str, beneath: Path | None) -> int:
    """Open a file for reading. Not blocking, so that a FIFO put in its place cannot hang the agent.

    Args:
        path: absolute.
        beneath: None trusts the whole path; else the file must lie below that folder.

    Raises:
        OSError: it cannot be opened, is no regular file, or a symbolic link stands in the way.
        ValueError: it does not lie below that folder.
    """
    descriptor = _open(path, beneath)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return descriptor


def _open(path: str, beneath: Path | None) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    if beneath is None:
        return os.open(path, flags)
    *folders, name = Path(path).relative_to(beneath).parts
    if ".." in (*folders, name):
        raise ValueError("it leads out of its folder")
    descriptor = os.open(beneath, flags | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = os.open(folder, flags | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=descriptor)
    finally:
        os.close(descriptor)
