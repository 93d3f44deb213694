"""What the service that fetches and the loader that loads tell each other: three small files, each with one writer.

    /run/kmend-agent/request   the service asks the loader to act; systemd starts the loader when it changes
    /run/kmend-agent/fetch     how the service's last look at the repository went
    /run/kmend/handled         the loader: the request that it has dealt with last, and how it went

The service is not trusted: what it says is bounded, and is nothing but a wish and a remark
(docs/decisions/0016-fetcher-and-loader.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from kmend.agent.paths import Paths
from kmend.core import durable
from kmend.core.document import decode, encode
from kmend.core.errors import MalformedError, SystemProblemError

MAX_BYTES = 8192
MAX_TEXT = 500
MAX_NUMBER = 2**53
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """What the loader is asked for.

    Attributes:
        number: another one with every request; it has no order that the loader relies on.
        update: look at what was fetched, and load what this host may load; else only do what is due.
        back: a level that the server wants this host to take off again while it is being tried; 0 for none.
    """

    number: int
    update: bool
    back: int = 0
    format: str = "kmend-request/1"


@dataclass(frozen=True, slots=True)
class Handled:
    """How a request ended.

    Attributes:
        kind: of the error, empty if there was none.
    """

    number: int
    kind: str = ""
    message: str = ""
    format: str = "kmend-handled/1"


@dataclass(frozen=True, slots=True)
class Fetch:
    """How the service's last look at the repository went.

    Attributes:
        at, good_at: when the last one was, and the last good one; in seconds since 1970-01-01 UTC.
        kind: of its error, empty if there was none.
        next_at: when the next is due.
        frozen: the server gives an older timestamp of the repository than this host has verified.
    """

    build_id: str
    at: int
    good_at: int
    kind: str
    message: str
    next_at: int
    frozen: bool = False
    format: str = "kmend-fetch/1"


def read_request(paths: Paths) -> Request | None:
    """The newest request."""
    return _read(paths.service / "request", Request)


def write_request(paths: Paths, request: Request) -> None:
    """Ask the loader; raises SystemProblemError if that cannot be written."""
    _write(paths.service / "request", request)


def next_number(paths: Paths) -> int:
    """A number that no request has that is still there, whatever somebody may have put in its place."""
    handled, before = read_handled(paths), read_request(paths)
    number = max(handled.number if handled else 0, before.number if before else 0) + 1
    return number if 0 < number <= MAX_NUMBER else 1


def read_handled(paths: Paths) -> Handled | None:
    """The last request that the loader has dealt with."""
    return _read(paths.run / "handled", Handled)


def write_handled(paths: Paths, handled: Handled) -> None:
    """Say that a request is dealt with; raises SystemProblemError if that cannot be written."""
    _write(paths.run / "handled", handled)


def read_fetch(paths: Paths) -> Fetch | None:
    """How the last look went; without anything that a terminal could take for more than text."""
    found = _read(paths.service / "fetch", Fetch)
    if found is None:
        return None
    return replace(found, kind=_plain(found.kind), message=_plain(found.message))


def write_fetch(paths: Paths, fetch: Fetch) -> None:
    """Say how a look went; raises SystemProblemError if that cannot be written."""
    _write(paths.service / "fetch", fetch)


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:MAX_TEXT])


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return decode(kind, durable.read_bounded(path, max_bytes=MAX_BYTES, follow=False), max_bytes=MAX_BYTES)
    except (MalformedError, SystemProblemError):
        return None


def _write(path: Path, document: object) -> None:
    durable.make_folder(path.parent)
    durable.write_durably(path, encode(document) + b"\n")
