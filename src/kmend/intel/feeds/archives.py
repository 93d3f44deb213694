"""Trees of records, as a folder or as an archive, and files that are packed: read in one pass, bounded as a whole.

A bound for each file would not do: an archive of a few megabytes may hold millions of them, or unpack to more than a disk holds.
"""

from __future__ import annotations

import bz2
import io
import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from kmend.core.errors import MalformedError, SystemProblemError

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_FILE = 4 * 1024 * 1024
"""Of one record; what is longer is handed out one byte longer than this, and is its reader's to refuse."""
MAX_TOTAL = 4 * 1024**3
"""Of everything that an archive unpacks to, or that is read of a folder. The CNA's tree is of 0.4 GB, CISA's of 1.5 GB."""
MAX_MEMBERS = 2_000_000
_MAX_HEADER = 1024 * 1024
_MEMORY = 256 * 1024 * 1024
_PIECE = 256 * 1024
_SPECIAL = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)

Files = Iterator[tuple[str, bytes]]
"""Names, with `/` between folders, and what is in the files."""
Wanted = Callable[[str], bool]


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


class _Gzip:
    """zlib's decompressor with the manners of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max(0, max_length))


class _Plain:
    """For what is not packed."""

    eof = False
    needs_input = True
    unused_data = b""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return data


_KINDS: tuple[tuple[bytes, Callable[[], _Decompressor]], ...] = (
    (b"\x1f\x8b", _Gzip),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\x00", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)),
    (b"", _Plain),
)


class Unpacked(io.RawIOBase):
    """What a file holds, unpacked if it is packed (gzip, bzip2, xz), up to a limit.

    Args:
        where: what it is, for messages.

    Raises:
        MalformedError: when it is read: it is longer, cut short, or broken.
    """

    def __init__(self, stream: IO[bytes], where: str, limit: int) -> None:
        super().__init__()
        self._stream, self._where, self._left = stream, where, limit
        self._input = stream.read(_PIECE)
        self._make = next(make for magic, make in _KINDS if self._input.startswith(magic))
        self._inner = self._make()
        self._ready = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """So many bytes, fewer at the end."""
        found: list[bytes] = []
        missing = size
        while missing and (piece := self._ready or self._next()):
            part, self._ready = (piece, b"") if missing < 0 else (piece[:missing], piece[missing:])
            found.append(part)
            missing = missing if missing < 0 else missing - len(part)
        return b"".join(found)

    def _next(self) -> bytes:
        try:
            piece = self._unpack()
        except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as problem:
            raise MalformedError(f"{self._where} cannot be unpacked: {problem}") from None
        self._left -= len(piece)
        if self._left < 0:
            raise MalformedError(f"{self._where} holds more than is read of it at most")
        return piece

    def _unpack(self) -> bytes:
        while True:
            if self._inner.eof:  # another packed stream may follow, or zeros
                self._input = self._inner.unused_data or self._stream.read(_PIECE)
                if not self._input.strip(b"\0"):
                    return b""
                self._inner = self._make()
            given = b""
            if self._inner.needs_input:
                given, self._input = self._input or self._stream.read(_PIECE), b""
            piece = self._inner.decompress(given, _PIECE)
            if piece:
                return piece
            if not given and not self._inner.eof:
                if self._make is _Plain:
                    return b""
                raise EOFError("it is cut short")


class _Member(tarfile.TarInfo):
    """A member whose header of extensions is bounded, too: Python reads such a header as a whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """As in the base."""
        found = super().frombuf(buf, encoding, errors)
        if found.type in _SPECIAL and found.size > _MAX_HEADER:
            raise MalformedError(f"the archive has a header of {found.size} bytes")
        return found


def unpacked(content: bytes, where: str, limit: int) -> bytes:
    """A file's content, unpacked if it is packed.

    Raises:
        MalformedError: it is broken, or longer than `limit`.
    """
    return Unpacked(io.BytesIO(content), where, limit).read()


def files_of_archive(path: Path, wanted: Wanted) -> Files:
    """The files of a tar archive that are wanted, packed in one of the usual ways or not.

    Raises:
        MalformedError: it is none, or holds too much.
        SystemProblemError: it cannot be read.
    """
    try:
        with (
            path.open("rb") as stream,
            tarfile.open(fileobj=Unpacked(stream, str(path), MAX_TOTAL), mode="r|", tarinfo=_Member) as archive,
        ):
            for number, member in enumerate(archive):
                if number >= MAX_MEMBERS:
                    raise MalformedError(f"{path} holds more than {MAX_MEMBERS} files")
                archive.members = []  # type: ignore[attr-defined]  # else every header is kept to the end
                name = posixpath.normpath(member.name)
                if member.isreg() and wanted(name):
                    found = archive.extractfile(member)
                    if found is not None:
                        yield name, found.read(MAX_FILE + 1)
    except OSError as problem:
        raise SystemProblemError(f"{path}: {problem.strerror}") from None
    except (tarfile.TarError, EOFError, ValueError) as problem:
        raise MalformedError(f"{path} is not a whole archive: {problem}") from None


def files_of_folder(folder: Path, wanted: Wanted) -> Files:
    """The files below a folder that are wanted; symbolic links are not followed.

    Raises:
        MalformedError: they are too many, or too much.
        SystemProblemError: one cannot be read.
    """
    left, count = MAX_TOTAL, 0
    waiting = [folder]
    try:
        while waiting:
            here = waiting.pop()
            for path in sorted(here.iterdir()):
                count += 1
                if count > MAX_MEMBERS:
                    raise MalformedError(f"{folder} holds more than {MAX_MEMBERS} files")
                if path.is_symlink():
                    continue
                if path.is_dir():
                    if path.name != ".git":
                        waiting.append(path)
                    continue
                name = path.relative_to(folder).as_posix()
                if wanted(name) and path.is_file():
                    with path.open("rb") as stream:
                        content = stream.read(MAX_FILE + 1)
                    left -= len(content)
                    if left < 0:
                        raise MalformedError(f"{folder} holds more than is read of it at most")
                    yield name, content
    except OSError as problem:
        raise SystemProblemError(f"{problem.filename or folder}: {problem.strerror}") from None
