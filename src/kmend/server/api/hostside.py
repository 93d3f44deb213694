"""What hosts ask for: enrolment, check-in, news, a split. Signed JSON in, JSON out; the form is that of `kmend.core.wire`.

A plain ASGI application: four paths, bytes that are bounded before they are read, and nothing between a request and the queue
that check-ins are judged from.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from kmend.core import wire
from kmend.core.document import decode, encode
from kmend.core.errors import MalformedError
from kmend.core.wire import Purpose
from kmend.server.api.services import Services
from kmend.server.hosts import enrolment, refusals
from kmend.server.hosts.checkin import DECOMMISSIONED, ENROLLED, Received
from kmend.server.hosts.refusals import Refused
from kmend.server.hosts.signatures import signed
from kmend.server.operations import metrics
from kmend.server.store import StoreError
from kmend.server.store.tables import hosts

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
T = TypeVar("T")

NEWS_SKEW_SECONDS = 3600
"""How far a host's clock may be off in a request for news."""
AGAIN_SECONDS = 30
"""Who cannot wait here asks again after that."""
THREADS, MOST_UNDER_WAY = 4, 2048
"""For news, and again for enrolment: so many work, and so many hosts may wait for them; others are told to come again."""
_logger = logging.getLogger(__name__)
_TOO_LARGE = Refused("too-large", 413, "The request is too large.", f"at most {wire.MAX_REQUEST_BYTES} bytes")
_NOT_FOUND = Refused("not-found", 404, "There is nothing here.")
_METHOD = Refused("method", 405, "Only POST is accepted here.")
_GONE = Refused("gone", 499, "The host has closed its connection.")
_TOO_OLD = Refused("clock", 401, "The request is too old, or the host's clock is wrong.", "set the host's clock")


class _FullError(Exception):
    """Too many hosts wait for a thread."""


class _Crew:
    """Threads of hosts' own: a storm of hosts must not keep people waiting, nor one sort of request another."""

    def __init__(self, name: str) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=name)
        self._most = MOST_UNDER_WAY
        self._under_way = 0

    async def do(self, work: Callable[[], T]) -> T:
        """Do something that takes a thread."""
        if self._under_way >= self._most:
            raise _FullError
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._under_way -= 1


@dataclass(frozen=True, slots=True)
class _Asker:
    public_key: str
    ring: str
    state: str


