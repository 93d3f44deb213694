"""Group commit: check-ins that come within a moment are judged in one transaction, and answered when it is on disk."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from sqlalchemy import Connection

from kmend.core.wire import Answer
from kmend.server.hosts import refusals
from kmend.server.hosts.checkin import Circumstances, Received, check_in
from kmend.server.hosts.directions import Directions
from kmend.server.hosts.refusals import Refused
from kmend.server.store import Store, StoreError

MAX_BATCH = 256
MAX_WAITING = 4096
GATHER_SECONDS = 0.02
_logger = logging.getLogger(__name__)
Answered = Answer | Refused


class Batcher:
    """Takes check-ins from many threads or an event loop, and answers each by its future.

    Args:
        circumstances: asked for anew for every batch, in its transaction.
        gather: how long the first of a batch waits for others, in seconds.
        most: so many wait at most; others are told to come back later.
    """

    def __init__(
        self,
        store: Store,
        directions: Directions,
        circumstances: Callable[[Connection], Circumstances],
        *,
        gather: float = GATHER_SECONDS,
        most: int = MAX_WAITING,
    ) -> None:
        self._store = store
        self._directions = directions
        self._circumstances = circumstances
        self._gather = gather
        self._waiting: queue.Queue[tuple[Received, Future[Answered]] | None] = queue.Queue(most)
        self._closed = False
        self._ending = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="check-ins", daemon=True)
        self._thread.start()

    def submit(self, received: Received) -> Future[Answered]:
        """Have a check-in judged; where too many wait already, the answer is `refusals.BUSY` at once."""
        future: Future[Answered] = Future()
        with self._ending:  # nothing gets in behind the end
            try:
                if self._closed:
                    raise queue.Full
                self._waiting.put_nowait((received, future))
            except queue.Full:
                future.set_result(refusals.BUSY)
        return future

    @property
    def waiting(self) -> int:
        """How many have not been taken up yet."""
        return self._waiting.qsize()

    def close(self) -> None:
        """Judge what has been submitted, and end."""
        with self._ending:
            self._closed = True
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        going = True
        while going:
            batch: list[tuple[Received, Future[Answered]]] = []
            end = 0.0
            while len(batch) < MAX_BATCH:
                try:
                    item = self._waiting.get(timeout=max(0.0, end - time.monotonic()) if batch else None)
                except queue.Empty:
                    break
                if item is None:
                    going = False
                    break
                if not batch:
                    end = time.monotonic() + self._gather
                batch.append(item)
            if batch:
                self._answer(batch)

    def _answer(self, batch: list[tuple[Received, Future[Answered]]]) -> None:
        try:
            answers = self._judge([received for received, _ in batch])
        except StoreError as problem:
            _logger.error("check-ins cannot be recorded: %s", problem.message)
            answers = [refusals.BUSY] * len(batch)
        except Exception:
            # One of them brought it about; the others must not suffer for it.
            _logger.exception("a batch of %d check-ins failed", len(batch))
            answers = [self._alone(received) for received, _ in batch] if len(batch) > 1 else [refusals.BUSY]
        for (_, future), answer in zip(batch, answers, strict=True):
            # Whoever asked may have gone meanwhile; from here on the future cannot be cancelled any more.
            if future.set_running_or_notify_cancel():
                future.set_result(answer)

    def _alone(self, received: Received) -> Answered:
        try:
            return self._judge([received])[0]
        except Exception:
            _logger.exception("a check-in of %s failed", received.message.host)
            return refusals.BUSY

    def _judge(self, batch: Sequence[Received]) -> Sequence[Answered]:
        return self._store.transact(
            lambda connection: check_in(connection, batch, self._circumstances(connection), self._directions)
        )
