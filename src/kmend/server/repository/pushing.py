"""Bringing a repository's folder into an object store, in the order in which a mirror is copied.

Content, signatures and targets first, then metadata, `timestamp.json` last of all: who reads meanwhile sees the old state or the
new one. What is named by its content is put once; nothing is ever taken away, since somebody may still be reading an older state.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kmend.core import durable
from kmend.core.cache import locked
from kmend.server.repository.errors import RepositoryError
from kmend.server.repository.files import FOREVER, cache_control, plain_path
from kmend.server.repository.objects import Bucket
from kmend.trust import layout

TIMESTAMP = f"{layout.METADATA}/timestamp.json"
_ORDER = ("files", "signatures", layout.TARGETS, "install", layout.METADATA)


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did."""

    files: int
    bytes: int
    kept: int


def order(path: str) -> tuple[int, int, str]:
    """What a path is sorted by."""
    folder = path.partition("/")[0]
    return (_ORDER.index(folder) if folder in _ORDER else -1, path == TIMESTAMP, path)


def push(folder: Path, bucket: Bucket) -> Pushed:
    """Copy what is new.

    Raises:
        RepositoryError: there is no repository, or the store refuses; what was put until then does no harm.
    """
    if not (folder / TIMESTAMP).exists():
        raise RepositoryError(f"there is no repository at {folder}", hint="publish a level first")
    present = dict(bucket.listing())
    files = size = kept = 0
    # Nobody publishes meanwhile, so that metadata and files are of one state.
    with locked(folder / ".lock"):
        found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        for path in sorted((path for path in found if plain_path(path)), key=order):
            length = (folder / path).stat().st_size
            if cache_control(path) == FOREVER and present.get(path) == length:
                kept += 1
                continue
            content = durable.read_bounded(folder / path, max_bytes=layout.MAX_MODULE_BYTES)
            bucket.put(path, content, cache_control=cache_control(path))
            files, size = files + 1, size + len(content)
    return Pushed(files, size, kept)
