"""The repository's files in a folder of this machine."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from kmend.server.repository.errors import RepositoryError
from kmend.trust.beneath import open_file

SMALL = 64 * 1024
"""Files up to so many bytes are read whole; their ETag is their digest."""

_ABSENT = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.ENAMETOOLONG, errno.ENXIO}
)
"""What stands there is no file of a repository: nothing, a folder, a symbolic link, a device."""


class FolderEntry:
    """An open file. What it holds does not change: files of a repository are replaced, never written into."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        found = os.fstat(descriptor)
        self.size = found.st_size
        self.modified = int(found.st_mtime)
        self._content = os.pread(descriptor, SMALL, 0) if self.size <= SMALL else b""
        if self.size <= SMALL:
            self.size = len(self._content)
            self.etag = f'"{hashlib.sha256(self._content).hexdigest()[:32]}"'
        else:
            told = f"{path} {found.st_mtime_ns} {found.st_ino} {found.st_size}"
            self.etag = f'"{hashlib.sha256(told.encode()).hexdigest()[:32]}"'

    def read(self, start: int, length: int) -> bytes:
        """A piece of it."""
        if self._content:
            return self._content[start : start + length]
        return os.pread(self._descriptor, length, start)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class Folder:
    """A folder; nothing outside of it is ever opened, and no symbolic link is followed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, path: str) -> FolderEntry | None:
        """The file of that path.

        Raises:
            RepositoryError: the machine refuses to open what is there.
        """
        try:
            descriptor = open_file(str(self._folder / path), self._folder)
        except OSError as problem:
            if problem.errno in _ABSENT:
                return None
            raise RepositoryError(f"cannot open {path}: {problem.strerror}") from None
        except ValueError:
            return None
        return FolderEntry(descriptor, path)
