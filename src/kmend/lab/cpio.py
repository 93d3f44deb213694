"""Writes the archive format that the kernel unpacks as its initial root file system.

Source: `Documentation/driver-api/early-userspace/buffer-format.rst` in the kernel, format "newc".
"""

from __future__ import annotations

import stat
from pathlib import PurePosixPath

from kmend.lab.errors import LabError


class Archive:
    """A cpio archive in memory. Folders on the way to an entry are made as they are needed; owner is always root."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()

    def folder(self, path: str, mode: int = 0o755) -> None:
        """Add a folder, unless it is there."""
        self._parents(path)
        if self._clean(path) not in self._names:
            self._add(path, stat.S_IFDIR | mode, b"")

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._parents(path)
        self._add(path, stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._parents(path)
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device."""
        self._parents(path)
        self._add(path, stat.S_IFCHR | mode, b"", (major, minor))

    def finish(self) -> bytes:
        """The whole archive."""
        return b"".join([*self._parts, self._entry("TRAILER!!!", 0, b"", (0, 0), 0)])

    @staticmethod
    def _clean(path: str) -> str:
        return path.strip("/")

    def _parents(self, path: str) -> None:
        for parent in reversed(PurePosixPath(self._clean(path)).parents):
            if str(parent) != "." and str(parent) not in self._names:
                self._add(str(parent), stat.S_IFDIR | 0o755, b"")

    def _add(self, path: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        name = self._clean(path)
        if name in self._names:
            raise LabError(f"/{name} is put into the initial file system twice")
        self._names.add(name)
        self._parts.append(self._entry(name, mode, content, device, len(self._names)))

    @staticmethod
    def _entry(name: str, mode: int, content: bytes, device: tuple[int, int], inode: int) -> bytes:
        encoded = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (inode, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(encoded), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        head += bytes(-len(head) % 4)
        return head + content + bytes(-len(content) % 4)
