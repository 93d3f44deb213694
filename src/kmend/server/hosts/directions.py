"""How check-ins ask rollouts, within their own transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import Connection

from kmend.server.hosts.seen import Direction, Seen


class Directions(Protocol):
    """What check-ins need of rollouts; all within the transaction of the check-ins."""

    def lock(self, connection: Connection) -> object | None:
        """The rollouts that are going on, their rows locked; None if there is none. Called before any host is locked."""

    def observe(self, connection: Connection, live: object, seen: Sequence[Seen], now: int) -> None:
        """Take note of how granted hosts fare."""

    def directions(self, connection: Connection, live: object, seen: Sequence[Seen], now: int) -> dict[str, Direction]:
        """Host -> what it is told; hosts that are told nothing may be left out. Makes grants."""


class NoDirections:
    """There are no rollouts."""

    def lock(self, connection: Connection) -> object | None:
        """None."""
        return None

    def observe(self, connection: Connection, live: object, seen: Sequence[Seen], now: int) -> None:
        """Nothing."""

    def directions(self, connection: Connection, live: object, seen: Sequence[Seen], now: int) -> dict[str, Direction]:
        """Nobody is told anything."""
        return {}
