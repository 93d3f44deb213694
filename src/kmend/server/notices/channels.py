"""Who is told of what, and how."""

from __future__ import annotations

import enum
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select

from kmend.server.access.secrets import make as make_secret
from kmend.server.notices import guard
from kmend.server.notices.errors import ChannelError, ForbiddenTargetError
from kmend.server.notices.events import Event
from kmend.server.notices.mail import is_address
from kmend.server.store.tables import channels, outbox

MAX_CHANNELS = 100


class Kind(str, enum.Enum):
    """How a channel reaches people."""

    WEBHOOK = "webhook"
    EMAIL = "email"


@dataclass(frozen=True, slots=True)
class Channel:
    """A way to people; without its secret, which is shown once.

    Attributes:
        target: a URL, or an e-mail address.
        events: of which it tells; empty for all.
    """

    id: str
    kind: Kind
    target: str
    events: tuple[Event, ...]
    created_at: int
    created_by: str

    def wants(self, event: Event) -> bool:
        """Whether it tells of that."""
        return not self.events or event in self.events


def create(
    connection: Connection,
    *,
    kind: Kind,
    target: str,
    events: Sequence[Event],
    actor: str,
    now: int,
    rules: guard.Rules,
) -> tuple[Channel, str]:
    """Make a channel.

    Args:
        rules: what webhooks may reach. Addresses are judged with every notice; here only what the URL itself shows.

    Returns:
        The channel, and the secret that signs its webhooks; empty for e-mail.

    Raises:
        ChannelError: the target is none, or there are too many channels.
    """
    if kind is Kind.WEBHOOK:
        try:
            guard.check_written(target, rules)
        except ForbiddenTargetError as problem:
            raise ChannelError(problem.message, hint=problem.hint) from None
    elif not is_address(target):
        raise ChannelError(f"{target[:80]!r} is not an e-mail address", hint="write one address, like ops@example.org")
    if connection.execute(select(func.count()).select_from(channels)).scalar_one() >= MAX_CHANNELS:
        raise ChannelError(f"there are {MAX_CHANNELS} channels already", hint="remove one first")
    secret = make_secret("hook") if kind is Kind.WEBHOOK else ""
    channel = Channel(secrets.token_hex(8), kind, target, tuple(dict.fromkeys(events)), now, actor)
    connection.execute(
        insert(channels).values(
            id=channel.id,
            kind=kind.value,
            target=target,
            secret=secret,
            events=json.dumps([event.value for event in channel.events]),
            created_at=now,
            created_by=actor,
        )
    )
    return channel, secret


def listing(connection: Connection) -> list[Channel]:
    """All channels, the oldest first."""
    rows = connection.execute(select(channels).order_by(channels.c.created_at, channels.c.id))
    return [
        Channel(
            row.id, Kind(row.kind), row.target, tuple(Event(word) for word in json.loads(row.events)), row.created_at,
            row.created_by,
        )
        for row in rows
    ]  # fmt: skip


def remove(connection: Connection, channel: str) -> None:
    """Remove a channel, with what it would still have told.

    Raises:
        ChannelError: there is none of that ID.
    """
    connection.execute(delete(outbox).where(outbox.c.channel == channel))
    if connection.execute(delete(channels).where(channels.c.id == channel)).rowcount == 0:
        raise ChannelError(f"there is no channel {channel[:40]}", hint="kmend-server channels list shows them")
