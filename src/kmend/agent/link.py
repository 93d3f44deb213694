"""Speaking to the server: the service's files and its connection, for the course of a check-in (`kmend.agent.exchange`).

What comes from the server is bounded, and nothing of it is believed but an offer, which holds back or lets have what the
publisher signed (docs/decisions/0021-host-protocol.md).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, TypeVar

from kmend.agent import conversation, exchange, machine, modulereport, offers, reporting, statefile
from kmend.agent.config import Config
from kmend.agent.conversation import Acknowledged, ServerError
from kmend.agent.exchange import CheckedIn, Message
from kmend.agent.identity import Credentials, Identity
from kmend.agent.paths import Paths
from kmend.agent.session import Session
from kmend.core import durable
from kmend.core.errors import SystemProblemError
from kmend.core.wire import MAX_ANSWER_BYTES, HostFacts, ModuleReport, Offer, StateReport
from kmend.trust import hostkey
from kmend.trust.network import Network
from kmend.trust.transport import Reply, Transport

MAX_TIMESTAMP_BYTES = 64 * 1024
T = TypeVar("T")


class NotEnrolledError(ServerError):
    """A server is configured, and this host is not enrolled there."""

    kind: ClassVar[str] = "not-enrolled"


def network(config: Config, base: Network) -> Network:
    """How the server is reached: as the repository, but by its own authority if it has one."""
    if config.server.ca_file:
        return replace(base, ca_file=config.server.ca_file, system_ca=False)
    return base


def mirrored(paths: Paths) -> bytes:
    """The repository's timestamp metadata that the service has fetched last; empty if there is none."""
    try:
        return durable.read_bounded(paths.fetched / "mirror/metadata/timestamp.json", max_bytes=MAX_TIMESTAMP_BYTES)
    except SystemProblemError:
        return b""


def drive(course: Generator[Message, Reply, T], url: str, transport: Transport) -> T:
    """Send what a course of messages wants sent, until it is at its end; its result.

    Raises:
        TrustError: no answer came.
    """
    reply: Reply | None = None
    try:
        while True:
            message = next(course) if reply is None else course.send(reply)
            reply = transport.post(f"{url}{message.path}", message.body, message.headers, MAX_ANSWER_BYTES)
    except StopIteration as end:
        result: T = end.value
        return result


class Link:
    """The service's side of the protocol."""

    def __init__(self, paths: Paths, url: str, transport: Transport) -> None:
        self._paths = paths
        self._url = url.rstrip("/")
        self._transport = transport

    def check_in(self, session: Session) -> CheckedIn:
        """Check in once.

        Raises:
            NotEnrolledError, ServerError: it is refused.
            TrustError: the server cannot be reached.
            SystemProblemError: the counter cannot be kept; then nothing was sent.
        """
        return drive(exchange.check_in(_Filed(self._paths, self._url, session)), self._url, self._transport)


class _Filed:
    """This host, by its files; a `kmend.agent.exchange.Party`."""

    def __init__(self, paths: Paths, url: str, session: Session) -> None:
        self._paths = paths
        self._url = url
        self._session = session
        self._credentials = Credentials(paths)

    @property
    def _file(self) -> Path:
        return self._paths.fetched / "acknowledged.json"

    def identity(self) -> Identity:
        identity = self._credentials.identity()
        if identity is None or identity.url != self._url:
            raise NotEnrolledError(
                f"this host is not enrolled at {self._url}", hint="enrol it: kmend enrol --server URL --key KEY"
            )
        return identity

    def machine(self) -> str:
        return machine.noted(self._paths)

    def sign(self, content: bytes) -> str:
        return hostkey.sign(self._credentials.seed(), content)

    def next_counter(self) -> int:
        return self._credentials.next_counter()

    def counter_behind(self, last: int) -> None:
        self._credentials.counter_behind(last)

    def kept(self) -> Acknowledged:
        return statefile.load(self._file, Acknowledged) or Acknowledged()

    def offer(self) -> Offer | None:
        return offers.read(self._paths)

    def take(self, kept: Acknowledged, offer: Offer | None) -> None:
        if offer is not None:
            offers.write(self._paths, offer)
        statefile.save(self._file, kept)

    def drop_offer(self) -> None:
        durable.remove_durably(offers.path(self._paths))

    def facts(self, machine: str) -> HostFacts:
        return reporting.facts(self._session, machine)

    def report(self, machine: str, at: int) -> StateReport:
        return reporting.report(self._session, machine, self._credentials.boots(self._session.boot_id), at)

    def modules(self) -> ModuleReport | None:
        return modulereport.report(self._session) if self._session.config.server.modules else None

    def mirrored(self) -> int:
        return conversation.version_of(mirrored(self._paths))

    def now(self) -> int:
        return self._session.clock.now()

    def coming_seed(self, machine: str) -> bytes:
        return self._credentials.coming_seed(machine)

    def become(self, identity: Identity, seed: bytes) -> None:
        self._credentials.keep(identity, seed)
