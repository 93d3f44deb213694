"""HTTP/1.1 as far as a host needs it, for thousands of hosts in one event loop."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from dataclasses import dataclass
from urllib.parse import urlsplit

from kmend.agent.exchange import Message
from kmend.core.wire import MAX_ANSWER_BYTES
from kmend.trust.transport import Reply

ANSWER_SECONDS = 30.0
IDLE_SECONDS = 3.0
"""A connection that has been idle for longer may just be being closed by the server."""
FAILURES = (OSError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, ValueError)
"""What a request may end with instead of an answer."""


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used: float


class Connections:
    """Connections to one server.

    Args:
        ca: file of the authority that its certificate is held against.
        kept: keep them for the next message; else each message has one of its own.
    """

    def __init__(self, url: str, ca: str, *, kept: bool) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "localhost"
        self._secure = parts.scheme == "https"
        self._port = parts.port or (443 if self._secure else 80)
        self._context = ssl.create_default_context(cafile=ca or None) if self._secure else None
        self._kept = kept
        self._idle: deque[_Connection] = deque()
        self.opened = 0

    async def post(self, message: Message, *, wait: float = 0.0, own: bool = False) -> Reply:
        """Send a message; raises one of `FAILURES` if no answer comes.

        Args:
            wait: seconds for which the server may hold the answer back, besides the usual.
            own: with a connection that nobody else uses afterwards.
        """
        keep = self._kept and not own
        async with asyncio.timeout(ANSWER_SECONDS + wait):
            connection = self._take() if keep else None
            if connection is None:
                connection = await self._open()
            try:
                reply, goes_on = await _talk(connection, self._request(message, keep=keep))
            except BaseException:
                connection.writer.close()
                raise
        if keep and goes_on:
            connection.used = time.monotonic()
            self._idle.append(connection)
        else:
            connection.writer.close()
        return reply

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().writer.close()

    def _take(self) -> _Connection | None:
        while self._idle:
            found = self._idle.pop()
            if not found.reader.at_eof() and time.monotonic() - found.used < IDLE_SECONDS:
                return found
            found.writer.close()
        return None

    async def _open(self) -> _Connection:
        name = self._host if self._secure else None
        made = await asyncio.open_connection(self._host, self._port, ssl=self._context, server_hostname=name)
        self.opened += 1
        return _Connection(*made, time.monotonic())

    def _request(self, message: Message, *, keep: bool) -> bytes:
        lines = [
            f"POST {message.path} HTTP/1.1",
            f"Host: {self._host}:{self._port}",
            "Content-Type: application/json",
            f"Content-Length: {len(message.body)}",
            *(f"{name}: {value}" for name, value in message.headers.items()),
            *([] if keep else ["Connection: close"]),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + message.body


async def _talk(connection: _Connection, request: bytes) -> tuple[Reply, bool]:
    connection.writer.write(request)
    head = (await connection.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(_header(line) for line in head[1:] if ":" in line)
    length = int(headers.get("content-length", "0"))
    if length > MAX_ANSWER_BYTES:
        raise ValueError("the answer is too large")
    body = await connection.reader.readexactly(length)
    asked = headers.get("retry-after", "")
    reply = Reply(int(head[0].split()[1]), body, float(asked) if asked.isdigit() else None)
    return reply, headers.get("connection", "").lower() != "close"


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()
