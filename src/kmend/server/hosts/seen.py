"""What a check-in says, for rollouts, and what rollouts answer. Plain values; how they are passed is `directions`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kmend.core.wire import Failure, WithheldLevel


@dataclass(frozen=True, slots=True)
class Seen:
    """One host, as it has just checked in.

    Attributes:
        level: in force; 0 for none.
        trying: the level of its open intent; 0 for none.
        phase: where its agent stands (`kmend.agent.states.State`).
        rebooted: this is another boot than that of its check-in before.
        clean_boot: whether the boot before ended in order; None if that is not known.
        failures: its quarantine.
        withheld: levels that its own policy keeps from it. Both are only known when it has reported.
        refuses: levels that it does not load by itself for one of these reasons, by its last report.
        reported: this check-in brought a new state report.
        tags: name -> value.
        stale: the host stands otherwise than its last report says, and has not sent the new one yet.
    """

    host: str
    ring: str
    build_id: str
    level: int
    trying: int
    phase: str
    boot_id: str
    rebooted: bool = False
    clean_boot: bool | None = None
    failures: tuple[Failure, ...] = ()
    withheld: tuple[WithheldLevel, ...] = ()
    refuses: tuple[int, ...] = ()
    accepts_return: bool = False
    reported: bool = False
    stale: bool = False
    hardware: str = ""
    role: str = ""
    distro: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Direction:
    """What rollouts have to say to one host.

    Attributes:
        level: the level that it was granted; 0 for none.
        back: a level that it should take off again while it is being tried; 0 for none.
        reason: for people.
        within: it should check in again within so many seconds; 0: whenever it is its turn.
    """

    level: int = 0
    back: int = 0
    reason: str = ""
    within: int = 0
