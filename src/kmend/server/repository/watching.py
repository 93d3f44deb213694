"""Seeing that the repository has changed: a folder each second by its timestamp's file, a URL by conditional requests."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass

from kmend.core.errors import KmendError
from kmend.server import notices
from kmend.server.config import ServerConfig
from kmend.server.notices import Event
from kmend.server.operations import metrics
from kmend.server.repository.importing import Begin, Imported, import_repository
from kmend.server.repository.mirror import read_timestamp
from kmend.server.repository.refreshing import read_root
from kmend.server.store import Store
from kmend.trust import layout
from kmend.trust.transport import Transport

AGAIN_SECONDS = 30
"""After an import that failed, the same state of a folder is tried again."""
SOON_SECONDS = 2 * 86_400
"""People are told when the timestamp expires within this time."""
TELL_EVERY_SECONDS = 86_400
_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Watcher:
    """Imports the repository when there is something new; for one thread.

    Attributes:
        begin: what is to follow from new levels by itself; see `import_repository`.
        seen: what the timestamp's file looked like at the last import that succeeded.
    """

    config: ServerConfig
    store: Store
    begin: Begin
    seen: object = None
    _next: int = 0
    _told_at: int = 0
    _told: str = ""
    _transport: Transport | None = None

    def look(self, now: int) -> Imported | None:
        """Import if there is reason to; None if there was none, or it could not be done, which people are told of."""
        self._warn_of_expiry(now)
        state = self._state()
        local = self.config.repository_folder is not None
        if (local and state == self.seen) or now < self._next:
            return None
        try:
            imported = import_repository(
                self.store,
                self.config.repository_source,
                read_root(self.config),
                self.config.data / "mirror",
                now,
                begin=self.begin,
                transport=self._kept_transport(),
            )
        except KmendError as problem:
            metrics.repository_imports.labels(outcome=problem.kind).inc()
            self._next = now + AGAIN_SECONDS
            if state is not None or not local:
                self._tell(problem, now)
            return None
        metrics.repository_imports.labels(outcome="good").inc()
        self.seen = state
        self._next = 0 if local else now + self.config.repository.poll
        self._told = ""
        if imported.new_levels or imported.recalls_changed:
            _logger.info(
                "repository version %d: %d new levels%s",
                imported.timestamp.version,
                len(imported.new_levels),
                ", other recalls" if imported.recalls_changed else "",
            )
        return imported

    def close(self) -> None:
        """Close kept connections."""
        if self._transport is not None:
            self._transport.close()

    def _state(self) -> object:
        """What tells one state of a folder from another; None if there is no repository in it."""
        folder = self.config.repository_folder
        if folder is None:
            return None
        with contextlib.suppress(OSError):
            found = (folder / layout.METADATA / "timestamp.json").stat()
            return (found.st_mtime_ns, found.st_ino, found.st_size)
        return None

    def _kept_transport(self) -> Transport:
        if self._transport is None:
            self._transport = Transport()
        return self._transport

    def _warn_of_expiry(self, now: int) -> None:
        if now < self._told_at + TELL_EVERY_SECONDS:
            return
        with self.store.read() as connection:
            timestamp = read_timestamp(connection)
        if timestamp.version and timestamp.expires < now + SOON_SECONDS:
            self._post(
                "the repository's timestamp expires soon, or has expired; hosts then take it for a frozen one", now
            )

    def _tell(self, problem: KmendError, now: int) -> None:
        """Say it once, and once a day as long as it lasts."""
        if problem.kind == self._told and now < self._told_at + TELL_EVERY_SECONDS:
            return
        self._told = problem.kind
        _logger.warning("the repository is kept as it was: %s", problem.message)
        self._post(f"the repository is kept as it was: {problem.message}", now)

    def _post(self, body: str, now: int) -> None:
        self._told_at = now
        self.store.transact(
            lambda connection: notices.post(connection, Event.REPOSITORY_STALE, "repository", body, now)
        )
