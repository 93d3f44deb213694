"""How simulated hosts fare with a level; which one does how follows from the seed, the host's name and the level."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field


class Behaviour(str, enum.Enum):
    """What becomes of a host that loads a level."""

    GOOD = "good"
    OOPSES = "oopses"
    """The kernel oopses while it soaks: quarantine; the level stays loaded."""
    REVERTS = "reverts"
    """The kernel complains while it soaks, and the host takes the level off: quarantine."""
    PANICS = "panics"
    """Silent while it soaks; it comes up again without a shutdown in order."""
    DIES = "dies"
    """The same, and it never comes up again."""
    STICKS = "sticks"
    """The transition does not end."""
    SLOW = "slow"
    """Good, but the transition takes ten times as long."""
    RESTARTS = "restarts"
    """An administrator restarts it, in order, while it soaks."""
    WITHHOLDS = "withholds"
    """Its own policy holds the level back."""


@dataclass(frozen=True, slots=True)
class Script:
    """Which share of the hosts does what.

    Attributes:
        levels: level -> behaviour -> share; whoever is left over does well, and every level that is not named, too.
        refuse_return: share of the hosts whose policy does not let the server send them back.
    """

    levels: Mapping[int, Mapping[Behaviour, float]] = field(default_factory=dict)
    refuse_return: float = 0.0
    seed: int = 0

    def of(self, name: str, level: int) -> Behaviour:
        """What this host does with this level."""
        drawn = self.draw(f"{name} {level}")
        for behaviour, share in self.levels.get(level, {}).items():
            if drawn < share:
                return behaviour
            drawn -= share
        return Behaviour.GOOD

    def accepts_return(self, name: str) -> bool:
        """Whether this host's policy lets the server send it back."""
        return self.draw(f"{name} return") >= self.refuse_return

    def draw(self, what: str) -> float:
        """A number in [0, 1) that is always the same for the same question."""
        digest = hashlib.sha256(f"{self.seed} {what}".encode()).digest()
        return int.from_bytes(digest[:7], "big") / 2**56


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds.

    Attributes:
        transition: from the load until every task is switched.
        soak: how long a level is tried.
        trouble: after how long a soak goes wrong where the script says so.
        restart: from a panic until the host is up again.
    """

    transition: float = 2.0
    soak: float = 20.0
    trouble: float = 4.0
    restart: float = 20.0
