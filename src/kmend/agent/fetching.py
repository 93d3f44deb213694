"""The service's look at the repository: verify it, and lay out what a loader without a network needs.

What comes over the wire is kept in `mirror/`, as it lies in the repository, so that the loader reads it as a repository of its
own and verifies everything again, from the trust root on. What this process has verified is therefore never relied upon.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

from kmend.agent import checking, handover
from kmend.agent.config import Config
from kmend.agent.errors import NotSupportedError
from kmend.agent.session import Session
from kmend.core import durable
from kmend.core.errors import SystemProblemError
from kmend.core.manifest import FileRecord, sha256_hex
from kmend.trust import layout
from kmend.trust.client import Repository
from kmend.trust.transport import Answer, Partial, Transport

MAX_MIRROR_BYTES = 128 * 1024 * 1024
MAX_MIRROR_FILES = 5000
UNSUPPORTED_EVERY = 86_400
_DAMAGED = frozenset(
    {
        "repository-missing",
        "repository-mismatch",
        "repository-malformed",
        "repository-mixed",
        "repository-signature",
        "repository-too-large",
        "repository-unreachable",
    }
)
"""What the loader says of a mirror that is not whole; fetched anew once for each such answer."""
_TIMESTAMP = "metadata/timestamp.json"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a look found.

    Attributes:
        wanted: the module that this host may load now; empty if none.
        news: the repository says something that the loader has not seen yet.
        until: when this host's policy lets a level go that it withholds now, in seconds since 1970-01-01 UTC.
    """

    wanted: str
    news: bool
    until: int | None = None


class MirroringTransport(Transport):
    """Keeps what it fetches.

    Args:
        config: how this host is configured.
        mirror: the folder that receives it.
        alive: called before each file.
    """

    def __init__(self, config: Config, mirror: Path, alive: Callable[[], None]) -> None:
        super().__init__(checking.network(config))
        self._base = unquote(urlsplit(config.repository.url.rstrip("/")).path) + "/"
        self._mirror = mirror
        self._alive = alive
        self._timestamp: bytes | None = None

    def get(
        self, url: str, limit: int, *, etag: str = "", modified: str = "", partial: Partial | None = None
    ) -> Answer:
        """As `Transport.get`."""
        self._alive()
        answer = super().get(url, limit, etag=etag, modified=modified, partial=partial)
        path = unquote(urlsplit(url).path)
        name = path[len(self._base) :] if path.startswith(self._base) else ""
        if answer.unchanged or not name or ".." in name.split("/"):
            return answer
        if name == _TIMESTAMP:
            self._timestamp = answer.content  # kept back until all that it leads to is there
        else:
            _write(self._mirror / name, answer.content)
        return answer

    def commit(self) -> None:
        """All that the new timestamp leads to was verified and is there."""
        if self._timestamp is not None:
            _write(self._mirror / _TIMESTAMP, self._timestamp)
            self._timestamp = None


class Fetcher:
    """Looks at one repository again and again, on the connection that it keeps.

    Args:
        config: how this host is configured.
        folder: this process's own, for what it fetched and what it verified.
        alive: called now and then while it works.
    """

    def __init__(self, config: Config, folder: Path, alive: Callable[[], None]) -> None:
        self._state = folder / "verified"
        self._mirror = folder / "mirror"
        self._transport = MirroringTransport(config, self._mirror, alive)
        self._begun_for: int | None = None

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def fetch(self, session: Session) -> Fetched:
        """Look once.

        Raises:
            ConfigError: no repository is configured.
            TrustError: it is not reachable or not trustworthy.
            SystemProblemError: this host's disk.
        """
        self._bound(session)
        seen = checking.recorded_check(session)
        try:
            with checking.opened(session, state=self._state, transport=self._transport) as repository:
                look = checking.look(session, repository)
                self._parts(session, repository, look)
                expires = repository.freshness.expires
        except NotSupportedError:
            self._transport.commit()
            known = seen is not None and seen.supported is False
            return Fetched("", not known or session.clock.now() - (seen.at if seen else 0) >= UNSUPPORTED_EVERY)
        self._transport.commit()
        published = tuple(sorted(look.records))
        news = seen is None or bool(seen.kind) or (seen.expires, seen.published) != (expires, published)
        releases = [obstacle.until for obstacle in look.choice.obstacles if obstacle.until is not None]
        wanted = look.choice.manifest.module.name if look.choice.manifest is not None else ""
        return Fetched(wanted, news, min(releases, default=None))

    def _parts(self, session: Session, repository: Repository, look: checking.Look) -> None:
        """Fetch what loading the chosen level takes, unless the mirror or this host has it."""
        chosen = look.choice.manifest
        if chosen is None:
            return
        record = look.records[chosen.level].module
        if session.store.module(chosen) is None and not _holds(self._mirror / layout.file_path(record.sha256), record):
            repository.module(look.records[chosen.level])
        repository.signature(record.sha256, session.config.repository.signer)

    def _bound(self, session: Session) -> None:
        """Begin anew when the folder has grown too large, lacks what it once had, or is not what the loader can verify."""
        handled = handover.read_handled(session.paths)
        refused = handled is not None and handled.kind in _DAMAGED and handled.number != self._begun_for
        files = [path.stat() for path in self._mirror.rglob("*") if path.is_file()]
        whole = (self._mirror / _TIMESTAMP).is_file()
        if (
            whole
            and not refused
            and len(files) <= MAX_MIRROR_FILES
            and sum(item.st_size for item in files) <= MAX_MIRROR_BYTES
        ):
            return
        self._begun_for = handled.number if handled is not None else None
        for folder in (self._mirror, self._state):
            shutil.rmtree(folder, ignore_errors=True)


def _holds(path: Path, record: FileRecord) -> bool:
    """Whether a file that was fetched before is still the one that is signed."""
    try:
        content = durable.read_bounded(path, max_bytes=record.size)
    except SystemProblemError:
        return False
    return len(content) == record.size and sha256_hex(content) == record.sha256


def _write(path: Path, content: bytes) -> None:
    try:
        durable.make_folder(path.parent)
        durable.write_durably(path, content)
    except SystemProblemError as problem:
        raise SystemProblemError(
            f"what was fetched cannot be kept: {problem.message}", hint="free some space"
        ) from problem
