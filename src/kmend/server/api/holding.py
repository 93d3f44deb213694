"""Hosts that wait for news: held requests, which carry no data and are let go when something concerns the host's ring.

What a host has seen is two numbers: the generation of what concerns everybody, and that of its ring. A thread reads both from the
database twice a second; hosts of a ring wait for one and the same future, so that a waiting host costs little more than its
connection.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping

from kmend.core.errors import KmendError
from kmend.server.operations import metrics
from kmend.server.store import Store, news

POLL_SECONDS = 0.5
TOLD_AT_ONCE = 500
"""So many hosts of a ring are to check in in a second after they were told."""
MAX_SPREAD = 120
_logger = logging.getLogger(__name__)


class Hold:
    """Holds requests of hosts; all but `close` and the reading belongs to one event loop.

    Args:
        most: so many wait at most; others are answered at once.
    """

    def __init__(self, store: Store, *, most: int) -> None:
        self._store = store
        self._most = most
        self._generations: Mapping[str, int] = self._read()
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._counts: dict[str, int] = {}
        self._places: dict[str, asyncio.Future[None]] = {}
        """Host -> what lets go of it; a host has one place."""
        self._open = True
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """From the event loop: begin to read generations."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._poll, name="news", daemon=True)
        self._thread.start()

    def seen(self, ring: str) -> str:
        """What a host of that ring has seen when it has seen everything."""
        found = self._generations
        return f"{found.get(news.ALL, 0)}.{found.get(news.ring_key(ring), 0)}"

    def spread(self, ring: str) -> int:
        """Seconds within which hosts of that ring are to check in, so that they do not come all at once."""
        return min(MAX_SPREAD, self._counts.get(ring, 0) // TOLD_AT_ONCE)

    @property
    def full(self) -> bool:
        """Whether nobody else can wait."""
        return not self._open or len(self._places) >= self._most

    def has_place(self, host: str) -> bool:
        """Whether that host can wait; one that waits already gives up its place for that."""
        return self._open and (len(self._places) < self._most or host in self._places)

    async def wait(self, ring: str, host: str, seen: str, seconds: float, gone: asyncio.Future[None]) -> None:
        """Until there is something that a host which has seen `seen` has not seen, for so long at most, or until it is gone.

        Args:
            gone: done when the host has closed its connection.
        """
        if seen != self.seen(ring) or not self.has_place(host):
            return
        if (before := self._places.get(host)) is not None and not before.done():
            before.set_result(None)
        own = self._places[host] = asyncio.get_running_loop().create_future()
        future = self._waiting.get(ring)
        if future is None or future.done():
            future = self._waiting[ring] = asyncio.get_running_loop().create_future()
            self._counts[ring] = 0
        self._counts[ring] += 1
        metrics.held.set(len(self._places))
        try:
            await asyncio.wait({future, own, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._places.get(host) is own:
                del self._places[host]
            if self._waiting.get(ring) is future and not future.done():
                self._counts[ring] -= 1
            metrics.held.set(len(self._places))

    def release(self) -> None:
        """Let everybody go, for good."""
        self._open = False
        self._tell(list(self._waiting))

    def close(self) -> None:
        """End the reading."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def changed(self, generations: Mapping[str, int]) -> None:
        """From the event loop: these are the generations now."""
        before, self._generations = self._generations, generations
        if generations.get(news.ALL, 0) != before.get(news.ALL, 0):
            self._tell(list(self._waiting))
            return
        self._tell([
            ring for ring in self._waiting
            if generations.get(news.ring_key(ring), 0) != before.get(news.ring_key(ring), 0)
        ])  # fmt: skip

    def _tell(self, rings: list[str]) -> None:
        for ring in rings:
            future = self._waiting.pop(ring)
            if not future.done():
                future.set_result(None)

    def _read(self) -> Mapping[str, int]:
        with self._store.read() as connection:
            return news.generations(connection)

    def _poll(self) -> None:
        known = dict(self._generations)
        while not self._stop.wait(POLL_SECONDS):
            try:
                found = dict(self._read())
            except KmendError as problem:
                _logger.warning("news cannot be read: %s", problem.message)
                continue
            except Exception:  # whatever it is, the next reading must come
                _logger.exception("news cannot be read")
                continue
            if found != known and self._loop is not None and not self._loop.is_closed():
                known = found
                self._loop.call_soon_threadsafe(self.changed, found)
