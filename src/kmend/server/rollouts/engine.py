"""What a rollout decides, of one host and of a stage. Pure: no database, no clock.

A host's way is a grant: `granted` (it may load), `loading`, `soaking` (in force), then `succeeded`, `failed` with a cause, or
`inconclusive` (neither: it may be granted again). Silence is a failure, and so is another boot without a shutdown in order: a
kernel that has panicked reports nothing.
"""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from kmend.server.hosts.seen import Seen
from kmend.server.rollouts.plan import Stage


class GrantState(str, enum.Enum):
    """Where a granted host is."""

    GRANTED = "granted"
    LOADING = "loading"
    SOAKING = "soaking"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


SOONEST_SECONDS = 30
"""A host that waits asks again after so long at the soonest."""
LIVE = (GrantState.GRANTED, GrantState.LOADING, GrantState.SOAKING)


class Cause(str, enum.Enum):
    """Why a grant ended otherwise than well."""

    QUARANTINED = "quarantined"
    REBOOTED = "rebooted"
    SILENT = "silent"
    STUCK = "stuck"
    RETURNED = "returned"
    WITHHELD = "withheld"
    RESTARTED = "restarted"
    SUPERSEDED = "superseded"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Grant:
    """A host's way in a rollout; times in seconds since 1970-01-01 UTC.

    Attributes:
        boot_id: of the boot on which it was granted.
        diversity: the host's value of the stage's diversity key.
    """

    host: str
    stage: int
    build_id: str
    level: int
    from_level: int
    state: GrantState
    granted_at: int
    state_since: int
    boot_id: str
    cause: str = ""
    message: str = ""
    diversity: str = ""

    @property
    def live(self) -> bool:
        """Whether it takes a slot."""
        return self.state in LIVE

    def became(self, state: GrantState, now: int, cause: Cause | None = None, message: str = "") -> Grant:
        """The grant in another state; itself if that is where it is."""
        if state is self.state:
            return self
        return replace(self, state=state, state_since=now, cause=cause.value if cause else "", message=message[:300])


