"""What is to be sent: one row for each channel that wants to know; what comes in quick succession becomes one notice.

The first notice of an event goes out at once. What follows within a minute waits for that minute's end and goes out together, so
that a thousand hosts which fall silent make two messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from kmend.core.document import decode, encode
from kmend.server.notices import channels
from kmend.server.notices.events import Event
from kmend.server.store.tables import channels as channels_table
from kmend.server.store.tables import outbox

MERGE_SECONDS = 60
MAX_ITEMS = 50
MAX_TEXT = 500
FIRST_PAUSE, LONGEST_PAUSE = 30, 6 * 3600


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that happened."""

    subject: str
    body: str
    at: int


@dataclass(frozen=True, slots=True)
class Digest:
    """What one notice tells; it lies in the column `body`.

    Attributes:
        more: how many happened besides those that are told.
    """

    items: tuple[Item, ...]
    more: int = 0

    def plus(self, item: Item) -> Digest:
        """The digest with one more."""
        if len(self.items) < MAX_ITEMS:
            return Digest((*self.items, item), self.more)
        return Digest(self.items, self.more + 1)


@dataclass(frozen=True, slots=True)
class Due:
    """A notice to be sent now; each claim of it counts as an attempt.

    Attributes:
        attempt: from 1 on.
        secret: signs a webhook.
    """

    number: int
    kind: channels.Kind
    target: str
    secret: str
    event: Event
    digest: Digest
    attempt: int


def pause(attempt: int) -> int:
    """Seconds after a failed attempt until the next: doubled each time, six hours at most."""
    return min(LONGEST_PAUSE, FIRST_PAUSE << min(attempt - 1, 20))


def post(connection: Connection, event: str, subject: str, body: str, now: int) -> None:
    """Tell every channel that wants to know; sent after the caller's transaction has been committed.

    Args:
        event: a word of `Event`.
        subject: what it is about, a line.
        body: what there is to say.
    """
    kind = Event(event)
    item = Item(_line(subject), _line(body), now)
    for channel in channels.listing(connection):
        if channel.wants(kind):
            _put(connection, channel.id, kind, item)


def post_to(connection: Connection, channel: str, event: Event, subject: str, body: str, now: int) -> None:
    """Tell one channel, whatever it wants to know: to try it."""
    _put(connection, channel, event, Item(_line(subject), _line(body), now))


def _put(connection: Connection, channel: str, event: Event, item: Item) -> None:
    now = item.at
    last = connection.execute(
        select(outbox)
        .where(outbox.c.channel == channel, outbox.c.event == event.value, outbox.c.created_at > now - MERGE_SECONDS)
        .order_by(outbox.c.id.desc())
        .limit(1)
        .with_for_update()
    ).first()
    if last is not None and last.attempts == 0 and last.next_at > now:
        digest = decode(Digest, last.body.encode()).plus(item)
        connection.execute(update(outbox).where(outbox.c.id == last.id).values(body=encode(digest).decode()))
        return
    connection.execute(
        insert(outbox).values(
            channel=channel,
            event=event.value,
            subject=item.subject,
            body=encode(Digest((item,))).decode(),
            created_at=now,
            next_at=now if last is None else now + MERGE_SECONDS,
        )
    )


def claim(connection: Connection, now: int, *, attempts: int, limit: int) -> list[Due]:
    """Notices whose time has come; the attempt is counted, and the next one set, before anything is sent."""
    rows = connection.execute(
        select(outbox, channels_table.c.kind, channels_table.c.target, channels_table.c.secret)
        .join(channels_table, channels_table.c.id == outbox.c.channel)
        .where(outbox.c.sent_at.is_(None), outbox.c.attempts < attempts, outbox.c.next_at <= now)
        .order_by(outbox.c.next_at, outbox.c.id)
        .limit(limit)
    ).all()
    for row in rows:
        values = {"attempts": row.attempts + 1, "next_at": now + pause(row.attempts + 1)}
        connection.execute(update(outbox).where(outbox.c.id == row.id).values(**values))
    return [_due(row) for row in rows]


def _due(row: Row[tuple[object, ...]]) -> Due:
    return Due(
        row.id, channels.Kind(row.kind), row.target, row.secret, Event(row.event), decode(Digest, row.body.encode()),
        row.attempts + 1,
    )  # fmt: skip


def settle(connection: Connection, outcomes: Sequence[tuple[int, str]], now: int) -> None:
    """Write down what became of attempts: number and error; without an error it was sent."""
    for number, error in outcomes:
        values = {"error": _line(error), "sent_at": None if error else now}
        connection.execute(update(outbox).where(outbox.c.id == number).values(**values))


def waiting(connection: Connection, *, attempts: int) -> int:
    """How many notices are still to be sent."""
    condition = (outbox.c.sent_at.is_(None)) & (outbox.c.attempts < attempts)
    return connection.execute(select(func.count()).select_from(outbox).where(condition)).scalar_one()


def prune(connection: Connection, before: int) -> int:
    """Forget notices made before a time; how many."""
    return connection.execute(delete(outbox).where(outbox.c.created_at < before)).rowcount


def _line(text: str) -> str:
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    return clean if len(clean) <= MAX_TEXT else clean[: MAX_TEXT - 3] + "..."
