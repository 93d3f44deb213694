"""The host's end of a TCP connection into the guest: a message every 10 ms, and the time of every answer."""

from __future__ import annotations

import socket
import threading
import time
from itertools import pairwise

from demo.record import Exchange

PERIOD = 0.010
PATIENCE = 30.0


class Heartbeat:
    """Exchanges messages in a thread of its own until it is stopped."""

    def __init__(self, port: int, start: float) -> None:
        self._start = start
        self._stop = threading.Event()
        self._times: list[float] = []
        self._sent = 0
        self._error = ""
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        due = time.monotonic()
        try:
            while not self._stop.is_set():
                message = self._sent.to_bytes(8, "big")
                self._connection.sendall(message)
                self._sent += 1
                answer = b""
                while len(answer) < len(message):
                    part = self._connection.recv(len(message) - len(answer))
                    if not part:
                        raise ConnectionError("the guest closed the connection")
                    answer += part
                if answer != message:
                    raise ConnectionError("the guest answered with other bytes")
                self._times.append(time.monotonic() - self._start)
                due = max(due + PERIOD, time.monotonic())
                self._stop.wait(due - time.monotonic())
        except OSError as problem:
            self._error = str(problem)

    def stop(self) -> Exchange:
        """End the exchange and say how it went."""
        self._stop.set()
        self._thread.join(PATIENCE + 1)
        self._connection.close()
        return Exchange(self._sent, len(self._times), self._error, tuple(round(moment, 4) for moment in self._times))


def longest_gap(times: tuple[float, ...], start: float, end: float) -> float:
    """The longest time between two answers, in seconds, counting pairs of which either lies in `[start, end]`."""
    pairs = pairwise(times)
    return max((later - earlier for earlier, later in pairs if later >= start and earlier <= end), default=0.0)
