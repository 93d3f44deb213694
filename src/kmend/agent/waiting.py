"""Holding a request at the server until it has news: a thread that sleeps in a socket, and wakes the service.

The answer carries nothing; the service then checks in as it always does. Where the server does not hold requests, or not this
one, the service goes on by its own times.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import socket
import threading
from collections.abc import Callable
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection

from kmend.agent import conversation, exchange
from kmend.agent.identity import Identity
from kmend.core.errors import KmendError
from kmend.core.wire import MAX_ANSWER_BYTES, News
from kmend.trust import hostkey
from kmend.trust.network import Network
from kmend.trust.proxies import Proxy
from kmend.trust.transport import Transport

HOLD_SECONDS = 300
PACE_SECONDS = 5.0
"""Between two requests, however quickly the server answers: it must not keep a host busy."""
MAX_SPREAD = 3600
FIRST_PAUSE, LONGEST_PAUSE = 15.0, 900.0
_logger = logging.getLogger(__name__)


class HeldTransport(Transport):
    """For a request that is held: another thread can end it."""

    def __init__(self, network: Network | None = None) -> None:
        super().__init__(network)
        self._cut = False
        self._connected: object = None

    def cut(self) -> None:
        """From any thread: end the request that is under way; none succeeds any more."""
        self._cut = True
        self._end()

    def _make_pool(self, proxy: Proxy | None, *, secure: bool) -> urllib3.PoolManager:
        pool = super()._make_pool(proxy, secure=secure)
        classes: dict[str, Any] = pool.pool_classes_by_scheme
        for kind in classes.values():  # of this pool alone (`kmend.trust.deadline.bound`)
            kind.ConnectionCls = _noted(kind.ConnectionCls, self._note)
        return pool

    def _note(self, connected: object) -> None:
        self._connected = connected
        if self._cut:
            self._end()

    def _end(self) -> None:
        # TLS within TLS has the socket inside. Not SSLSocket's own, which takes TLS away from under a thread that reads.
        plain = getattr(self._connected, "socket", self._connected)
        if isinstance(plain, socket.socket):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(plain, socket.SHUT_RDWR)


def _noted(base: type[HTTPConnection], note: Callable[[object], None]) -> type[HTTPConnection]:
    class Noted(base):  # type: ignore[valid-type, misc]
        def connect(self) -> None:
            super().connect()
            note(self.sock)

    return Noted


class Waiter:
    """Waits for news of one server.

    Args:
        transport: for this thread alone.
        wake: called, from the thread, when there is news.
        now: seconds since 1970-01-01 UTC.
    """

    def __init__(
        self,
        transport: HeldTransport,
        identity: Identity,
        seed: bytes,
        wake: Callable[[], None],
        now: Callable[[], int],
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._transport = transport
        self.identity = identity
        self._sign = functools.partial(hostkey.sign, seed)
        self._wake = wake
        self._now = now
        self._draw = draw
        self._stop = threading.Event()
        self._seen = ""
        self._thread = threading.Thread(target=self._work, name="news", daemon=True)

    def start(self) -> None:
        """Begin to wait, if it has not begun."""
        if self._thread.ident is None:
            self._thread.start()

    def close(self) -> None:
        """Wait no more; a request that is held is ended, and the thread soon is. One that is still connecting takes its time."""
        self._stop.set()
        self._transport.cut()
        if not self.alive:
            self._transport.close()

    @property
    def alive(self) -> bool:
        """Whether its thread is there."""
        return self._thread.is_alive()

    def _work(self) -> None:
        try:
            self._wait_for_news()
        finally:
            self._transport.close()

    def _wait_for_news(self) -> None:
        failures = 0
        while not self._stop.is_set():
            known = self.known
            try:
                spread = self.ask()
            except KmendError as problem:
                failures += 1
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 10))
                after = getattr(problem, "retry_after", None) or 0.0
                _logger.info("no news can be waited for: %s", problem.message)
                self._stop.wait(max(1.0, self._draw() * pause) + min(after, LONGEST_PAUSE))
                continue
            if failures and not known:
                spread = int(LONGEST_PAUSE)  # the server has been away, and everybody comes back
            failures = 0
            if spread is not None and not self._stop.wait(self._draw() * spread):
                self._wake()
            self._stop.wait(PACE_SECONDS if known else 0.0)

    @property
    def known(self) -> bool:
        """Whether the server has said what there is. What came before its first answer may be news to this host."""
        return bool(self._seen)

    def ask(self) -> int | None:
        """Ask once; seconds within which to check in, None if there is no news. The first answer comes at once.

        Raises:
            ServerError, TrustError: it is refused, or the server cannot be reached.
        """
        message = exchange.news(self.identity, self._seen, self._now(), HOLD_SECONDS, self._sign)
        url = f"{self.identity.url}{message.path}"
        wait = HOLD_SECONDS if self.known else 0.0
        reply = self._transport.post(url, message.body, message.headers, MAX_ANSWER_BYTES, wait=wait)
        if reply.status != 200:
            raise conversation.refused(reply.status, reply.content, reply.retry_after)
        answer = conversation.read(News, reply.content)
        changed = answer.seen != self._seen
        self._seen = answer.seen
        return max(0, min(answer.spread, MAX_SPREAD)) if changed else None
