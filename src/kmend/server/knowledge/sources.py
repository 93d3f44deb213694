"""What is kept of where feeds come from: when each was tried, what went wrong, when it is tried again, what is not finished.

Whoever fetches a feed claims it first, by setting the time of the next try, so that two processes never do it at once, and one
that dies is followed by another in time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from kmend.server.store.tables import feed_sources

CLAIM_SECONDS = 2 * 3600
"""After so long another one may try; whoever fetches is stopped before."""
FIRST_PAUSE = 300
_LONGEST = 15 * 86_400
_MAX_TEXT = 500


@dataclass(frozen=True, slots=True)
class Claim:
    """What whoever fetches a feed has to know.

    Attributes:
        etag, modified: of what is there already; empty if that is not known.
        unfinished: when an import began that was not finished; None if there is none.
    """

    etag: str
    modified: str
    unfinished: int | None


def digest(source: str) -> str:
    """What tells one source from another; sources may hold passwords."""
    return hashlib.sha256(source.encode()).hexdigest()


def is_due(connection: Connection, name: str, source: str, now: int) -> bool:
    """Whether it is time to try."""
    row = connection.execute(select(feed_sources).where(feed_sources.c.name == name)).first()
    # What lies further ahead than any pause was written by a clock that was wrong.
    return row is None or row.source != digest(source) or not now < row.next_at <= now + _LONGEST


def claim(connection: Connection, name: str, source: str, now: int, *, force: bool = False) -> Claim | None:
    """Claim a feed to fetch it; None if it is not due, or another one has claimed it.

    Args:
        force: although it is not due.
    """
    _make(connection, name)
    row = connection.execute(select(feed_sources).where(feed_sources.c.name == name).with_for_update()).one()
    if not force and not is_due(connection, name, source, now):
        return None
    other = row.source != digest(source)
    values = {"source": digest(source), "tried_at": now, "next_at": now + CLAIM_SECONDS}
    if other:
        values |= {"etag": "", "modified": "", "failures": 0, "error": "", "hint": "", "checked_at": None}
    connection.execute(update(feed_sources).where(feed_sources.c.name == name).values(**values))
    return Claim("" if other else row.etag, "" if other else row.modified, row.begun_at)


def begun(connection: Connection, name: str, now: int, *, by_hand: bool = False) -> int | None:
    """Before anything is written: an import begins. Returns when one began that was not finished.

    Args:
        by_hand: whatever the source said of its file holds no more.
    """
    _make(connection, name)
    row = connection.execute(select(feed_sources).where(feed_sources.c.name == name).with_for_update()).one()
    values: dict[str, object] = {"begun_at": now if row.begun_at is None else row.begun_at}
    if by_hand:
        values |= {"etag": "", "modified": ""}
    connection.execute(update(feed_sources).where(feed_sources.c.name == name).values(**values))
    unfinished: int | None = row.begun_at
    return unfinished


def finished(connection: Connection, name: str) -> None:
    """What an import changed was judged and told of."""
    connection.execute(update(feed_sources).where(feed_sources.c.name == name).values(begun_at=None))


def succeeded(connection: Connection, name: str, now: int, *, next_at: int, etag: str, modified: str) -> None:
    """The source was asked, and what it has is imported."""
    values = {
        "checked_at": now,
        "next_at": next_at,
        "failures": 0,
        "error": "",
        "hint": "",
        "etag": etag,
        "modified": modified,
    }
    connection.execute(update(feed_sources).where(feed_sources.c.name == name).values(**values))


def failed(
    connection: Connection, name: str, now: int, *, longest: int, error: str, hint: str, after: float | None
) -> int:
    """It did not succeed; what was there stays. Returns when it is tried again.

    Args:
        longest: seconds that a pause takes at most, unless its server asks for more.
        after: seconds for which the server wants to be left alone.
    """
    failures = connection.execute(select(feed_sources.c.failures).where(feed_sources.c.name == name)).scalar() or 0
    next_at = now + max(min(longest, pause(failures + 1)), min(int(after or 0), 86_400))
    values = {"failures": failures + 1, "error": _line(error), "hint": _line(hint), "next_at": next_at}
    connection.execute(update(feed_sources).where(feed_sources.c.name == name).values(**values))
    return next_at


def released(connection: Connection, name: str, now: int) -> None:
    """Whoever had claimed it was stopped: another one may try at once."""
    table = feed_sources
    connection.execute(update(table).where(table.c.name == name, table.c.next_at > now).values(next_at=now))


def pause(failures: int) -> int:
    """Seconds until the next try after so many failures in a row: doubled each time."""
    return FIRST_PAUSE << min(failures - 1, 12)


def _make(connection: Connection, name: str) -> None:
    if connection.execute(select(feed_sources.c.name).where(feed_sources.c.name == name)).first() is None:
        blank = {"source": "", "next_at": 0, "failures": 0, "error": "", "hint": "", "etag": "", "modified": ""}
        connection.execute(insert(feed_sources).values(name=name, **blank))


def _line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)[:_MAX_TEXT]
