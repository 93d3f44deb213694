"""What is said to the server and what its answers mean. Pure: files and network are the link's (`kmend.agent.link`)."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

from kmend.agent.errors import AgentError
from kmend.core.document import decode, encode
from kmend.core.errors import MalformedError
from kmend.core.manifest import sha256_hex
from kmend.core.wire import (
    HOST_HEADER,
    MAX_ANSWER_BYTES,
    MAX_COUNTER,
    MAX_REQUEST_BYTES,
    NO_LINK,
    SIGNATURE_HEADER,
    Answer,
    CheckIn,
    HostFacts,
    ModuleReport,
    Offer,
    Purpose,
    Refusal,
    Split,
    StateReport,
    link,
    signed_bytes,
)
from kmend.trust import hostkey

_TAG_LENGTH = 16
MAX_LEAP = 2**40
"""So far ahead of a host's own counter a server may have seen one of it; otherwise a few lies would use up all that there are."""
T = TypeVar("T")
URN = "urn:kmend:problem:"
Sign = Callable[[bytes], str]
"""Content in, its signature in hexadecimal out."""
_HINTS = {
    "unknown-host": "enrol this host: kmend enrol --again",
    "decommissioned": "it keeps what it runs, and loads nothing new by itself; kmend enrol --again takes it in anew",
    "expired": "enrol this host anew: kmend enrol --again",
    "signature": "its key is not the one that was enrolled: kmend enrol --again",
    "enrolment-key": "ask for a new enrolment key",
}


