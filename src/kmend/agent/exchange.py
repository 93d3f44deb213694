"""The course of a check-in, without files and without a network: what is sent, what follows from the answer, what is kept when.

`check_in` is a generator: it yields what is to be sent, and is given what came back. The service drives it with its files and its
connection (`kmend.agent.link`); simulated hosts drive the same code with a memory and thousands of connections (`bench.fleet`).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Protocol

from kmend.agent import conversation
from kmend.agent.conversation import Acknowledged, ClonedError, CounterBehindError, ServerError, Taken
from kmend.agent.identity import Identity
from kmend.core.document import encode
from kmend.core.wire import (
    CHECK_IN_PATH,
    ENROL_PATH,
    NEWS_PATH,
    SPLIT_PATH,
    Enrolled,
    Enrolment,
    HostFacts,
    ModuleReport,
    NewsRequest,
    Offer,
    Purpose,
    StateReport,
)
from kmend.trust.transport import Reply

ATTEMPTS = 4
"""A counter that lies behind, a new identity, a state that is asked for: each once."""
NO_LONGER_A_MEMBER = frozenset({"unknown-host", "decommissioned", "expired"})
"""After these words the offer is dropped: the host keeps what it runs, and loads nothing new by itself."""


@dataclass(frozen=True, slots=True)
class Message:
    """One request: `POST path`."""

    path: str
    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class CheckedIn:
    """What a check-in brought.

    Attributes:
        next: seconds until the next is due.
        offer: what holds now; None if the server does not know this host's kernel yet.
        changed: the offer is another one than before.
        timestamp: the repository's timestamp metadata, as the server gave it.
    """

    next: int
    offer: Offer | None
    changed: bool
    timestamp: bytes


class Party(Protocol):
    """A host, for its conversation with the server. What it keeps is durable when the method returns."""

    def identity(self) -> Identity:
        """Who it is; raises ServerError if it is nobody, to this server."""

    def machine(self) -> str:
        """Digest of the machine that it is on; empty if that is not known now."""

    def sign(self, content: bytes) -> str:
        """Its signature, in hexadecimal."""

    def next_counter(self) -> int:
        """A counter that it never sent."""

    def counter_behind(self, last: int) -> None:
        """Go on from what the server has seen."""

    def kept(self) -> Acknowledged:
        """What the server has last acknowledged."""

    def offer(self) -> Offer | None:
        """The offer that holds."""

    def take(self, kept: Acknowledged, offer: Offer | None) -> None:
        """Keep an answer: a new offer, if there is one, before that it is acknowledged."""

    def drop_offer(self) -> None:
        """No offer holds any more."""

    def facts(self, machine: str) -> HostFacts:
        """What sort of machine it is."""

    def report(self, machine: str, at: int) -> StateReport:
        """Its state now, with that time."""

    def modules(self) -> ModuleReport | None:
        """What it says of its modules; None if it does not."""

    def mirrored(self) -> int:
        """Version of the repository's timestamp that it has; 0 for none."""

    def now(self) -> int:
        """Seconds since 1970-01-01 UTC."""

    def coming_seed(self, machine: str) -> bytes:
        """The private key of the identity to come: the same until it has become that, so that an answer may be lost."""

    def become(self, identity: Identity, seed: bytes) -> None:
        """Be somebody else from now on; forget offer, counter, and what was acknowledged."""


def check_in(party: Party) -> Generator[Message, Reply, CheckedIn]:
    """One check-in, with all that it takes: going on from another counter, sending the whole state, a new identity.

    Raises:
        ServerError: it is refused.
        SystemProblemError: the counter cannot be kept; then nothing was sent.
    """
    identity = party.identity()
    full = split = modules = False
    for _ in range(ATTEMPTS):
        here = party.machine() or identity.machine
        try:
            if here != identity.machine:
                raise ClonedError("this machine is not the one that was enrolled")
            taken = yield from _try(party, identity, here, full=full, modules=modules)
        except CounterBehindError as problem:
            party.counter_behind(problem.last)
        except ClonedError:
            if split:
                raise
            try:
                identity = yield from _split(party, identity, here)
            except ServerError as problem:
                if problem.word in NO_LONGER_A_MEMBER:
                    party.drop_offer()
                raise
            full, split, modules = False, True, False
        except ServerError as problem:
            if problem.word in NO_LONGER_A_MEMBER:
                party.drop_offer()
            raise
        else:
            if not taken.again:
                return _keep(party, taken)
            full, modules = True, modules or taken.modules
    raise ServerError("the server does not come to an end with this host's check-in", hint="look at its log")


def enrol(
    key: str, url: str, public_key: str, facts: HostFacts, sign: conversation.Sign
) -> Generator[Message, Reply, tuple[Identity, str]]:
    """Be taken into a fleet; the identity, and the ring.

    Args:
        key: of enrolment.
        public_key: the new identity's own; `sign` signs with its private one.

    Raises:
        ServerError: it is refused.
    """
    body = encode(Enrolment(key, public_key, facts))
    reply = yield Message(ENROL_PATH, body, conversation.headers("", "", Purpose.ENROL, body, sign))
    enrolled = _enrolled(reply)
    return Identity(enrolled.host, enrolled.server, url, facts.machine), enrolled.ring


def news(identity: Identity, seen: str, now: int, wait: int, sign: conversation.Sign) -> Message:
    """The request that the server holds until there is news."""
    body = encode(NewsRequest(identity.host, seen, now, wait))
    return Message(NEWS_PATH, body, conversation.headers(identity.host, identity.server, Purpose.NEWS, body, sign))


def _try(party: Party, identity: Identity, here: str, *, full: bool, modules: bool) -> Generator[Message, Reply, Taken]:
    kept = party.kept()
    report = conversation.timed(party.report(here, kept.at), kept, party.now())
    message = conversation.compose(
        identity.host,
        party.next_counter(),
        report,
        kept,
        offered=party.offer() is not None,
        timestamp=party.mirrored(),
        full=full,
        modules=party.modules(),
        wanted=modules,
    )
    body = encode(message)
    reply = yield Message(
        CHECK_IN_PATH, body, conversation.headers(identity.host, identity.server, Purpose.CHECK_IN, body, party.sign)
    )
    return conversation.take(reply.status, reply.content, message, report, kept, retry_after=reply.retry_after)


def _keep(party: Party, taken: Taken) -> CheckedIn:
    offer = taken.offer if taken.offer != party.offer() else None
    if offer is not None and party.kept().answer:
        # Stopped between both writes, the new offer would lie there under the old one's tag, and stay if that one came back.
        party.take(replace(party.kept(), answer=""), None)
    if offer is not None or taken.kept != party.kept():
        party.take(taken.kept, offer)
    return CheckedIn(taken.next, party.offer(), offer is not None, taken.timestamp.encode())


def _split(party: Party, identity: Identity, here: str) -> Generator[Message, Reply, Identity]:
    """Become somebody else: this machine is a copy, or its disk was put into another one."""
    seed = party.coming_seed(here)
    message = conversation.split(identity.host, identity.server, seed, party.facts(here))
    body = encode(message)
    reply = yield Message(
        SPLIT_PATH, body, conversation.headers(identity.host, identity.server, Purpose.SPLIT, body, party.sign)
    )
    enrolled = _enrolled(reply)
    mine = Identity(enrolled.host, enrolled.server, identity.url, here, parent=identity.host)
    party.become(mine, seed)
    return mine


def _enrolled(reply: Reply) -> Enrolled:
    if reply.status != 200:
        raise conversation.refused(reply.status, reply.content, reply.retry_after)
    return conversation.read(Enrolled, reply.content)
