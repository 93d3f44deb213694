"""Bytes on the wire: a relay between a program and a server that counts what goes each way."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Relay:
    """Listens on a port of the loopback and passes everything on to another.

    Attributes:
        sent, received: bytes from the program, and to it.
        connections: how many it has opened.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sent = self.received = self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Count from here on."""
        self.sent = self.received = self.connections = 0

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self._target), 10)
            threading.Thread(target=self._pass, args=(client, server, "sent"), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, "received"), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        try:
            while piece := source.recv(65536):
                setattr(self, direction, getattr(self, direction) + len(piece))
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            target.close()


@contextmanager
def counted(target: int) -> Iterator[Relay]:
    """A relay to a port of the loopback; it closes with the block."""
    relay = Relay(target)
    try:
        yield relay
    finally:
        relay.close()