class ServerError(AgentError):
    """The server refuses, or what it answers cannot be used.

    Attributes:
        word: the server's, of its refusal; empty if it gave none.
        retry_after: seconds for which it wants to be left alone; None if it did not say.
    """

    kind: ClassVar[str] = "server"

    def __init__(self, message: str, *, hint: str = "", word: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.word = word
        self.retry_after = retry_after


class CounterBehindError(ServerError):
    """The counter was used before; `last` is what the server has seen."""

    def __init__(self, last: int) -> None:
        super().__init__(f"the server has seen the counter {last} of this host already")
        self.last = last


class ClonedError(ServerError):
    """Another machine uses this host's identity."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What the server has last said that it has, and has told.

    Attributes:
        report: digest of the state report; at: the time that it names.
        answer: tag of the offer that is kept.
        modules: tag of the module report; empty if the server has never asked for one.
        link: of the last check-in with a state (`kmend.core.wire.link`); empty for none.
    """

    report: str = ""
    at: int = 0
    answer: str = ""
    modules: str = ""
    link: str = ""
    format: str = "kmend-acknowledged/1"


@dataclass(frozen=True, slots=True)
class Taken:
    """What an answer comes to.

    Attributes:
        again: the server wants the state report; the check-in has to be sent once more.
        modules: it wants the module report too.
        offer: a new one; None if the one that is kept holds.
    """

    kept: Acknowledged
    next: int
    offer: Offer | None
    timestamp: str
    again: bool = False
    modules: bool = False


def timed(report: StateReport, kept: Acknowledged, now: int) -> StateReport:
    """The report with its time: that of the acknowledged one if nothing else has changed, else now."""
    same = replace(report, at=kept.at)
    return same if sha256_hex(encode(same)) == kept.report else replace(report, at=now)


def tag_of(report: ModuleReport | None) -> str:
    """What a check-in calls a module report; empty for none."""
    return sha256_hex(encode(report))[:_TAG_LENGTH] if report is not None else ""


def compose(
    host: str,
    counter: int,
    report: StateReport,
    kept: Acknowledged,
    *,
    offered: bool,
    timestamp: int,
    full: bool = False,
    modules: ModuleReport | None = None,
    wanted: bool = False,
) -> CheckIn:
    """The next check-in.

    Args:
        offered: an offer is kept, so that its tag may be named.
        timestamp: version of the repository's timestamp that is known here.
        full: send the report whether or not it has been acknowledged.
        modules: the module report that holds now; None if there is none.
        wanted: the server has asked for it. Without that it goes along, once it has changed, to a server that had one before.
            Nothing is said of modules if state and module report together are more than a server takes.
    """
    digest, tag = sha256_hex(encode(report)), tag_of(modules)
    beside = modules if tag and (wanted or kept.modules not in ("", tag)) else None
    state = report if full or beside is not None or digest != kept.report else None
    bare = CheckIn(host, counter, report.boot_id, digest, state, kept.answer if offered else "", timestamp)
    if state is not None:
        bare = replace(bare, after=kept.link or NO_LINK)
    told = replace(bare, modules=tag, module_report=beside)
    return bare if beside is not None and len(encode(told)) > MAX_REQUEST_BYTES else told


def headers(host: str, server: str, purpose: Purpose, body: bytes, sign: Sign) -> dict[str, str]:
    """What goes beside a message; `host` and `server` are empty at enrolment."""
    signature = {SIGNATURE_HEADER: sign(signed_bytes(purpose, server, body))}
    return {HOST_HEADER: host, **signature} if host else signature


def take(
    status: int,
    content: bytes,
    message: CheckIn,
    report: StateReport,
    before: Acknowledged,
    *,
    retry_after: float | None = None,
) -> Taken:
    """What the answer to a check-in means.

    Args:
        before: what the server had acknowledged when it was sent.

    Raises:
        CounterBehindError, ClonedError, ServerError: it is refused, or cannot be read.
    """
    if status != 200:
        problem = refused(status, content, retry_after)
        if isinstance(problem, CounterBehindError) and problem.last > message.counter + MAX_LEAP:
            raise ServerError(
                f"the server names the counter {problem.last}, which no host comes to",
                hint="if it stays so: kmend enrol --again",
            )
        raise problem
    answer = read(Answer, content)
    state = answer.send_state and message.state is None
    modules = answer.send_modules and message.module_report is None and bool(message.modules)
    if state or modules:
        return Taken(
            Acknowledged(answer=message.answer), answer.next, None, answer.timestamp, again=True, modules=modules
        )
    known = message.modules if message.module_report is not None or before.modules == message.modules else ""
    last = link(message) if message.state is not None else before.link
    return Taken(
        Acknowledged(message.report, report.at, answer.answer, known, last), answer.next, answer.offer, answer.timestamp
    )


def split(host: str, server: str, seed: bytes, told: HostFacts) -> Split:
    """What a clone sends to get an identity of its own, with the proof of its new key."""
    bare = Split(host, hostkey.public_key(seed), told)
    return replace(bare, proof=hostkey.sign(seed, signed_bytes(Purpose.SPLIT, server, encode(bare))))


def read(kind: type[T], content: bytes) -> T:
    """A document of the server's.

    Raises:
        ServerError: it is none.
    """
    try:
        return decode(kind, content, max_bytes=MAX_ANSWER_BYTES)
    except MalformedError as problem:
        raise ServerError(
            f"the server's answer cannot be read: {problem.message}", hint="is it a kmend-server?"
        ) from None


def refused(status: int, content: bytes, retry_after: float | None = None) -> ServerError:
    """The error for an answer that is not 200."""
    try:
        refusal = decode(Refusal, content, max_bytes=MAX_ANSWER_BYTES)
    except MalformedError:
        refusal = Refusal("", f"HTTP status {status}", status)
    word = refusal.type.removeprefix(URN) if refusal.type.startswith(URN) else ""
    if word == "counter-behind" and 0 < refusal.counter < MAX_COUNTER - 1:
        return CounterBehindError(refusal.counter)
    if word == "cloned":
        return ClonedError("the server has seen another machine with this host's identity")
    said = f"{refusal.title} {refusal.detail}"[:300]
    shown = "".join(letter if letter.isprintable() else " " for letter in said).strip()
    return ServerError(
        f"the server refuses ({word or status}): {shown}", hint=_HINTS.get(word, ""), word=word, retry_after=retry_after
    )


def expired(timestamp: bytes, now: int) -> bool:
    """Whether timestamp metadata says that it is over; what cannot be read counts as over."""
    try:
        said = json.loads(timestamp)["signed"]["expires"]
        end = datetime.datetime.strptime(said, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
    except (ValueError, TypeError, KeyError, RecursionError):
        return True
    return end.timestamp() <= now


def version_of(timestamp: bytes) -> int:
    """The version that timestamp metadata names, unverified; 0 if it cannot be read."""
    try:
        version = json.loads(timestamp)["signed"]["version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0
    return version if type(version) is int and 0 < version < MAX_COUNTER else 0
