"""What is inside a package, any file or part of a file in any order, without unpacking the rest where the package allows it.

Debian's kernel packages are compressed in blocks, so that a part of them can be had (see `xz`). Others are decompressed once into
a temporary file.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from kmend.core.errors import MalformedError
from kmend.factory.kernels.packages import MAX_MEMBER, Package, PackageProblemError, archive_stream, safe_path
from kmend.factory.kernels.xz import FilePart, NoBlocksError, XzBlocks

_AR_MAGIC, _AR_HEADER = b"!<arch>\n", 60
_MAX_PARTS = 16


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of a package: its path without a leading `./`, and where its bytes lie in the package's tar archive."""

    path: str
    offset: int
    size: int


class Contents:
    """A package's tar archive. Every method raises `PackageProblemError` if the package is damaged."""

    def __init__(self, package: Package, archive: _Blocks | BinaryIO) -> None:
        self._package = package
        self._archive = archive

    def members(self) -> Iterator[Member]:
        """The regular files, as they come; what they hold is not read."""
        try:
            self._archive.seek(0)
            with tarfile.open(fileobj=cast(BinaryIO, self._archive), mode="r:") as archive:
                for entry in archive:
                    path = safe_path(self._package, entry.name)
                    if entry.isreg():
                        if entry.size > MAX_MEMBER:
                            raise self._problem(f"{path} is {entry.size} bytes, which is too much")
                        yield Member(path, entry.offset_data, entry.size)
        except (tarfile.TarError, MalformedError) as problem:
            raise self._problem(str(problem)) from problem

    def read(self, member: Member, offset: int = 0, size: int | None = None) -> bytes:
        """`size` bytes of a file from `offset` on; all of it by default, and no more than it has."""
        count = member.size - offset if size is None else min(size, member.size - offset)
        if count <= 0 or offset < 0:
            return b""
        try:
            self._archive.seek(member.offset + offset)
            content = self._archive.read(count)
        except (MalformedError, OSError) as problem:
            raise self._problem(str(problem)) from problem
        if len(content) != count:
            raise self._problem(f"it ends in the middle of {member.path}")
        return content

    def _problem(self, text: str) -> PackageProblemError:
        return PackageProblemError(
            f"{self._package.path} is not a readable package: {text}", hint="delete it, it will be downloaded again"
        )


class _Blocks(io.RawIOBase):
    """`XzBlocks` as a file that can be read."""

    def __init__(self, blocks: XzBlocks) -> None:
        self._blocks = blocks
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._blocks.size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._blocks.size - self._position)
        count = left if size < 0 else min(size, left)
        content = b"".join(bytes(piece) for piece in self._blocks.pieces(self._position, count)) if count else b""
        self._position += count
        return content


@contextmanager
def contents(package: Package) -> Iterator[Contents]:
    """The contents of a package.

    Raises:
        PackageProblemError: it cannot be read.
    """
    with package.path.open("rb") as stream:
        blocks = _blocks_of(stream)
        if blocks is not None:
            yield Contents(package, _Blocks(blocks))
            return
    with tempfile.TemporaryFile() as plain:
        with archive_stream(package) as pipe:
            shutil.copyfileobj(pipe, plain, 1024 * 1024)
        yield Contents(package, cast(BinaryIO, plain))


def _blocks_of(deb: BinaryIO) -> XzBlocks | None:
    """The blocks of `data.tar.xz` in a `.deb`, which is an ar archive (deb(5)); None if it has none."""
    if deb.read(len(_AR_MAGIC)) != _AR_MAGIC:
        return None
    offset = len(_AR_MAGIC)
    for _ in range(_MAX_PARTS):
        deb.seek(offset)
        header = deb.read(_AR_HEADER)
        digits = header[48:58].strip()
        if header[58:] != b"`\n" or not digits.isdigit():
            return None
        size = int(digits)
        offset += _AR_HEADER
        if header[:16].rstrip(b" /") == b"data.tar.xz":
            try:
                return XzBlocks(FilePart(deb, offset, size))
            except NoBlocksError:
                return None
        offset += size + size % 2
    return None
