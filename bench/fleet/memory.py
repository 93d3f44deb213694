"""The agent's journal and quarantine in memory: the same states, changes and assertions, without a disk."""

from __future__ import annotations

from collections.abc import Callable

from kmend.agent.clock import Clock
from kmend.agent.journal import Intent, Journal
from kmend.agent.quarantine import Entries, Entry, Quarantine
from kmend.agent.states import State


class MemoryClock(Clock):
    """A host's time: that of the fleet, and since its own last start."""

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self.started = time()

    def now(self) -> int:
        """Seconds since 1970-01-01 UTC."""
        return int(self._time())

    def uptime(self) -> float:
        """Seconds since the host's start."""
        return self._time() - self.started


class MemoryQuarantine(Quarantine):
    """The list, in memory."""

    def __init__(self) -> None:
        self._entries = Entries()

    def entries(self) -> tuple[Entry, ...]:
        """All entries, oldest first."""
        return self._entries.entries

    def _save(self, entries: tuple[Entry, ...]) -> None:
        self._entries = Entries(entries)


class MemoryJournal(Journal):
    """The one open intent, in memory.

    Args:
        intent: what was open when the host went down.
    """

    def __init__(self, quarantine: Quarantine, clock: Clock, boot_id: str, intent: Intent | None = None) -> None:
        self._quarantine = quarantine
        self._clock = clock
        self._boot_id = boot_id
        self.intent = intent
        self._step: State | None = None
        self._rest = State.IDLE

    def _store(self, event: str, intent: Intent, message: str, *, recovered: bool = False) -> None:
        self.intent = intent
        self._step = None

    def _close(self, event: str, message: str, *, recovered: bool = False, rest: State = State.IDLE) -> None:
        self.intent = None
        self._rest = rest

    def _record(self, event: str, message: str, *, recovered: bool) -> None:
        pass
