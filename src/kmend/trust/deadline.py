"""A limit for a whole exchange, kept by the sockets themselves.

A time-out of a socket starts anew with every byte, so whoever sends one byte in time now and then could hold a host for ever, in
the headers already. Here every read of a connection is given no more time than the exchange has left. One that delivers at the
agreed rate earns more.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Deadline:
    """When the exchange that is going on has to be over; one exchange at a time.

    Args:
        rate: bytes that give a second more.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._end = 0.0

    def start(self, seconds: float) -> None:
        """Begin an exchange that may take so long."""
        self._end = time.monotonic() + seconds

    def earn(self, received: int) -> None:
        """Give more time for bytes that came."""
        self._end += received / self._rate

    @property
    def remaining(self) -> float:
        """Seconds left; zero or less when it is over."""
        return self._end - time.monotonic()

    @contextmanager
    def on(self, sock: socket.socket) -> Iterator[None]:
        """Let one operation of a socket take what is left at most.

        Raises:
            TimeoutError: nothing is left.
        """
        usual, remaining = sock.gettimeout(), self.remaining
        if remaining <= 0:
            raise TimeoutError("the time for the whole exchange is over")
        sock.settimeout(remaining if usual is None else min(usual, remaining))
        try:
            yield
        finally:
            sock.settimeout(usual)


def bound(manager: urllib3.PoolManager, deadline: Deadline) -> None:
    """Make all connections of a pool manager obey `deadline`."""

    class Plain(socket.socket):
        def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
            with deadline.on(self):
                return super().recv_into(buffer, nbytes, flags)

    def made(sock: socket.socket) -> socket.socket:
        usual = sock.gettimeout()
        plain = Plain(sock.family, sock.type, sock.proto, fileno=sock.detach())
        plain.settimeout(usual)
        return plain

    class Http(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return made(super()._new_conn())

    class Https(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return made(super()._new_conn())

    class HttpPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Http

    class HttpsPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Https

    manager.pool_classes_by_scheme = {"http": HttpPool, "https": HttpsPool}


def bound_tls(context: ssl.SSLContext, deadline: Deadline) -> None:
    """Make all TLS connections of a context obey `deadline`; their handshake has a limit of its own."""

    class Tls(ssl.SSLSocket):
        def recv_into(self, buffer: Buffer, nbytes: int | None = None, flags: int = 0) -> int:
            with deadline.on(self):
                return super().recv_into(buffer, nbytes, flags)

        def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
            with deadline.on(self):
                return super().recv(buflen, flags)

    context.sslsocket_class = Tls
