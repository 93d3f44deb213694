"""What is done by time: each duty in a thread of its own, those that one process does for all under a lease.

A duty that fails is done again at its next turn; nothing that it meets ends the thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kmend.core.errors import KmendError
from kmend.server.operations import leases, metrics
from kmend.server.store import Store

LEASE_SECONDS = 15
ASK_SECONDS = 3
"""How often a process that does not have a lease asks for it."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Duty:
    """Something to do again and again.

    Attributes:
        work: does it, at a time in seconds since 1970-01-01 UTC.
        every: seconds between two turns.
        shared: one process does it for all.
        cancel: ends a turn that is under way, if turns are long; the clockwork is stopping then.
    """

    name: str
    work: Callable[[int], object]
    every: float
    shared: bool = True
    cancel: Callable[[], object] | None = None


@dataclass(slots=True)
class _Held:
    """What this process knows of a lease: until when it may count on it, and when it asks again."""

    until: int = 0
    ask_at: int = 0


@dataclass(slots=True)
class Clockwork:
    """Runs the duties until it is stopped.

    Attributes:
        clock: seconds since 1970-01-01 UTC.
    """

    store: Store
    duties: Sequence[Duty]
    clock: Callable[[], int]
    holder: str = field(default_factory=leases.own_name)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _held: dict[str, _Held] = field(default_factory=dict)

    def start(self) -> None:
        """Begin."""
        for duty in self.duties:
            self._held[duty.name] = _Held()
            thread = threading.Thread(target=self._run, args=(duty,), name=f"duty-{duty.name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End after the turns under way, and let other processes have the leases at once."""
        self._stop.set()
        for duty in self.duties:
            if duty.cancel is not None:
                duty.cancel()
        for thread in self._threads:
            thread.join()
        mine = [duty.name for duty in self.duties if duty.shared and self._held[duty.name].until]
        try:
            for name in mine:
                self.store.transact(lambda connection, name=name: leases.give_back(connection, name, self.holder))  # type: ignore[misc]
        except KmendError as problem:
            _logger.info("leases run out by themselves: %s", problem.message)

    @property
    def alive(self) -> bool:
        """Whether every duty still has its thread."""
        return all(thread.is_alive() for thread in self._threads)

    def turn(self, duty: Duty, now: int) -> bool:
        """One turn of a duty, if this process is the one to do it; whether it was done."""
        try:
            if duty.shared and not self._has(duty.name, now):
                return False
            begun = time.monotonic()
            duty.work(now)
            metrics.duty_seconds.labels(duty=duty.name).observe(time.monotonic() - begun)
            metrics.duties.labels(duty=duty.name, outcome="good").inc()
        except KmendError as problem:
            metrics.duties.labels(duty=duty.name, outcome=problem.kind).inc()
            _logger.warning("%s", problem.message, extra={"duty": duty.name, "problem": problem.kind})
        except Exception:
            metrics.duties.labels(duty=duty.name, outcome="unexpected").inc()
            _logger.exception("a duty failed in a way that nobody foresaw", extra={"duty": duty.name})
        return True

    def _run(self, duty: Duty) -> None:
        while not self._stop.is_set():
            self.turn(duty, self.clock())
            self._stop.wait(duty.every)

    def _has(self, name: str, now: int) -> bool:
        held = self._held.setdefault(name, _Held())
        if now < held.ask_at <= now + LEASE_SECONDS:  # else the clock was set back
            return now < held.until
        has = self.store.transact(lambda connection: leases.take(connection, name, self.holder, now, LEASE_SECONDS))
        held.until = now + LEASE_SECONDS if has else 0
        held.ask_at = now + (LEASE_SECONDS // 2 if has else ASK_SECONDS)
        metrics.leader.labels(duty=name).set(int(has))
        return has
