"""What this host does not load by itself any more, and why. A person may, by naming the level."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kmend.agent import failpoint, statefile
from kmend.core.document import encode
from kmend.core.manifest import Manifest


class Cause(str, enum.Enum):
    """Why a level came into quarantine."""

    CRASHED = "crashed"
    OOPSED = "oopsed"
    UNCONFIRMED = "unconfirmed"
    ROLLED_BACK = "rolled-back"
    UNLOADED = "unloaded"
    COMPLAINED = "complained"
    STUCK = "stuck"
    RETURNED = "returned"


_BY_PERSONS = frozenset({Cause.ROLLED_BACK, Cause.UNLOADED})
MAX_ENTRIES = 500
MAX_ENTRIES_BYTES = statefile.MAX_STATE_BYTES // 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One level in quarantine.

    Attributes:
        fixes: the fixes under suspicion; a later level that holds one of them stays blocked until it says that it `clears` it.
        message: for people.
        intent: the intent that led to it; with the module it tells a repeated entry from a new one.
    """

    build_id: str
    level: int
    module: str
    fixes: tuple[str, ...]
    cause: Cause
    message: str
    at: int
    boot_id: str
    intent: str


@dataclass(frozen=True, slots=True)
class Entries:
    """The document on disk."""

    entries: tuple[Entry, ...] = ()
    format: str = "kmend-quarantine/1"


def blocking(entries: Iterable[Entry], manifest: Manifest) -> tuple[Entry, ...]:
    """The entries that keep `manifest` from being loaded: they name its level, or a fix in it that it does not clear."""
    suspected = manifest.fix_digests - set(manifest.clears)
    return tuple(
        entry
        for entry in entries
        if entry.build_id == manifest.kernel.build_id
        and (entry.module == manifest.module.name or suspected.intersection(entry.fixes))
    )


def bounded(entries: tuple[Entry, ...], build_id: str) -> tuple[Entry, ...]:
    """As many entries as a state file can hold; the newest always stays. Pure.

    What goes first: entries of kernel builds other than `build_id`, which cannot be loaded here; then what a person has put
    there; then the rest. The oldest of each first.
    """
    newest = entries[-1:]
    wanted = sorted(
        enumerate(entries[:-1]),
        key=lambda item: (item[1].build_id == build_id, item[1].cause not in _BY_PERSONS, item[0]),
        reverse=True,
    )
    room = MAX_ENTRIES_BYTES - sum(len(encode(entry)) for entry in newest)
    chosen: set[int] = set()
    for number, entry in wanted[: MAX_ENTRIES - 1]:
        room -= len(encode(entry)) + 1
        if room < 0:
            break
        chosen.add(number)
    return (*(entry for number, entry in enumerate(entries[:-1]) if number in chosen), *newest)


class Quarantine:
    """The durable list.

    Args:
        path: `quarantine.json`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> tuple[Entry, ...]:
        """All entries, oldest first."""
        document = statefile.load(self._path, Entries)
        return document.entries if document is not None else ()

    def add(self, entry: Entry) -> None:
        """Add an entry; one of the same module and cause is replaced."""
        kept = [old for old in self.entries() if (old.module, old.cause) != (entry.module, entry.cause)]
        self._save(bounded((*kept, entry), entry.build_id))

    def clear(self, module: str | None = None) -> tuple[Entry, ...]:
        """Remove the entries of one module, or all; returns what was removed."""
        removed = tuple(entry for entry in self.entries() if module in (None, entry.module))
        if removed:
            failpoint.reach("clear.before")
            self._save(tuple(entry for entry in self.entries() if entry not in removed))
            failpoint.reach("clear.after")
        return removed

    def remove_by_intent(self, intent: str) -> None:
        """Take back what an intent that came to nothing had added."""
        kept = tuple(entry for entry in self.entries() if entry.intent != intent)
        if len(kept) != len(self.entries()):
            self._save(kept)

    def _save(self, entries: tuple[Entry, ...]) -> None:
        statefile.save(self._path, Entries(entries))
