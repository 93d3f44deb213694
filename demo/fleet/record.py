"""What the demonstration keeps: what the real hosts' kernels showed, what the server said, and when; no conclusions."""

from __future__ import annotations

from dataclasses import dataclass

from demo.record import LevelRecord


@dataclass(frozen=True, slots=True)
class GuestView:
    """A real host at one moment, as its own kernel shows it.

    Attributes:
        livepatches: module -> `enabled,transition` as sysfs has them.
        hole: what an unprivileged program gets from the hole that level 1 closes: `answered` or an errno's name.
    """

    name: str
    ring: str
    boot_id: str
    livepatches: dict[str, str]
    hole: str


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment of the story.

    Attributes:
        seconds: since the demonstration began.
        levels: ring -> level in force (as text) -> hosts that report it.
        rollouts: name -> state, with the override in brackets.
    """

    name: str
    seconds: float
    guests: tuple[GuestView, ...]
    levels: dict[str, dict[str, int]]
    rollouts: dict[str, str]


@dataclass(frozen=True, slots=True)
class GrantView:
    """One host's way in a rollout, as the server has it; times in seconds since 1970-01-01 UTC."""

    rollout: str
    host: str
    stage: int
    state: str
    cause: str
    granted_at: int
    state_since: int


@dataclass(frozen=True, slots=True)
class RolloutView:
    """A rollout at the end.

    Attributes:
        rings: of its stages, in order.
        at_once: how many hosts each stage may have in flight.
        passed_at: when each stage ended; 0 if it has not.
        reason: what the server says of its last change.
    """

    name: str
    level: int
    state: str
    override: str
    reason: str
    rings: tuple[str, ...]
    at_once: tuple[int, ...]
    passed_at: tuple[int, ...]
    grants: tuple[GrantView, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """The whole demonstration.

    Attributes:
        fleet: ring -> hosts, real ones included.
        real: name -> host ID of the real hosts.
        times: name of a moment between moments -> seconds since the demonstration began.
        log: host name -> its kernel's log at the end, the panicked one's serial console included.
        audit: the server's audit log as exported, NDJSON.
        audit_verified: what `kmend-server audit verify` ended with.
        notices: what the webhook received.
    """

    kernel: str
    build_id: str
    fleet: dict[str, int]
    real: dict[str, str]
    levels: tuple[LevelRecord, ...] = ()
    moments: tuple[Moment, ...] = ()
    times: dict[str, float] | None = None
    rollouts: tuple[RolloutView, ...] = ()
    log: dict[str, str] | None = None
    audit: str = ""
    audit_verified: int = -1
    notices: tuple[str, ...] = ()
    format: str = "kmend-demo-fleet/1"
