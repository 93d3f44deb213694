"""Channels and the outbox: who is told, what is merged, and what is tried again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from kmend.server.notices import Event, channels, outbox, post
from kmend.server.notices.channels import Channel, Kind
from kmend.server.notices.errors import ChannelError
from kmend.server.notices.guard import Rules
from kmend.server.notices.mail import MailServer
from kmend.server.notices.outbox import FIRST_PAUSE, LONGEST_PAUSE, MAX_ITEMS, MERGE_SECONDS, Digest, Due, Item
from kmend.server.notices.sending import Sender, document, letter
from kmend.server.store import Store, tables

NOW = 1_790_000_000


def channel(
    store: Store, *events: Event, kind: Kind = Kind.WEBHOOK, target: str = "https://hooks.example/a"
) -> Channel:
    def work(connection):  # type: ignore[no-untyped-def]
        return channels.create(
            connection, kind=kind, target=target, events=events, actor="token:1", now=NOW, rules=Rules()
        )[0]

    return store.transact(work)  # type: ignore[no-any-return]


def tell(store: Store, event: Event, subject: str, now: int = NOW) -> None:
    store.transact(lambda connection: post(connection, event, subject, f"of {subject}", now))


def claimed(store: Store, now: int, attempts: int = 5) -> list[Due]:
    return store.transact(lambda connection: outbox.claim(connection, now, attempts=attempts, limit=100))


def test_channels_are_told_what_they_want_to_know(store: Store) -> None:
    every, halts = channel(store), channel(store, Event.ROLLOUT_HALTED)
    tell(store, Event.ROLLOUT_HALTED, "r1")
    tell(store, Event.RECALL_PUBLISHED, "recall 1")
    with store.read() as connection:
        rows = connection.execute(select(tables.outbox.c.channel, tables.outbox.c.event)).all()
    assert sorted(rows) == sorted(
        [(every.id, "rollout.halted"), (every.id, "recall.published"), (halts.id, "rollout.halted")]
    )


def test_a_secret_is_given_once_and_a_channel_can_be_removed_with_what_it_would_tell(store: Store) -> None:
    def make(connection):  # type: ignore[no-untyped-def]
        return channels.create(connection, kind=Kind.WEBHOOK, target="https://hooks.example/", events=[], actor="t",
                               now=NOW, rules=Rules())  # fmt: skip

    made, secret = store.transact(make)
    assert secret.startswith("kmend_hook_")
    assert secret not in repr(made)
    with store.read() as connection:
        assert channels.listing(connection) == [made]
    tell(store, Event.TEST, "x")
    store.transact(lambda connection: channels.remove(connection, made.id))
    assert claimed(store, NOW + 1000) == []
    with pytest.raises(ChannelError, match="there is no channel"):
        store.transact(lambda connection: channels.remove(connection, made.id))


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (Kind.WEBHOOK, "http://hooks.example/"),
        (Kind.WEBHOOK, "https://user@hooks.example/"),
        (Kind.WEBHOOK, "https://2130706433/"),
        (Kind.WEBHOOK, "https://[::1]/"),
        (Kind.EMAIL, "ops@example.org\r\nBcc: all@example.org"),
        (Kind.EMAIL, "ops, dev@example.org"),
        (Kind.EMAIL, "Ops <ops@example.org>"),
        (Kind.EMAIL, "ops"),
        (Kind.EMAIL, "@example.org"),
    ],
)
def test_what_cannot_be_a_target_is_refused(sqlite: Store, kind: Kind, target: str) -> None:
    with pytest.raises(ChannelError):
        channel(sqlite, kind=kind, target=target)


def test_the_first_goes_at_once_and_what_follows_within_a_minute_goes_together(store: Store) -> None:
    channel(store)
    tell(store, Event.HOST_CLONED, "h0")
    (first,) = claimed(store, NOW)
    for number in range(1, 200):
        tell(store, Event.HOST_CLONED, f"h{number}", NOW + number % 30)
    tell(store, Event.ROLLOUT_HALTED, "r1", NOW + 30)
    (other,) = claimed(store, NOW + 30 - 1 + 1, attempts=1)
    (second,) = claimed(store, NOW + MERGE_SECONDS + 30, attempts=1)
    assert [item.subject for item in first.digest.items] == ["h0"]
    assert other.event is Event.ROLLOUT_HALTED
    assert len(second.digest.items) == MAX_ITEMS
    assert len(second.digest.items) + second.digest.more == 199


def test_an_attempt_is_counted_before_it_is_made_and_the_last_one_is_the_last(store: Store) -> None:
    channel(store)
    tell(store, Event.TEST, "x")
    now, seen = NOW, []
    for _ in range(10):
        found = claimed(store, now, attempts=3)
        seen += [item.attempt for item in found]
        store.transact(
            lambda connection, found=found, now=now: outbox.settle(
                connection, [(item.number, "no") for item in found], now
            )  # type: ignore[misc]
        )
        now += LONGEST_PAUSE
    assert seen == [1, 2, 3]
    with store.read() as connection:
        assert outbox.waiting(connection, attempts=3) == 0
        assert outbox.waiting(connection, attempts=4) == 1
        assert connection.execute(select(tables.outbox.c.error)).scalar_one() == "no"


def test_what_was_sent_is_not_sent_again_and_forgotten_in_time(store: Store) -> None:
    channel(store)
    tell(store, Event.TEST, "x")
    (item,) = claimed(store, NOW)
    store.transact(lambda connection: outbox.settle(connection, [(item.number, "")], NOW))
    assert claimed(store, NOW + 10 * LONGEST_PAUSE) == []
    assert store.transact(lambda connection: outbox.prune(connection, NOW)) == 0
    assert store.transact(lambda connection: outbox.prune(connection, NOW + 1)) == 1


@given(st.integers(1, 1000))
def test_pauses_grow_and_stay_below_their_bound(attempt: int) -> None:
    assert FIRST_PAUSE <= outbox.pause(attempt) <= outbox.pause(attempt + 1) <= LONGEST_PAUSE


def test_control_characters_and_length_are_taken_out_of_what_is_told(sqlite: Store) -> None:
    channel(sqlite)
    tell(sqlite, Event.TEST, "a\r\nBcc: x\x1b[2J" + "y" * 5000)
    (item,) = claimed(sqlite, NOW)
    subject = item.digest.items[0].subject
    assert subject.isprintable()
    assert len(subject) <= 500


DUE = Due(4, Kind.WEBHOOK, "https://hooks.example/", "s", Event.HOST_CLONED, Digest((Item("h1", "b", 1),) * 2, 3), 1)


def test_what_a_webhook_and_a_letter_hold() -> None:
    tree = json.loads(document(DUE, "https://kmend.example"))
    assert (tree["id"], tree["event"], tree["more"], len(tree["items"])) == (4, "host.cloned", 3, 2)
    subject, body = letter(DUE, "https://kmend.example")
    assert subject == "host.cloned: h1 and 4 more"
    assert "and 3 more" in body
    assert "https://kmend.example" in body


def test_the_sender_settles_what_became_of_each(store: Store) -> None:
    """One channel refuses by its address, one has no mail server: both are failures with their reason, tried again."""
    channel(store, target="https://inside.example/")
    channel(store, kind=Kind.EMAIL, target="ops@example.org")
    tell(store, Event.TEST, "x")
    sender = Sender(MailServer("", 25, "none", ""), Rules(), 3, 2, resolve=lambda host, port: ["10.0.0.1"])
    assert sender.turn(store, NOW) == 2
    assert sender.turn(store, NOW) == 0
    with store.read() as connection:
        errors = set(connection.execute(select(tables.outbox.c.error)).scalars())
        assert connection.execute(select(tables.outbox.c.sent_at)).scalars().all() == [None, None]
    assert errors == {
        "the host has the address 10.0.0.1, which is not a public one",
        "no mail server is configured",
    }
    assert sender.turn(store, NOW + LONGEST_PAUSE) == 2
