"""Debian's changelog of the kernel, out of the newest small package that carries it, by the machine's own package client.

The client checks the package against the archive's signature. The kernel's changelog lies in `linux-libc-dev`, of one megabyte.
"""

from __future__ import annotations

import gzip
import re
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from kmend.core import durable
from kmend.core.cache import cache_root, locked
from kmend.core.errors import KmendError
from kmend.core.process import run
from kmend.core.scratch import scratch_folder
from kmend.server.feeds.errors import FeedError

PACKAGE = "linux-libc-dev"
PLACE = f"./usr/share/doc/{PACKAGE}/changelog.Debian.gz"
LISTS = Path("/var/lib/apt/lists")
FRESH_SECONDS = 6 * 3600
"""Within these, the archive is not asked again."""
_MAX_BYTES = 200 * 1024 * 1024
_CANDIDATE = re.compile(r"^\s*Candidate:\s*(\S+)", re.MULTILINE)
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+~:_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Changelog:
    """A changelog.

    Attributes:
        version: of the package that it came with.
        asked_at: when the archive was last asked for a newer one, in seconds since 1970-01-01 UTC; or how old the client's own
            lists of the archive are, if they are older: it knows of nothing newer than they do.
    """

    text: str
    version: str
    asked_at: int


def changelog(*, now: int | None = None, strict: bool = False) -> Changelog:
    """The newest changelog that the configured archives have; from the cache if they were asked not long ago.

    Args:
        strict: one that is kept, and that is not fresh any more, is not handed out when the archives cannot be asked.

    Raises:
        FeedError: there is none, and none is kept; or it cannot be read.
    """
    moment = int(time.time()) if now is None else now
    folder = cache_root() / "feeds/debian"
    with locked(folder / "lock"):
        kept = max(folder.glob("changelog-*.gz"), key=lambda path: path.stat().st_mtime, default=None)
        if kept is not None and 0 <= moment - int(kept.stat().st_mtime) < FRESH_SECONDS:
            return _read(kept)
        try:
            return _fetch(folder)
        except KmendError as problem:
            if kept is not None and not strict:
                return _read(kept)  # its age is shown
            raise FeedError(f"Debian's changelog cannot be had: {problem.message}", hint=problem.hint) from None


def _fetch(folder: Path) -> Changelog:
    version = _candidate()
    target = folder / f"changelog-{version.replace(':', '_')}.gz"
    if not target.exists():
        with scratch_folder("changelog", cache_root()) as scratch:
            run(["apt-get", "-q", "download", f"{PACKAGE}={version}"], cwd=scratch, timeout=300)
            package = next(iter(scratch.glob("*.deb")), None)
            if package is None:
                raise FeedError(f"apt-get brought no {PACKAGE} {version}")
            files = run(["dpkg-deb", "--fsys-tarfile", package], timeout=60).stdout
            found = run(["tar", "-xO", "-f", "-", PLACE], stdin=files, timeout=60).stdout
        durable.write_durably(target, found)
    for other in folder.glob("changelog-*.gz"):
        if other != target:
            other.unlink()
    target.touch()
    return _read(target)


def _candidate() -> str:
    """The version that the package client would take; asks the archives first if it knows of none, or its lists are old."""
    for again in (True, False):
        match = _CANDIDATE.search(run(["apt-cache", "policy", PACKAGE], timeout=60, check=False).text)
        if match is not None and _VERSION.fullmatch(match[1]):
            return match[1]
        if again:
            run(["apt-get", "-qq", "update"], timeout=300)
    raise FeedError(f"no archive that is configured here has {PACKAGE}", hint="this takes a Debian with its archives")


def _read(path: Path) -> Changelog:
    content = durable.read_bounded(path, max_bytes=_MAX_BYTES)
    try:
        unpacked = zlib.decompressobj(31).decompress(content, _MAX_BYTES)
    except (zlib.error, gzip.BadGzipFile):
        raise FeedError(f"{path} is damaged", hint="remove it; it is fetched again") from None
    version = path.name.removeprefix("changelog-").removesuffix(".gz").replace("_", ":")
    asked_at = int(path.stat().st_mtime)
    return Changelog(unpacked.decode("utf-8", errors="replace"), version, min(asked_at, _lists_at() or asked_at))


def _lists_at() -> int | None:
    """How old the newest of the client's lists is; it gives them the time that the archive's signed index has."""
    return max((int(path.stat().st_mtime) for path in LISTS.glob("*Release")), default=None)
