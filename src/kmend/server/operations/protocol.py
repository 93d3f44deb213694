"""HTTP/1.1 on a connection, with limits that uvicorn leaves to a proxy: how long a request may take to arrive, how long its head
may be, how long an answer may lie unread. A server that stands alone meets who sends one byte a minute, who never ends a header,
and who asks for a large file and does not read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import struct
import termios
from asyncio.events import TimerHandle
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from kmend.server.operations import metrics

ARRIVAL_SECONDS = 20.0
"""From a request's first byte, or the connection's beginning, to the request's last byte."""
READING_SECONDS = 60.0
"""So long an answer that is too long for the buffers may lie there without a byte of it being taken."""
MAX_HEAD_BYTES = 32 * 1024


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's own, with these limits."""

    arrival_seconds = ARRIVAL_SECONDS
    reading_seconds = READING_SECONDS

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._timer: TimerHandle | None = None
        self._reading: TimerHandle | None = None
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
        self._let_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """As uvicorn's; what was written must be read now, however slowly."""
        super().pause_writing()
        if self._reading is None:
            self._watch_reading()

    def resume_writing(self) -> None:
        """As uvicorn's."""
        self._let_read()
        super().resume_writing()

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

    def _watch_reading(self) -> None:
        self._reading = self.loop.call_later(self.reading_seconds, self._look_at_reading, self._unread())

    def _let_read(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _look_at_reading(self, before: tuple[int, int]) -> None:
        if self._unread() != before:
            self._watch_reading()
            return
        self._reading = None
        metrics.refusals.labels(area="connection", problem="reads-too-slowly").inc()
        self.transport.abort()  # also of a connection that is being closed: it would wait for the reader

    def _unread(self) -> tuple[int, int]:
        """Bytes that are still here, and those that the other side has not acknowledged; while it does not read, both stay.

        The kernel's buffer (tcp(7), SIOCOUTQ) is large, and takes new bytes only when much of it is free: without it, a slow
        reader would look like none.
        """
        queued = 0
        plain = self.transport.get_extra_info("socket")
        if plain is not None:
            with contextlib.suppress(OSError, ValueError):
                (queued,) = struct.unpack("i", fcntl.ioctl(plain.fileno(), termios.TIOCOUTQ, bytes(4)))
        return self.transport.get_write_buffer_size(), queued

    def _give_up(self) -> None:
        self._timer = None
        self._cut("too-slow")

    def _cut(self, problem: str) -> None:
        if not self.transport.is_closing():
            metrics.refusals.labels(area="connection", problem=problem).inc()
            self.transport.abort()
