"""The repository's current timestamp, which every answer to a host carries.

It lies in the database, where the import puts it, so that every server process has the same, and none of them touches a file
to answer a host.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from kmend.core.document import decode, encode
from kmend.server.store import Store, settings

_NAME = "repository_timestamp"


@dataclass(frozen=True, slots=True)
class RepositoryTimestamp:
    """The verified timestamp metadata.

    Attributes:
        version: 0 before the first import.
        text: as it lies in the repository; empty before the first import.
        expires: in seconds since 1970-01-01 UTC.
    """

    version: int = 0
    text: str = ""
    expires: int = 0


class Mirror:
    """What a server process knows of the repository."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known = ("", RepositoryTimestamp())
        self.reload()

    def timestamp(self) -> RepositoryTimestamp:
        """The current one, as of the last time that it was read."""
        return self._known[1]

    def current(self, connection: Connection) -> RepositoryTimestamp:
        """The one that stands in the database now; one small query.

        Who was just told of news must not be answered with the timestamp of before.
        """
        text = settings.read(connection, _NAME) or ""
        known, timestamp = self._known
        if text != known:
            timestamp = decode(RepositoryTimestamp, text.encode())
            self._known = (text, timestamp)
        return timestamp

    def reload(self) -> None:
        """Read it anew."""
        with self._store.read() as connection:
            self.current(connection)


def read_timestamp(connection: Connection) -> RepositoryTimestamp:
    """The timestamp of the last import."""
    text = settings.read(connection, _NAME)
    return decode(RepositoryTimestamp, text.encode()) if text is not None else RepositoryTimestamp()


def write_timestamp(connection: Connection, timestamp: RepositoryTimestamp) -> None:
    """Make a verified timestamp the current one."""
    settings.write(connection, _NAME, encode(timestamp).decode())
