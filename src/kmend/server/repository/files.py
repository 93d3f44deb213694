"""Handing out the repository's files over HTTP, as a good web server would (RFC 9110): conditions, ranges, caching.

Which files there are is for the source to say: a folder, or an object store. A path is taken apart here first, and what does not
look like one of a repository's names never reaches a source: no `..`, no hidden file, no empty part.
"""

from __future__ import annotations

import asyncio
import email.utils
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from kmend.core.errors import KmendError
from kmend.server.operations import metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

CHUNK = 256 * 1024
FOREVER = "public, max-age=31536000, immutable"
ASK = "no-cache"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}")
_MAX_PARTS = 5
_ADDRESSED = re.compile(r"(files/[0-9a-f]{2}/[0-9a-f]{64}|targets/.+/[0-9a-f]{64}\.[^/]+)\Z")
_VERSIONED = re.compile(r"metadata/[0-9]+\.[^/]+\.json\Z")
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})\Z")


class Entry(Protocol):
    """A file that is there."""

    @property
    def size(self) -> int:
        """In bytes."""

    @property
    def etag(self) -> str:
        """Strong, with its quotes."""

    @property
    def modified(self) -> int:
        """Seconds since 1970-01-01 UTC; 0 if that is not known."""

    def read(self, start: int, length: int) -> bytes:
        """A piece of it; blocks."""

    def close(self) -> None:
        """It is not needed any more."""


class Source(Protocol):
    """Where files are."""

    def find(self, path: str) -> Entry | None:
        """The file of that path, relative to the repository; None if there is none; blocks.

        Raises:
            KmendError: the source itself cannot be used.
        """


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a file: from `start`, `length` bytes."""

    start: int
    length: int


def plain_path(text: str) -> str:
    """The path, if it looks like one of a repository's files; empty otherwise."""
    parts = text.split("/")
    return text if len(parts) <= _MAX_PARTS and all(_PART.fullmatch(part) for part in parts) else ""


def cache_control(path: str) -> str:
    """How long an answer may be kept: what is named by its content or its version for ever, the rest never unasked."""
    return FOREVER if _ADDRESSED.fullmatch(path) or _VERSIONED.fullmatch(path) else ASK


def unchanged(headers: Mapping[str, str], etag: str, modified: int) -> bool:
    """Whether the asker has the file already (RFC 9110, sections 13.1.2, 13.1.3 and 13.2.2)."""
    given = headers.get("if-none-match")
    if given is not None:
        tags = [tag.strip().removeprefix("W/") for tag in given.split(",")]
        return "*" in tags or etag in tags
    since = _seconds(headers.get("if-modified-since", ""))
    return bool(modified) and since is not None and modified <= since


def wanted(headers: Mapping[str, str], size: int, etag: str) -> Span | bool | None:
    """The piece that is asked for; None for the whole file, False if there is no such piece (section 14.2).

    Several ranges at once are answered with the whole file, which is allowed.
    """
    match = _RANGE.fullmatch(headers.get("range", "").strip())
    if match is None or match[0] == "bytes=-":
        return None
    if headers.get("if-range", etag) != etag:
        # A date would not do: it says nothing of what changed within its second.
        return None
    if not match[1]:
        length = min(int(match[2]), size)
        return Span(size - length, length) if length else False
    start = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < start:
        return None
    return Span(start, last - start + 1) if start < size else False


def _seconds(date: str) -> int | None:
    try:
        return int(email.utils.parsedate_to_datetime(date).timestamp())
    except (ValueError, TypeError, OverflowError):
        return None


class RepositoryFiles:
    """An ASGI application for what lies below one path.

    Args:
        prefix: of the paths that it answers, without a slash at its end.
    """

    def __init__(self, source: Source, prefix: str = "/repository") -> None:
        self._source = source
        self._prefix = prefix + "/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, {"allow": "GET, HEAD"})
            return
        path = plain_path(str(scope["path"]).removeprefix(self._prefix))
        try:
            entry = await asyncio.to_thread(self._source.find, path) if path else None
        except KmendError as problem:
            metrics.refusals.labels(area="repository", problem=problem.kind).inc()
            await _answer(send, 503, {"retry-after": "10"})
            return
        if entry is None:
            # The next root is asked for before it exists; a cache must not remember that it did not.
            await _answer(send, 404, {"cache-control": "no-store"})
            return
        try:
            await self._send(entry, path, scope, send)
        finally:
            await asyncio.to_thread(entry.close)

    async def _send(self, entry: Entry, path: str, scope: Scope, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        common = {"etag": entry.etag, "cache-control": cache_control(path), "accept-ranges": "bytes"}
        if entry.modified:
            common["last-modified"] = email.utils.formatdate(entry.modified, usegmt=True)
        if unchanged(headers, entry.etag, entry.modified):
            await _answer(send, 304, common)
            return
        span = wanted(headers, entry.size, entry.etag) if scope["method"] == "GET" else None
        if span is False:
            await _answer(send, 416, {**common, "content-range": f"bytes */{entry.size}"})
            return
        status = 200
        if isinstance(span, Span):
            status = 206
            common["content-range"] = f"bytes {span.start}-{span.start + span.length - 1}/{entry.size}"
        else:
            span = Span(0, entry.size)
        common |= {
            "content-type": "application/json" if path.endswith(".json") else "application/octet-stream",
            "content-length": str(span.length),
            "x-content-type-options": "nosniff",
        }
        await _start(send, status, common)
        left = span.length if scope["method"] == "GET" else 0
        position = span.start
        while left:
            piece = await asyncio.to_thread(entry.read, position, min(CHUNK, left))
            if not piece:
                # The rest is gone. The connection is cut, which is how the asker learns it.
                raise ConnectionAbortedError(f"{path} ended early")
            position += len(piece)
            left -= len(piece)
            metrics.bytes_sent.labels(area="repository").inc(len(piece))
            await send({"type": "http.response.body", "body": piece, "more_body": bool(left)})
        if scope["method"] == "HEAD" or not span.length:
            await send({"type": "http.response.body", "body": b""})


async def _start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


async def _answer(send: Send, status: int, headers: Mapping[str, str]) -> None:
    empty = {} if status == 304 else {"content-length": "0"}
    await _start(send, status, {**headers, **empty})
    await send({"type": "http.response.body", "body": b""})
