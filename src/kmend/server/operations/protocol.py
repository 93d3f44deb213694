"""HTTP/1.1 on a connection, with limits that uvicorn leaves to a proxy: how long a request may take to arrive, how long its head
may be. A server that stands alone meets who sends one byte a minute, and who never ends a header.
"""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from kmend.server.operations import metrics

ARRIVAL_SECONDS = 20.0
"""From a request's first byte, or the connection's beginning, to the request's last byte."""
MAX_HEAD_BYTES = 32 * 1024


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's own, with these limits."""

    arrival_seconds = ARRIVAL_SECONDS

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._timer: TimerHandle | None = None
        self._head = 0
        self._coming = False
        """Whether a request has begun and is not complete."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn's; the first request is expected now."""
        super().connection_made(transport)
        self._expect()

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, unless the head has become too long."""
        if self._timer is None and self.idle:
            self._expect()
        self._head += len(data)
        super().data_received(data)
        if self._timer is None and self._coming:
            self._expect()
        if self._head > MAX_HEAD_BYTES:
            self._cut("head-too-large")

    def on_message_begin(self) -> None:
        """As uvicorn's; but nobody of ours sends a request before the last one is answered."""
        if not self.idle:
            self._cut("pipelined")
        self._coming = True
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """As uvicorn's; what is left over is the head, and what stands around a body's pieces and behind them."""
        self._head -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """As uvicorn's; the request is here."""
        self._stop()
        self._coming, self._head = False, 0
        super().on_message_complete()

    def _expect(self) -> None:
        self._timer = self.loop.call_later(self.arrival_seconds, self._give_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        self._cut("too-slow")

    def _cut(self, problem: str) -> None:
        if not self.transport.is_closing():
            metrics.refusals.labels(area="connection", problem=problem).inc()
            self.transport.abort()
