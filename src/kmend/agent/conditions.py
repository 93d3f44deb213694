"""What is not as it should be on a host, each by a word and the exit code that stands for it; the worst comes first. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kmend.agent.choice import Obstacle

SUMMARIES = {
    0: "current",
    10: "update-available",
    30: "blocked",
    20: "pending",
    50: "reboot-needed",
    40: "not-supported",
    60: "error",
}
"""Exit code to the word that sums a host up, from good to bad; this order, not the number, says what is worse."""

CODES = {
    "never-checked": 60,
    "check-failed": 60,
    "stale": 60,
    "unconfirmed": 60,
    "not-supported": 40,
    "oopsed": 50,
    "transition-pending": 20,
    "stopped": 30,
    "recalled": 30,
    "quarantined": 30,
    "withheld": 30,
    "regression": 30,
    "update-available": 10,
    "return-refused": 0,
    "frozen": 0,
    "not-offered": 0,
}
"""Every condition there is, the worst first, and its exit code."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is not as it should be.

    Attributes:
        code: a key of `CODES`.
        message: for people.
    """

    code: str
    exit_code: int
    message: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What the conditions follow from.

    Attributes:
        check: `never-checked`, `check-failed`, `stale`, or empty if the last check is good and recent.
        check_message: for people.
        unconfirmed: the kernel shows something else than the manifest of what is loaded says.
        supported: whether the repository has levels for the kernel build; None if that is not known.
        moving: livepatch whose transition is under way, empty for none.
        stopped: what keeps kmend from loading anything, empty for nothing.
        obstacles: newer levels that are passed over.
        waiting: the level that an update would load, None for none.
        recalled: why the loaded level should no longer be loaded, empty if nothing says so.
        refused: a level that the server wants taken off, and that stays: it is not being tried, or policy forbids it; 0 for none.
        frozen: the server gives an older timestamp of the repository than this host has verified.
    """

    check: str
    check_message: str
    unconfirmed: bool
    supported: bool | None
    oopsed: bool
    moving: str
    stopped: str
    obstacles: tuple[Obstacle, ...]
    waiting: int | None
    recalled: str = ""
    refused: int = 0
    frozen: bool = False


def judge(seen: Seen) -> tuple[Condition, ...]:
    """Every condition, the worst first; none for a host that is current."""
    found: dict[str, str] = {}
    if seen.check:
        found[seen.check] = seen.check_message
    if seen.unconfirmed:
        found["unconfirmed"] = "the kernel does not show what the manifest of the loaded level says"
    if seen.supported is False:
        found["not-supported"] = "the repository has no level for this kernel build"
    if seen.oopsed:
        found["oopsed"] = "the kernel has reported an oops since it was started"
    if seen.moving:
        found["transition-pending"] = f"the transition of {seen.moving} is under way"
    if seen.stopped and seen.waiting is not None:
        found["stopped"] = f"nothing is loaded: {seen.stopped}"
    if seen.recalled:
        found["recalled"] = f"what is loaded: {seen.recalled}"
    for obstacle in seen.obstacles:
        code = (
            "recalled"
            if obstacle.recalled
            else "not-offered"
            if obstacle.by_server_alone
            else "withheld"
            if obstacle.rules
            else "quarantined"
            if obstacle.quarantined
            else "regression"
        )
        found.setdefault(code, f"level {obstacle.level}: {obstacle.reason}")
    if seen.refused:
        found["return-refused"] = f"the server wants level {seen.refused} taken off, which was refused"
    if seen.frozen:
        found["frozen"] = "the server gives an older timestamp of the repository than this host has verified"
    if seen.waiting is not None:
        found["update-available"] = f"level {seen.waiting} is available"
    return tuple(Condition(code, CODES[code], found[code]) for code in CODES if code in found)


def summary(conditions: tuple[Condition, ...]) -> tuple[int, str]:
    """The exit code and the word of the worst."""
    code = conditions[0].exit_code if conditions else 0
    return code, SUMMARIES[code]
