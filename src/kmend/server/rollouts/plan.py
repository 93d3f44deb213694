"""Plans: the stages of a rollout, and their bounds. Pure."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass

from kmend.core import windows
from kmend.core.document import decode, encode
from kmend.core.errors import MalformedError
from kmend.server.rollouts.errors import PlanError

MAX_STAGES = 20
MAX_SECONDS = 30 * 86_400
_RING = re.compile(r"[a-z][a-z0-9-]{0,39}")
_DIVERSITY = re.compile(r"hardware|role|distro|tag:[a-z][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: a ring, or a share of one.

    Attributes:
        ring: whose hosts.
        share: of them, 0 to 1; which ones follows from rollout and host (`engine.position`).
        at_once: hosts that may be between grant and outcome.
        soak_seconds: how long a host must run the level, steady, before it counts as a success.
        success: least share of the stage's hosts that must have succeeded for the stage to pass.
        failures: share of the finished hosts that may have failed; more halts the rollout.
        most_failures: so many may fail whatever the share.
        sample: least number of hosts that must have finished for the stage to pass, if it has that many.
        silence_seconds: a host that does not check in for so long after its grant has failed.
        patience_seconds: so long a host may take from its grant until the level is in force.
        diversity: `hardware`, `role`, `distro` or `tag:<name>`: of the first `sample` hosts, at most the share `most_alike` have
            the same; empty for none.
        windows: when hosts are granted (`Mon-Fri 09:00-17:00`); none for always. timezone: theirs.
        approval: a person must approve before the stage opens.
        deadline_seconds: a stage that is open for longer halts; 0 for none.
    """

    ring: str
    share: float = 1.0
    at_once: int = 50
    soak_seconds: int = 900
    success: float = 0.95
    failures: float = 0.01
    most_failures: int = 0
    sample: int = 5
    silence_seconds: int = 600
    patience_seconds: int = 7200
    diversity: str = ""
    most_alike: float = 0.5
    windows: tuple[str, ...] = ()
    timezone: str = "UTC"
    approval: bool = False
    deadline_seconds: int = 0

    def __post_init__(self) -> None:
        if not _RING.fullmatch(self.ring):
            raise MalformedError(f"{self.ring[:60]!r} is not a ring's name")
        for name, value, least, most in (
            ("share", self.share, 0.0001, 1.0),
            ("success", self.success, 0.0, 1.0),
            ("failures", self.failures, 0.0, 1.0),
            ("most_alike", self.most_alike, 0.01, 1.0),
            ("at_once", self.at_once, 1, 1_000_000),
            ("sample", self.sample, 1, 1_000_000),
            ("most_failures", self.most_failures, 0, 1_000_000),
            ("soak_seconds", self.soak_seconds, 0, MAX_SECONDS),
            ("silence_seconds", self.silence_seconds, 10, MAX_SECONDS),
            ("patience_seconds", self.patience_seconds, 10, MAX_SECONDS),
            ("deadline_seconds", self.deadline_seconds, 0, MAX_SECONDS),
        ):
            if not (math.isfinite(value) and least <= value <= most):
                raise MalformedError(f"{name} must be {least:g} to {most:g}, not {value:g}")
        if self.diversity and not _DIVERSITY.fullmatch(self.diversity):
            raise MalformedError(
                f"diversity is {self.diversity[:60]!r}; hardware, role, distro or tag:<name> can be told apart"
            )
        if len(self.windows) > windows.MAX_WINDOWS:
            raise MalformedError(f"{len(self.windows)} windows; {windows.MAX_WINDOWS} are accepted")
        for text in self.windows:
            windows.parse_window(text)

    @property
    def zone_known(self) -> bool:
        """Whether this host knows the time zone; it may have been another one that checked the plan."""
        try:
            windows.check_zone(self.timezone)
        except MalformedError:
            return False
        return True

    def open_at(self, now: int) -> bool:
        """Whether hosts may be granted now; never, where the time zone of its windows is not known."""
        if not self.windows:
            return True
        if not self.zone_known:
            return False
        return windows.is_open([windows.parse_window(text) for text in self.windows], self.timezone, now)

    def tolerated(self, finished: int) -> int:
        """How many of so many finished hosts may have failed."""
        return max(self.most_failures, int(self.failures * max(finished, self.sample)))


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages, in order."""

    stages: tuple[Stage, ...]
    format: str = "kmend-plan/1"

    def __post_init__(self) -> None:
        if not 1 <= len(self.stages) <= MAX_STAGES:
            raise MalformedError(f"a plan has 1 to {MAX_STAGES} stages")
        shares: dict[str, float] = {}
        for number, stage in enumerate(self.stages, start=1):
            if stage.share <= shares.get(stage.ring, 0.0):
                raise MalformedError(f"stage {number}: a later stage of the ring {stage.ring} must have a larger share")
            shares[stage.ring] = stage.share

    @property
    def rings(self) -> tuple[str, ...]:
        """The rings, in the order in which they are reached."""
        return tuple(dict.fromkeys(stage.ring for stage in self.stages))

    def hurried(self) -> Plan:
        """The emergency lane: no soak and no windows, no approval between stages; thresholds and caps stay."""
        return Plan(
            tuple(dataclasses.replace(stage, soak_seconds=0, windows=(), approval=False) for stage in self.stages)
        )


def check_zones(plan: Plan) -> Plan:
    """`plan`, if this host knows its time zones.

    Raises:
        PlanError: it does not.
    """
    for number, stage in enumerate(plan.stages, start=1):
        try:
            windows.check_zone(stage.timezone)
        except MalformedError as problem:
            raise PlanError(f"the plan cannot be used: stage {number}: {problem.message}") from None
    return plan


def read(text: str | bytes) -> Plan:
    """A plan from its JSON, to be made use of.

    Raises:
        PlanError: it is none; the message names the member.
    """
    return check_zones(read_kept(text))


def read_kept(text: str | bytes) -> Plan:
    """A plan that was checked before: its time zones may have become unknown since; their windows are closed then.

    Raises:
        PlanError: it is none.
    """
    try:
        return decode(Plan, text.encode() if isinstance(text, str) else text, max_bytes=64 * 1024)
    except MalformedError as problem:
        raise PlanError(f"the plan cannot be used: {problem.message}") from None


def write(plan: Plan) -> str:
    """Its canonical JSON."""
    return encode(plan).decode()
