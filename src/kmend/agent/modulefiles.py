"""Which file modprobe would load for a module, and its build ID: one that comes later must be the one that was patched.

`modules.dep` (depmod(8)) has one line a module, the file that depmod chose first, so that an `updates/` or DKMS copy shows here.
"""

from __future__ import annotations

import gzip
import lzma
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from kmend.core.errors import MalformedError
from kmend.core.kernel import build_id_from_notes

MAX_DEP_BYTES = 32 * 1024 * 1024
MAX_MODULE_BYTES = 512 * 1024 * 1024
_SUFFIXES = (".ko", ".ko.xz", ".ko.gz", ".ko.zst")
_SHT_NOTE = 7


@dataclass(frozen=True, slots=True)
class ModuleFile:
    """What would be loaded for a module.

    Attributes:
        build_id: None if it could not be found out.
        why: why not, for people; empty if it was.
    """

    path: Path
    build_id: str | None
    why: str = ""


def chosen(folder: Path, module: str) -> ModuleFile | None:
    """What modprobe would load.

    Args:
        folder: the release's own, `/lib/modules/<release>`.
        module: its name as the kernel has it.

    Returns:
        None if there is no such module, or no list.
    """
    try:
        with (folder / "modules.dep").open("rb") as stream:
            lines = stream.read(MAX_DEP_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name = line.partition(":")[0]
        stem = name.rpartition("/")[2]
        suffix = next((suffix for suffix in _SUFFIXES if stem.endswith(suffix)), None)
        if suffix is not None and stem[: -len(suffix)].replace("-", "_") == module:
            path = folder / name  # an absolute name stays as it is
            return _read(path, suffix)
    return None


def _read(path: Path, suffix: str) -> ModuleFile:
    try:
        content = _content(path, suffix)
        build_id = build_id_of(content)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, MalformedError) as problem:
        text = problem.message if isinstance(problem, MalformedError) else str(problem)
        return ModuleFile(path, None, f"cannot be read: {text}")
    return ModuleFile(path, build_id, "" if build_id is not None else "has no build ID")


def _content(path: Path, suffix: str) -> bytes:
    """The module, unpacked; raises OSError, EOFError, LZMAError, zlib.error, MalformedError."""
    if suffix == ".ko.zst":
        raise MalformedError("it is compressed with zstd, which this Python cannot unpack")
    if suffix == ".ko.xz":
        with lzma.open(path) as packed:
            content = packed.read(MAX_MODULE_BYTES + 1)
    elif suffix == ".ko.gz":
        with gzip.open(path) as packed_so:
            content = packed_so.read(MAX_MODULE_BYTES + 1)
    else:
        with path.open("rb") as plain:
            content = plain.read(MAX_MODULE_BYTES + 1)
    if len(content) > MAX_MODULE_BYTES:
        raise MalformedError("it is larger than any module")
    return content


def build_id_of(content: bytes) -> str | None:
    """The GNU build ID in a 64-bit ELF file's note sections (elf(5)); None if there is none.

    Raises:
        MalformedError: it is no such file, or a damaged one.
    """
    if len(content) < 64 or content[:5] != b"\x7fELF\x02" or content[5] not in (1, 2):
        raise MalformedError("it is not a 64-bit ELF file")
    order = "<" if content[5] == 1 else ">"
    (offset,) = struct.unpack_from(f"{order}Q", content, 40)
    size, count = struct.unpack_from(f"{order}HH", content, 58)
    if size < 64 or offset + size * count > len(content):
        raise MalformedError("its section table is damaged")
    for number in range(count):
        header = struct.unpack_from(f"{order}IIQQQQ", content, offset + number * size)
        kind, start, length = header[1], header[4], header[5]
        if kind != _SHT_NOTE:
            continue
        if start + length > len(content):
            raise MalformedError("a note lies outside of it")
        found = build_id_from_notes(content[start : start + length])
        if found is not None:
            return found
    return None
