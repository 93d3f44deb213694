"""A source tree in outline: its Makefiles, the names of its source files, and which `.c` files others include. One pass over the
source package, of which next to nothing is written to disk."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

from kmend.core.errors import SystemProblemError
from kmend.factory.kernels.included import inclusions, resolved
from kmend.factory.kernels.makefiles import ARCHITECTURE, is_makefile
from kmend.factory.kernels.packages import Package, PackageProblemError, safe_path
from kmend.factory.kernels.sources import source_stream

MAX_FILES = 500_000
MAX_FILE = 64 * 1024 * 1024
"""Bytes of a source file; the largest of 6.1 is a header with 22 MB."""
_BESIDE = ("Documentation/", "LICENSES/", "debian/")
_BUFFER = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Outline:
    """A source tree without the sources.

    Attributes:
        files: its `.c` and `.S` files.
        included_in: `.c` file -> the files that include it.
    """

    files: frozenset[str]
    included_in: dict[str, list[str]]


def outline(package: Package, folder: Path, *, seen: Callable[[int], None] = lambda number: None) -> Outline:
    """Read a source package; its Makefiles are written into `folder`, under their paths.

    Args:
        seen: is told how many files have gone by.

    Raises:
        PackageProblemError: the package cannot be read.
        SystemProblemError: a file cannot be written.
    """
    with source_stream(package) as stream:
        try:
            return _read(package, stream, folder, seen)
        except tarfile.TarError as problem:
            raise PackageProblemError(f"the source in {package.path} is no tar archive: {problem}") from problem


def _read(package: Package, stream: IO[bytes], folder: Path, seen: Callable[[int], None]) -> Outline:
    files: set[str] = set()
    named: list[tuple[str, str]] = []
    forward = _Forward(stream)
    # Not as a stream ("r|"): tarfile copies what it reads there from buffer to buffer, for three times the work.
    with tarfile.open(fileobj=cast(BinaryIO, forward), mode="r:") as archive:
        for number, entry in enumerate(archive):
            archive.members = []  # type: ignore[attr-defined]  # it is read once; keep no list of it
            if number >= MAX_FILES:
                raise PackageProblemError(f"the source in {package.path} has more than {MAX_FILES} files")
            if number % 1000 == 0:
                seen(number)
            path = safe_path(package, entry.name).partition("/")[2]
            if not entry.isreg() or path.startswith(_BESIDE) or _of_another_architecture(path):
                continue
            source = path.endswith((".c", ".S"))
            if source:
                files.add(path)
            makefile = is_makefile(path)
            if not makefile and not source and not path.endswith(".h"):
                continue
            if entry.size > MAX_FILE:
                raise PackageProblemError(f"{path} in {package.path} is {entry.size} bytes, which is too much")
            forward.seek(entry.offset_data)
            content = forward.read(entry.size)
            if len(content) != entry.size:
                raise PackageProblemError(f"the source in {package.path} ends in the middle of {path}")
            if makefile:
                _write(folder / path, content)
            else:
                named.extend((path, name) for name in inclusions(content))
    return Outline(frozenset(files), resolved(named, files.__contains__))


class _Forward(io.RawIOBase):
    """A pipe as a file in which one can go forward."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset < self._position:
            raise tarfile.ReadError("the archive's parts do not follow one another")
        while offset > self._position and self.read(min(offset - self._position, _BUFFER)):
            pass
        return self._position

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(size)
        self._position += len(content)
        return content


def _of_another_architecture(path: str) -> bool:
    return path.startswith("arch/") and not path.startswith(f"arch/{ARCHITECTURE}/") and path.count("/") > 1


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as problem:
        raise SystemProblemError(f"cannot write {path}: {problem.strerror}") from problem
