"""Speaking to the server: check-ins, and the change of identity of a machine that finds itself to be a copy.

What comes from the server is bounded, and nothing of it is believed but an offer, which holds back or lets have what the
publisher signed (docs/decisions/0021-host-protocol.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from kmend.agent import conversation, machine, offers, reporting, statefile
from kmend.agent.config import Config
from kmend.agent.conversation import Acknowledged, ClonedError, CounterBehindError, ServerError
from kmend.agent.identity import Credentials, Identity
from kmend.agent.paths import Paths
from kmend.agent.session import Session
from kmend.core import durable
from kmend.core.document import encode
from kmend.core.errors import SystemProblemError
from kmend.core.wire import CHECK_IN_PATH, MAX_ANSWER_BYTES, SPLIT_PATH, Enrolled, Offer, Purpose
from kmend.trust import hostkey
from kmend.trust.network import Network
from kmend.trust.transport import Reply, Transport

_ATTEMPTS = 4
"""A counter that lies behind, a new identity, a state that is asked for: each once."""
MAX_TIMESTAMP_BYTES = 64 * 1024


class NotEnrolledError(ServerError):
    """A server is configured, and this host is not enrolled there."""

    kind: ClassVar[str] = "not-enrolled"


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


class Link:
    """The service's side of the protocol."""

    def __init__(self, paths: Paths, url: str, transport: Transport) -> None:
        self._paths = paths
        self._url = url.rstrip("/")
        self._transport = transport
        self._credentials = Credentials(paths)

    def identity(self) -> Identity:
        """Who this host is.

        Raises:
            NotEnrolledError: nobody, to this server.
        """
        identity = self._credentials.identity()
        if identity is None or identity.url != self._url:
            raise NotEnrolledError(
                f"this host is not enrolled at {self._url}", hint="enrol it: kmend enrol --server URL --key KEY"
            )
        return identity

    def check_in(self, session: Session) -> CheckedIn:
        """Check in once.

        Raises:
            NotEnrolledError, ServerError: it is refused.
            TrustError: the server cannot be reached.
            SystemProblemError: the counter cannot be kept; then nothing was sent.
        """
        identity = self.identity()
        full = False
        for _ in range(_ATTEMPTS):
            here = machine.noted(self._paths) or identity.machine
            try:
                if here != identity.machine:
                    raise ClonedError("this machine is not the one that was enrolled")
                taken = self._try(session, identity, here, full=full)
            except CounterBehindError as problem:
                self._credentials.counter_behind(problem.last)
            except ClonedError:
                identity = self._split(session, identity, here)
                full = False
            else:
                if not taken.again:
                    return self._keep(taken)
                full = True
        raise ServerError("the server does not come to an end with this host's check-in", hint="look at its log")

    def _try(self, session: Session, identity: Identity, here: str, *, full: bool) -> conversation.Taken:
        kept = self._kept()
        boots = self._credentials.boots(session.boot_id)
        report = conversation.timed(reporting.report(session, here, boots, kept.at), kept, session.clock.now())
        message = conversation.compose(
            identity.host,
            self._credentials.next_counter(),
            report,
            kept,
            offered=offers.read(self._paths) is not None,
            timestamp=conversation.version_of(mirrored(self._paths)),
            full=full,
        )
        reply = self._post(CHECK_IN_PATH, Purpose.CHECK_IN, identity, encode(message))
        return conversation.take(reply.status, reply.content, message, report, retry_after=reply.retry_after)

    def _kept(self) -> Acknowledged:
        return statefile.load(self._file, Acknowledged) or Acknowledged()

    @property
    def _file(self) -> Path:
        return self._paths.fetched / "acknowledged.json"

    def _keep(self, taken: conversation.Taken) -> CheckedIn:
        changed = taken.offer is not None and taken.offer != offers.read(self._paths)
        if taken.offer is not None and changed:
            offers.write(self._paths, taken.offer)
        if taken.kept != self._kept():
            statefile.save(self._file, taken.kept)
        return CheckedIn(taken.next, offers.read(self._paths), changed, taken.timestamp.encode())

    def _split(self, session: Session, identity: Identity, here: str) -> Identity:
        """Become somebody else: this machine is a copy, or its disk was put into another one."""
        seed = hostkey.make_seed()
        message = conversation.split(identity.host, identity.server, seed, reporting.facts(session, here), hostkey.sign)
        reply = self._post(SPLIT_PATH, Purpose.SPLIT, identity, encode(message))
        if reply.status != 200:
            raise conversation.refused(reply.status, reply.content, reply.retry_after)
        enrolled = conversation.read(Enrolled, reply.content)
        mine = Identity(enrolled.host, enrolled.server, self._url, here, parent=identity.host)
        self._credentials.keep(mine, seed)
        return mine

    def _post(self, path: str, purpose: Purpose, identity: Identity, body: bytes) -> Reply:
        told = conversation.headers(
            identity.host, identity.server, self._credentials.seed(), purpose, body, hostkey.sign
        )
        return self._transport.post(f"{self._url}{path}", body, told, MAX_ANSWER_BYTES)