@dataclass(frozen=True, slots=True)
class Tallies:
    """A stage's counts; `forgiven` failures do not count any more."""

    granted: int = 0
    in_flight: int = 0
    succeeded: int = 0
    failed: int = 0
    inconclusive: int = 0
    forgiven: int = 0

    @property
    def finished(self) -> int:
        """Hosts with an outcome that counts."""
        return self.succeeded + self.counted

    @property
    def counted(self) -> int:
        """Failures that count."""
        return max(0, self.failed - self.forgiven)

    def moved(self, before: Grant | None, after: Grant) -> Tallies:
        """The counts after a grant went from one state to another; `before` is None for a new one."""
        counts = {
            "granted": self.granted + (before is None),
            "in_flight": self.in_flight + after.live - (before is not None and before.live),
        }
        for name, state in (
            ("succeeded", GrantState.SUCCEEDED),
            ("failed", GrantState.FAILED),
            ("inconclusive", GrantState.INCONCLUSIVE),
        ):
            gone = before is not None and before.state is state
            counts[name] = getattr(self, name) + (after.state is state) - gone
        return replace(self, **counts)


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a host is not granted, and after how many seconds it may ask again; 0: whenever it is its turn."""

    reason: str
    seconds: int = 0


def position(rollout: str, host: str) -> float:
    """Where a host stands in a rollout, 0 to below 1: by both, so that it is not always the same ones who go first."""
    digest = hashlib.sha256(f"{rollout}\0{host}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def diversity_of(stage: Stage, seen: Seen) -> str:
    """The host's value of the stage's diversity key; empty where there is none."""
    if stage.diversity.startswith("tag:"):
        return seen.tags.get(stage.diversity[4:], "")
    return str(getattr(seen, stage.diversity)) if stage.diversity else ""


def obstacle(
    rollout: str,
    stage: Stage,
    level: int,
    seen: Seen,
    *,
    fixes_lost: frozenset[str],
    tallies: Tallies,
    alike: int,
    now: int,
    recalled: str = "",
    chosen: bool = False,
    pace: int = SOONEST_SECONDS,
) -> Wait | None:
    """Why a host of the stage's ring is not granted now; None if it is.

    Args:
        level: the rollout's for the host's kernel build.
        fixes_lost: fixes of what the host runs that the level lacks, without recalled ones.
        alike: hosts granted in this stage with the same diversity value.
        recalled: why nobody is given the level any more; empty if it is not recalled.
        chosen: whether the host counts as within the share, since no other does.
        pace: seconds after which a host that waits for others asks again.
    """
    if seen.level >= level:
        return Wait(f"it runs level {seen.level} already")
    if recalled:
        return Wait(recalled)
    if fixes_lost:
        return Wait(f"level {level} lacks {len(fixes_lost)} fixes of level {seen.level}, which it runs")
    if position(rollout, seen.host) >= stage.share and not chosen:
        return Wait(f"it is not among the first {stage.share:.0%} of the ring {stage.ring}")
    if level in seen.refuses:
        return Wait(f"it does not load level {level} by itself: its quarantine or its own policy")
    if seen.trying:
        return Wait(f"it is busy with level {seen.trying}", SOONEST_SECONDS)
    if not stage.open_at(now):
        known = "" if stage.zone_known else f": this server does not know the time zone {stage.timezone}"
        return Wait(f"no window of the stage is open{known}", 300)
    if tallies.in_flight >= stage.at_once:
        return Wait(f"{tallies.in_flight} hosts are at it, and {stage.at_once} may be at once", pace)
    if stage.diversity and tallies.granted < stage.sample and alike + 1 > most_alike(stage):
        return Wait(f"enough of the first hosts have the same {stage.diversity}", pace)
    return None


def pace(waiting: int, at_once: int) -> int:
    """After how many seconds a host that waits for others asks again: the longer, the more of them wait."""
    return max(SOONEST_SECONDS, SOONEST_SECONDS * waiting // (2 * at_once))


def most_alike(stage: Stage) -> int:
    """How many of the first `sample` hosts may be alike."""
    return max(1, math.ceil(stage.most_alike * stage.sample))


def progress(grant: Grant, stage: Stage, seen: Seen, now: int) -> Grant:
    """Where a granted host is, by its check-in."""
    if not grant.live:
        return grant
    if grant.boot_id != seen.boot_id:
        if not seen.reported:
            return grant  # its report says how the boot before ended; it has been asked for it
        if seen.clean_boot is True:
            return grant.became(GrantState.INCONCLUSIVE, now, Cause.RESTARTED, "it was restarted in order meanwhile")
        where = "with the level in force" if grant.state is GrantState.SOAKING else "around the load"
        return grant.became(
            GrantState.FAILED, now, Cause.REBOOTED, f"another boot without a shutdown in order, {where}"
        )
    for failure in seen.failures:
        if failure.level == grant.level:
            if failure.cause == Cause.RETURNED.value:
                return grant.became(GrantState.INCONCLUSIVE, now, Cause.RETURNED, "it went back, as it was asked to")
            return grant.became(GrantState.FAILED, now, Cause.QUARANTINED, f"{failure.cause}: {failure.message}")
    if seen.level == grant.level and seen.trying in (0, grant.level):
        soaking = grant.became(GrantState.SOAKING, now)
        steady = seen.trying == 0 and seen.phase != "soaking"
        if steady and grant.state is GrantState.SOAKING and now - grant.state_since >= stage.soak_seconds:
            return grant.became(GrantState.SUCCEEDED, now)
        if steady and stage.soak_seconds == 0:
            return soaking.became(GrantState.SUCCEEDED, now)
        return soaking
    if seen.level > grant.level or (seen.level == grant.level and seen.trying > grant.level):
        newest = max(seen.level, seen.trying)
        return grant.became(GrantState.INCONCLUSIVE, now, Cause.SUPERSEDED, f"it runs or tries level {newest} by now")
    if seen.trying == grant.level:
        return grant if grant.state is GrantState.SOAKING else grant.became(GrantState.LOADING, now)
    if grant.state is GrantState.SOAKING:
        return grant.became(
            GrantState.FAILED, now, Cause.QUARANTINED, f"level {grant.level} is not in force there any more"
        )
    own = [item for item in seen.withheld if item.level == grant.level and set(item.rules) - {"server"}]
    if own and grant.state is GrantState.GRANTED:
        return grant.became(GrantState.INCONCLUSIVE, now, Cause.WITHHELD, f"its own policy: {', '.join(own[0].rules)}")
    return grant


def withdrawn(grant: Grant, seen: Seen, now: int) -> Grant:
    """The grant of a rollout that does not go on, ended if its host has not begun and has been told since."""
    if grant.state is not GrantState.GRANTED or seen.trying or seen.level >= grant.level or grant.state_since >= now:
        return grant
    return grant.became(GrantState.INCONCLUSIVE, now, Cause.RETURNED, "withdrawn before it loaded")


def overdue(grant: Grant, stage: Stage, last_seen: int, now: int, *, awake_since: int = 0) -> Grant:
    """The grant, failed if its host has been silent, or has not come to an end, for too long."""
    if not grant.live:
        return grant
    quiet = now - max(last_seen, grant.granted_at, awake_since)
    if quiet > stage.silence_seconds:
        return grant.became(
            GrantState.FAILED, now, Cause.SILENT, f"no check-in for {quiet} s, while {grant.state.value}"
        )
    heard = last_seen >= awake_since
    if heard and grant.state is not GrantState.SOAKING and now - grant.granted_at > stage.patience_seconds:
        return grant.became(
            GrantState.FAILED, now, Cause.STUCK, f"not in force {now - grant.granted_at} s after its grant"
        )
    return grant


STALLED = "nobody can be granted"


class Judgement(enum.Enum):
    """What becomes of a stage; one that has stalled is open, and waits for hosts that are away or refuse the level."""

    OPEN = "open"
    STALLED = "stalled"
    PASSED = "passed"
    SKIPPED = "skipped"
    HALT = "halt"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of a stage, and why."""

    judgement: Judgement
    reason: str = ""


