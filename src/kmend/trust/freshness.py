"""The metadata over the wire, and how a check that finds nothing new becomes one small request.

The client workflow of TUF (specification 5.3) asks for the next root first, which nearly always ends in a 404, and then for
the timestamp. When this host has looked for a new root within the last day, the timestamp is asked for first here, under the
condition that it has changed (ETag, If-Modified-Since). If it has not, nothing new is accepted either: the very bytes are
verified again, with their expiry, and the search for a root is left out. If it has, the workflow begins as it must, with the
root. So a new root is found with the next publication, or a day later at the latest. docs/decisions/0015-one-small-request.md
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuf.api import exceptions
from tuf.ngclient.fetcher import FetcherInterface

from kmend.core import durable
from kmend.core.document import decode, encode
from kmend.core.errors import MalformedError, SystemProblemError
from kmend.core.manifest import sha256_hex
from kmend.trust.addresses import shown
from kmend.trust.errors import DeniedError, MissingError
from kmend.trust.transport import Answer, Transport

ROOT_EVERY_SECONDS = 86_400
MAX_METADATA_BYTES = 5_000_000
_MAX_NOTE = 8192
_ROOT = re.compile(r"\d+\.root\.json")


@dataclass(frozen=True, slots=True)
class Note:
    """`conditions.json`: what the server said of the timestamp that is kept, and when a root was last looked for.

    Attributes:
        url: of the timestamp, without user and password.
        timestamp: SHA-256 of its content.
        root_looked_for: this host's clock, in seconds since 1970-01-01 UTC.
    """

    url: str
    timestamp: str
    etag: str
    modified: str
    root_looked_for: int
    format: str = "kmend-conditions/1"


class MetadataFetcher(FetcherInterface):
    """Gives python-tuf its metadata; for one refresh.

    Args:
        transport: how bytes are fetched.
        base: URL of the metadata folder, with a slash at its end.
        kept: the timestamp that this host has, None if none.
        file: where the note is.
        now: this host's clock, in seconds since 1970-01-01 UTC.
        root_every: how long a search for a new root may be left out, in seconds, while nothing else changes.
    """

    def __init__(
        self, transport: Transport, base: str, kept: bytes | None, file: Path, now: float, root_every: float
    ) -> None:
        self._transport = transport
        self._timestamp_url = f"{base}timestamp.json"
        self._kept = kept
        self._file = file
        self._now = int(now)
        self._root_every = root_every
        self._note = self._read_note()
        self._answer: Answer | None = None
        self._roots_known = False
        self._root_looked_for = self._note.root_looked_for if self._note is not None else 0

    def begin(self, limit: int) -> None:
        """Look whether the timestamp has changed, if that may come before the root.

        Raises:
            TrustError: it cannot be fetched.
        """
        note = self._note
        if note is not None and 0 <= self._now - note.root_looked_for < self._root_every:
            self._answer = self._fetch_timestamp(limit)
            self._roots_known = self._answer.content == self._kept

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """One metadata file; the errors of the transport go through python-tuf as they are."""
        if _ROOT.fullmatch(url.rpartition("/")[2]):
            return self._root(url, max_length)
        if url != self._timestamp_url:
            return self._transport.get(url, max_length).content
        if self._answer is None:
            self._answer = self._fetch_timestamp(max_length)
        return self._answer.content

    def finish(self) -> None:
        """After a refresh that came to its end: remember what is needed for the next.

        Raises:
            SystemProblemError: it cannot be written.
        """
        if self._answer is None:
            return
        note = Note(
            shown(self._timestamp_url),
            sha256_hex(self._answer.content),
            self._answer.etag,
            self._answer.modified,
            self._root_looked_for,
        )
        if note != self._note:
            durable.write_durably(self._file, encode(note))

    def _root(self, url: str, limit: int) -> bytes:
        if self._roots_known:
            raise exceptions.DownloadHTTPError("the timestamp has not changed", 404)
        try:
            content = self._transport.get(url, limit).content
        except (MissingError, DeniedError) as problem:
            if isinstance(problem, DeniedError) and problem.status != 403:
                raise
            # Some stores answer 403 for what they do not have.
            self._root_looked_for = self._now
            raise exceptions.DownloadHTTPError(problem.message, 404) from None
        return content

    def _fetch_timestamp(self, limit: int) -> Answer:
        note, kept = self._note, self._kept
        if note is None or kept is None:
            return self._transport.get(self._timestamp_url, limit)
        answer = self._transport.get(self._timestamp_url, limit, etag=note.etag, modified=note.modified)
        if answer.unchanged:
            return Answer(kept, answer.etag or note.etag, answer.modified or note.modified)
        return answer

    def _read_note(self) -> Note | None:
        """The note, if it speaks of this repository and of the very timestamp that is kept."""
        if self._kept is None:
            return None
        with contextlib.suppress(SystemProblemError, MalformedError):
            note = decode(Note, durable.read_bounded(self._file, max_bytes=_MAX_NOTE), max_bytes=_MAX_NOTE)
            printable = all(text.isascii() and text.isprintable() for text in (note.etag, note.modified))
            if note.url == shown(self._timestamp_url) and note.timestamp == sha256_hex(self._kept) and printable:
                return note
        return None

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self._transport.get(url, MAX_METADATA_BYTES).content
