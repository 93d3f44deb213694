"""A pack is a tar of which every byte follows from its members: any tar reads it, and nothing can hide between them.

Plain files only, not compressed, headers as `_header` makes them, padding of zeros, and nothing behind the end. The reader makes
each header again and compares it, so links, absolute names, `..`, odd times and extension records are refused without looking
for them, and a size is never believed before the file is seen to be that long.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kmend.server.evidence.errors import PackDamagedError

BLOCK = tarfile.BLOCKSIZE
MAX_MEMBER = 64 * 1024 * 1024
"""Of one member; long lists are written in parts that are far smaller."""
MAX_MEMBERS = 100_000
MAX_NAME = 99
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = re.compile(rf"{_PART}(/{_PART}){{0,3}}")
_SIZE = slice(124, 136)
_END = bytes(2 * BLOCK)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is stated of a member.

    Attributes:
        size: in bytes.
    """

    name: str
    sha256: str
    size: int


class Writer:
    """Writes a pack, member by member.

    Args:
        put: takes the bytes.
    """

    def __init__(self, put: Callable[[bytes], object]) -> None:
        self._put = put

    def add(self, name: str, content: bytes) -> Entry:
        """One member more."""
        self._put(_header(name, len(content)))
        self._put(content)
        self._put(_padding(len(content)))
        return Entry(name, hashlib.sha256(content).hexdigest(), len(content))

    def end(self) -> None:
        """No more."""
        self._put(_END)


class Pack:
    """A pack that lies in a file; what its members say is not looked at here.

    Attributes:
        names: of the members, in their order.
        end: where the last member ends.
    """

    def __init__(self, path: Path) -> None:
        """Find the members.

        Raises:
            PackDamagedError: it is not written as a pack is, or not whole; the message says where.
        """
        self._path = path
        self._places: dict[str, tuple[int, int]] = {}
        try:
            with path.open("rb") as stream:
                self.end = self._scan(stream)
        except OSError as problem:
            raise PackDamagedError(f"cannot read {path}: {problem.strerror}", hint="look at the name") from None
        self.names = tuple(self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def size(self, name: str) -> int:
        """Of a member, in bytes."""
        return self._places[name][1]

    def read(self, name: str) -> bytes:
        """A member's content.

        Raises:
            PackDamagedError: there is none of that name.
        """
        if name not in self._places:
            raise PackDamagedError(f"{name} is not in the pack")
        start, size = self._places[name]
        with self._path.open("rb") as stream:
            stream.seek(start)
            content = stream.read(size)
        if len(content) != size:
            raise PackDamagedError(f"{name} has become shorter while it was read")
        return content

    def parts(self, folder: str) -> tuple[str, ...]:
        """The members below a folder, in their order."""
        return tuple(name for name in self.names if name.startswith(f"{folder}/"))

    def lines(self, folder: str) -> Iterator[bytes]:
        """The lines of a list that is kept in parts."""
        for name in self.parts(folder):
            yield from self.read(name).splitlines()

    def _scan(self, stream: BinaryIO) -> int:
        length = stream.seek(0, 2)
        position = 0
        while True:
            stream.seek(position)
            head = stream.read(BLOCK)
            if head == bytes(BLOCK):
                break
            name, size = _read_header(head, position)
            start = position + BLOCK
            following = start + size + len(_padding(size))
            if following > length:
                raise PackDamagedError(f"the pack ends within {name}: it was cut off")
            stream.seek(start + size)
            if any(stream.read(following - start - size)):
                raise PackDamagedError(f"there is something behind {name} that does not belong there")
            if name in self._places:
                raise PackDamagedError(f"{name} is twice in the pack")
            if len(self._places) >= MAX_MEMBERS:
                raise PackDamagedError(f"there are more than {MAX_MEMBERS} members")
            self._places[name] = (start, size)
            position = following
        stream.seek(position)
        if stream.read(len(_END) + 1) != _END:
            raise PackDamagedError("the pack does not end as packs end: it was cut off, or something was put behind it")
        return position


def _header(name: str, size: int) -> bytes:
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME or size > MAX_MEMBER:
        raise PackDamagedError(f"{name[:120]!r} of {size} bytes cannot be a member of a pack")
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii")


def _read_header(head: bytes, position: int) -> tuple[str, int]:
    """Name and size, if the header is the very one that a pack has for them."""
    name, _, _ = head[:100].partition(b"\0")
    digits = head[_SIZE].rstrip(b"\0 ")
    if len(head) < BLOCK:
        raise PackDamagedError(f"the pack ends at byte {position + len(head)}, within a header: it was cut off")
    try:
        text, size = name.decode("ascii"), int(digits, 8)
        expected = _header(text, size)
    except (ValueError, PackDamagedError):
        raise PackDamagedError(f"what is at byte {position} is no member of a pack") from None
    if head != expected:
        raise PackDamagedError(f"the header of {text} at byte {position} is not as a pack has it")
    return text, size


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)