class HostSide:
    """The application."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._reading = _Crew("hosts")
        self._writing = _Crew("enrolment")
        self._paths: dict[str, Callable[[Scope, bytes, str, Receive], Awaitable[object]]] = {
            wire.CHECK_IN_PATH: self._check_in,
            wire.NEWS_PATH: self._news,
            wire.ENROL_PATH: self._enrol,
            wire.SPLIT_PATH: self._split,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        answer: object
        work = self._paths.get(scope["path"])
        if work is None:
            answer = _NOT_FOUND
        elif scope["method"] != "POST":
            answer = _METHOD
        else:
            try:
                body = await _body(scope, receive)
                answer = body if isinstance(body, Refused) else await work(scope, body, _signature(scope), receive)
            except MalformedError as problem:
                answer = refusals.malformed(problem.message[:300])
            except StoreError as problem:
                _logger.error("a host cannot be answered: %s", problem.message)
                answer = refusals.BUSY
            except _FullError:
                answer = refusals.BUSY
            except IntegrityError:
                # The same request is under way a second time; when it is over, asking again finds what it did.
                answer = refusals.BUSY
        if answer is not _GONE:
            await _send(send, answer, str(scope["path"]).removeprefix("/v1/"))

    async def _check_in(self, scope: Scope, body: bytes, signature: str, receive: Receive) -> object:
        message = decode(wire.CheckIn, body, max_bytes=wire.MAX_REQUEST_BYTES)
        _same_host(scope, message.host)
        future = self._services.batcher.submit(Received(body, signature, _address(scope), message))
        return await asyncio.wrap_future(future)

    async def _enrol(self, scope: Scope, body: bytes, signature: str, receive: Receive) -> object:
        message, address, services = decode(wire.Enrolment, body), _address(scope), self._services

        def look(connection: Connection) -> Refused | None:
            return enrolment.refused(connection, message, address=address, now=services.clock())

        def work(connection: Connection) -> object:
            return enrolment.enrol(
                connection, message, body, signature, address=address, server=services.server_id, now=services.clock()
            )

        if not enrolment.asks(message, body, signature):
            return refusals.BAD_SIGNATURE
        return await self._writing.do(lambda: self._judged(look, work))

    async def _split(self, scope: Scope, body: bytes, signature: str, receive: Receive) -> object:
        message, address, services = decode(wire.Split, body), _address(scope), self._services
        _same_host(scope, message.host)

        def look(connection: Connection) -> Refused | None:
            return enrolment.split_refused(connection, message, body, signature, server=services.server_id)

        def work(connection: Connection) -> object:
            return enrolment.split(
                connection, message, body, signature, address=address, server=services.server_id, now=services.clock()
            )

        return await self._writing.do(lambda: self._judged(look, work))

    async def _news(self, scope: Scope, body: bytes, signature: str, receive: Receive) -> object:
        message = decode(wire.NewsRequest, body)
        _same_host(scope, message.host)
        asker = await self._reading.do(lambda: self._asker(message.host))
        if asker is None:
            return refusals.UNKNOWN_HOST
        if not signed(asker.public_key, signature, Purpose.NEWS, self._services.server_id, body):
            return refusals.BAD_SIGNATURE
        if asker.state != ENROLLED:
            return refusals.DECOMMISSIONED if asker.state == DECOMMISSIONED else refusals.EXPIRED
        if abs(message.at - self._services.clock()) > NEWS_SKEW_SECONDS:
            return _TOO_OLD
        hold = self._services.hold
        if not hold.has_place(message.host) and message.seen == hold.seen(asker.ring):
            return replace(refusals.BUSY, retry_after=AGAIN_SECONDS)
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await hold.wait(asker.ring, message.host, message.seen, message.wait, gone)
            spread = hold.spread(asker.ring)
            if gone.done():
                return _GONE
        finally:
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone
        return wire.News(hold.seen(asker.ring), spread)

    def _judged(self, look: Callable[[Connection], Refused | None], work: Callable[[Connection], object]) -> object:
        """Do what writes, unless it is refused anyway: who has no right to anything must not take the writer's turn."""
        with self._services.store.read() as connection:
            found = look(connection)
        return found if found is not None else self._services.store.transact(work)

    def _asker(self, host: str) -> _Asker | None:
        columns = (hosts.c.public_key, hosts.c.ring, hosts.c.state)
        with self._services.store.read() as connection:
            row = connection.execute(select(*columns).where(hosts.c.id == host)).first()
        return _Asker(*row) if row is not None else None


def _same_host(scope: Scope, host: str) -> None:
    """The header is there for load balancers; it must not name another host than the one that signs."""
    given = _header(scope, wire.HOST_HEADER)
    if given != host:
        raise MalformedError(f"the header {wire.HOST_HEADER} does not name the host of the message")


def _header(scope: Scope, name: str) -> str:
    wanted = name.lower().encode()
    for key, value in scope["headers"]:
        if key == wanted:
            return str(value.decode("latin-1"))
    return ""


def _signature(scope: Scope) -> str:
    return _header(scope, wire.SIGNATURE_HEADER)


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


async def _body(scope: Scope, receive: Receive) -> bytes | Refused:
    announced = _header(scope, "content-length")
    if announced.isdigit() and int(announced[:10]) > wire.MAX_REQUEST_BYTES:
        return _TOO_LARGE
    content = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return _GONE
        content += message.get("body", b"")
        if len(content) > wire.MAX_REQUEST_BYTES:
            return _TOO_LARGE
        if not message.get("more_body"):
            return bytes(content)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, answer: object, area: str) -> None:
    if isinstance(answer, Refused):
        metrics.refusals.labels(area=area if area in _AREAS else "host", problem=answer.word).inc()
        status, kind, content = answer.status, b"application/problem+json", encode(answer.problem())
    else:
        status, kind, content = 200, b"application/json", encode(answer)
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(content)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if isinstance(answer, Refused) and answer.retry_after:
        headers.append((b"retry-after", str(answer.retry_after).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


_AREAS = frozenset(
    path.removeprefix("/v1/") for path in (wire.CHECK_IN_PATH, wire.NEWS_PATH, wire.ENROL_PATH, wire.SPLIT_PATH)
)
