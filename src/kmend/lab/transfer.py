"""Files into and out of a guest: a tar stream on the standard input of the guest's own `tar`, and `cat`."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kmend.lab.errors import CommandFailedError, CopyError, TimeLimitError

if TYPE_CHECKING:
    from kmend.lab.vm import Vm

MAX_BYTES = 1024**3
"""The most that is copied at once."""


def archive_path(source: Path, target: str) -> bytes:
    """A tar archive that unpacks `source`, a file or a folder, as `target`; everything in it belongs to root.

    Raises:
        CopyError: it cannot be read or is too large.
    """
    name = _inside(target)
    total = 0

    def own(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        nonlocal total
        total += entry.size
        if total > MAX_BYTES:
            raise CopyError(f"{source} is larger than {MAX_BYTES} bytes, the most that is copied into a guest")
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        return entry

    stream = io.BytesIO()
    try:
        # A link given by name means what it points to; links inside a folder stay links.
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
            archive.add(source.resolve(strict=True), name, filter=own)
    except OSError as problem:
        raise CopyError(f"cannot read {source}: {problem.strerror}") from problem
    return stream.getvalue()


def archive_bytes(content: bytes, target: str, mode: int) -> bytes:
    """A tar archive that unpacks one file."""
    entry = tarfile.TarInfo(_inside(target))
    entry.size = len(content)
    entry.mode = mode
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def put(vm: Vm, archive: bytes, target: str, timeout: float) -> None:
    """Unpack an archive in the guest.

    Raises:
        CopyError: the guest cannot write it.
    """
    try:
        vm.run(["tar", "-x", "-f", "-", "-C", "/"], stdin=archive, timeout=timeout)
    except CommandFailedError as problem:
        reason = problem.stderr.decode(errors="replace").strip()[-500:]
        raise CopyError(f"cannot write {target} in the guest: {reason}", hint=_full(reason)) from problem
    except TimeLimitError as problem:
        raise CopyError(f"copying {len(archive)} bytes to {target} took more than {timeout:g} s") from problem


def read(vm: Vm, path: str, max_bytes: int, timeout: float) -> bytes:
    """The content of a file in the guest.

    Raises:
        CopyError: it cannot be read, or is larger than `max_bytes`.
    """
    try:
        return vm.run(["cat", path], folder="/", timeout=timeout, max_output=max_bytes).stdout
    except CommandFailedError as problem:
        reason = problem.stderr.decode(errors="replace").strip()[-500:] or problem.message
        raise CopyError(f"cannot read {path} in the guest: {reason}") from problem
    except TimeLimitError as problem:
        raise CopyError(f"reading {path} in the guest took more than {timeout:g} s") from problem


def store(content: bytes, source: str, target: Path) -> None:
    """Write what was read of the guest's file `source` to the host's file `target`."""
    try:
        target.write_bytes(content)
    except OSError as problem:
        raise CopyError(f"cannot write {target}, copied from {source}: {problem.strerror}") from problem


def _inside(target: str) -> str:
    path = PurePosixPath(target)
    if not path.is_absolute() or ".." in path.parts or path == PurePosixPath("/"):
        raise CopyError(f"{target!r} is not an absolute path of a file in the guest")
    return str(path.relative_to("/"))


def _full(reason: str) -> str:
    return "the guest's disk or memory is full" if "No space left" in reason else ""