def judge(stage: Stage, tallies: Tallies, remaining: int, opened_at: int, now: int, *, absent: int = 0) -> Verdict:
    """What becomes of an open stage.

    Args:
        remaining: hosts of the stage that could be granted but are not yet.
        absent: hosts of the stage that lack the level and cannot be granted now: away, or refusing it.
    """
    excess = excessive(stage, tallies)
    if excess:
        return Verdict(Judgement.HALT, excess)
    total = tallies.finished + tallies.in_flight + remaining
    if total == 0:
        if tallies.granted:
            return Verdict(Judgement.HALT, "the stage ended without any host that succeeded")
        if not absent:
            return Verdict(Judgement.SKIPPED, f"the ring {stage.ring} has no host for it")
        if stage.deadline_seconds and now - opened_at > stage.deadline_seconds:
            return Verdict(Judgement.HALT, f"{absent} hosts are away or refuse it, and nobody tried it")
        return Verdict(Judgement.STALLED, f"{STALLED}: {absent} hosts of the ring {stage.ring} are away or refuse it")
    enough = tallies.finished >= min(stage.sample, total)
    if enough and tallies.succeeded >= math.ceil(stage.success * total - 1e-9):
        return Verdict(Judgement.PASSED, f"{tallies.succeeded} of {total} hosts succeeded")
    if remaining == 0 and tallies.in_flight == 0:
        return Verdict(
            Judgement.HALT,
            f"the stage ended with {tallies.succeeded} of {total} hosts, below the {stage.success:.0%} that it needs",
        )
    if stage.deadline_seconds and now - opened_at > stage.deadline_seconds:
        return Verdict(Judgement.HALT, f"the stage did not pass within {stage.deadline_seconds} s")
    return Verdict(Judgement.OPEN)


def excessive(stage: Stage, tallies: Tallies) -> str:
    """Why the failures of a stage, open or past, halt the rollout; empty if they do not."""
    tolerated = stage.tolerated(tallies.finished)
    if tallies.counted <= tolerated:
        return ""
    return f"{tallies.counted} of {tallies.finished} finished hosts failed in the ring {stage.ring}; {tolerated} may"


def fixes_lost(
    fixes: Mapping[int, frozenset[str]], loaded: int, level: int, recalled: frozenset[str]
) -> frozenset[str]:
    """Fixes of the loaded level that another lacks, without recalled ones; of levels that are not known, none."""
    if loaded not in fixes or level not in fixes:
        return frozenset()
    return fixes[loaded] - fixes[level] - recalled
