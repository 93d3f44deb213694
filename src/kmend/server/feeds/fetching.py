"""Fetching a feed's file over the network: only if it has changed, bounded in size and time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from kmend.server.feeds.errors import FeedError
from kmend.server.feeds.places import kind_of
from kmend.trust.errors import TrustError, UnreachableError
from kmend.trust.network import Network
from kmend.trust.transport import Transport

_MEBIBYTE = 1024 * 1024
LIMITS = {
    "cna": 512 * _MEBIBYTE, "debian": 64 * _MEBIBYTE, "kev": 64 * _MEBIBYTE, "epss": 64 * _MEBIBYTE, "ssvc": 512 * _MEBIBYTE,
    "bod": _MEBIBYTE,
}  # fmt: skip
"""Of what is fetched, packed or not."""
ATTEMPTS = 3
MIN_RATE = 16 * 1024


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file.

    Attributes:
        content: None if it is the one that is there already.
        etag, modified: what tells next time whether it has changed.
        changed_at: when it was changed, by the server's word; None if that does not say.
    """

    content: bytes | None
    etag: str
    modified: str
    changed_at: int | None


def fetch(url: str, feed: str, *, etag: str = "", modified: str = "", seconds: float, ca_file: str = "") -> Fetched:
    """Fetch one file; a proxy is taken from the environment.

    Args:
        etag, modified: of the file that is there already.
        seconds: for all of it; who delivers more than 16 KiB a second gets longer.
        ca_file: certificates to trust besides the system's; empty for none.

    Raises:
        FeedError: it cannot be had; `retry_after` says when its server wants to be asked again.
    """
    transport = Transport(Network(ca_file=ca_file, total=seconds, min_rate=MIN_RATE, attempts=ATTEMPTS))
    try:
        answer = transport.get(url, LIMITS[kind_of(feed)], etag=etag, modified=modified)
    except TrustError as problem:
        raise FeedError(
            problem.message,
            hint=f"look at [feeds] {feed} in the configuration, and at the network; a proxy is taken from the environment",
            retry_after=problem.retry_after if isinstance(problem, UnreachableError) else None,
        ) from None
    finally:
        transport.close()
    if answer.unchanged:
        return Fetched(None, answer.etag or etag, answer.modified or modified, None)
    return Fetched(answer.content, answer.etag, answer.modified, _moment(answer.modified))


def environment(ca_file: str) -> dict[str, str]:
    """The environment of programs that fetch."""
    own = {
        "LC_ALL": "C.UTF-8",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "file:http:https:ssh",
    }
    return {**os.environ, **own, **({"GIT_SSL_CAINFO": ca_file} if ca_file else {})}


def _moment(text: str) -> int | None:
    try:
        return int(parsedate_to_datetime(text).timestamp()) if text else None
    except (ValueError, TypeError, OverflowError):
        return None
