"""Files that survive a power cut: written beside, synced, renamed, and the folder synced too.

The order is the one that POSIX leaves to the application: `rename` is atomic, but neither the new content nor the new
directory entry is on disk before its own `fsync`.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from kmend.core.errors import SystemProblemError


def sync_folder(folder: Path) -> None:
    """Make the directory entries of `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, *, mode: int = 0o755) -> None:
    """Create `folder` and its missing parents, durably.

    Raises:
        SystemProblemError: it cannot be created, or something else stands in its place.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        for path in reversed(missing):
            path.mkdir(mode=mode, exist_ok=True)
            sync_folder(path.parent)
    except OSError as problem:
        raise SystemProblemError(f"cannot create the folder {folder}: {problem.strerror}") from problem
    if not folder.is_dir():
        raise SystemProblemError(f"{folder} is not a folder")


def write_durably(path: Path, content: bytes, *, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Replace the file `path` by `content`, so that after a crash it holds all of the old or all of the new bytes.

    Args:
        owner: user and group that the file is given to before it has its name; only root may.

    Raises:
        SystemProblemError: the disk is full, read-only, or the folder is missing; the old file is untouched.
    """
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            if owner is not None:
                os.fchown(stream.fileno(), *owner)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
        temporary = ""
        sync_folder(path.parent)
    except OSError as problem:
        raise SystemProblemError(
            f"cannot write {path}: {problem.strerror}",
            hint=f"free space or make {path.parent} writable; nothing was changed",
        ) from problem
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def append_durably(path: Path, line: bytes, *, mode: int = 0o644) -> None:
    """Append one line (without its newline) to `path` and sync it; a torn last line is the reader's to skip.

    Raises:
        SystemProblemError: the line could not be stored.
    """
    created = not path.exists()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(line + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        if created:
            sync_folder(path.parent)
    except OSError as problem:
        raise SystemProblemError(f"cannot append to {path}: {problem.strerror}") from problem


def remove_durably(path: Path) -> None:
    """Delete `path` if it exists, and sync its folder.

    Raises:
        SystemProblemError: it exists and cannot be deleted.
    """
    try:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as problem:
        raise SystemProblemError(f"cannot remove {path}: {problem.strerror}") from problem


def read_bounded(path: Path, *, max_bytes: int, follow: bool = True) -> bytes:
    """The content of a regular file of at most `max_bytes` bytes.

    Args:
        follow: the file may be a symbolic link; False where somebody who is not trusted writes its folder.

    Raises:
        SystemProblemError: the file cannot be read, is none, or is larger than allowed.
    """
    try:
        # Not blocking, so that a FIFO put in a file's place hangs nobody.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise SystemProblemError(f"cannot read {path}: it is not a regular file")
        with os.fdopen(descriptor, "rb") as stream:
            content = stream.read(max_bytes + 1)
    except OSError as problem:
        raise SystemProblemError(f"cannot read {path}: {problem.strerror}") from problem
    if len(content) > max_bytes:
        raise SystemProblemError(f"{path} is larger than {max_bytes} bytes, which is the most that is read of it")
    return content
