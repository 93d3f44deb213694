"""Which level to load, and which way a rollback goes. Pure: manifests, quarantine and the kernel's view in, decisions out."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kmend.agent.livekernel import View
from kmend.agent.policy import Rule, Withheld, released
from kmend.agent.quarantine import Entry, blocking
from kmend.agent.residents import Residents
from kmend.core.manifest import Manifest, missing_fixes
from kmend.core.recall import Extent, Recall, Recalls


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a newer level is not loaded by itself.

    Attributes:
        quarantined: this host's quarantine is the reason.
        rules: of this host's policy that withhold it, if nothing else is the reason.
        cves: what it would close besides what is closed now.
        until: when the policy lets it go, in seconds since 1970-01-01 UTC; None if not by itself.
        recalled: its publisher has recalled it.
    """

    level: int
    reason: str
    quarantined: bool = False
    rules: tuple[Withheld, ...] = ()
    cves: tuple[str, ...] = ()
    until: int | None = None
    recalled: bool = False

    @property
    def by_server_alone(self) -> bool:
        """The server has not offered it, and nothing else speaks against it: the host runs what it is meant to run."""
        return bool(self.rules) and all(rule.rule is Rule.SERVER for rule in self.rules)


@dataclass(frozen=True, slots=True)
class Choice:
    """The answer to "what now?".

    Attributes:
        manifest: the level to load, None to stay.
        obstacles: newer levels that are passed over, newest first.
    """

    manifest: Manifest | None
    obstacles: tuple[Obstacle, ...] = ()


def choose(
    newer: Iterable[Manifest],
    loaded: Manifest | None,
    entries: Sequence[Entry],
    withheld: Callable[[Manifest], tuple[Withheld, ...]] = lambda manifest: (),
    recalls: Recalls | None = None,
    extents: tuple[Extent, ...] = tuple(Extent),
) -> Choice:
    """The newest level that this host may load by itself.

    Args:
        newer: levels above the loaded one, newest first; consumed only as far as needed.
        loaded: the level in force, None if none is.
        entries: the quarantine.
        withheld: the rules of this host's policy that withhold a level.
        recalls: what the publisher has recalled; only those of `extents` count.
    """
    recalls = recalls or Recalls()
    obstacles: list[Obstacle] = []
    for candidate in newer:
        recall = recalls.of(candidate, extents)
        reason = told(recall) if recall is not None else obstacle(candidate, loaded, entries, recalls)
        rules = withheld(candidate) if not reason else ()
        if not reason and not rules:
            return Choice(candidate, tuple(obstacles))
        quarantined = bool(reason) and recall is None and not regression(candidate, loaded, recalls)
        closes = tuple(cve for cve in candidate.cves if loaded is None or cve not in loaded.cves)
        said = reason or "; ".join(rule.reason for rule in rules)
        obstacles.append(
            Obstacle(candidate.level, said, quarantined, rules, closes, released(rules), recall is not None)
        )
    return Choice(None, tuple(obstacles))


def told(recall: Recall) -> str:
    """A recall, for people."""
    what = "one of its fixes is recalled" if recall.fix else "it is recalled"
    return f"{what} by its publisher ({recall.extent.value}): {recall.reason}"


def obstacle(
    candidate: Manifest, loaded: Manifest | None, entries: Sequence[Entry], recalls: Recalls | None = None
) -> str:
    """Why `candidate` must not be loaded by itself; empty if it may."""
    lost = regression(candidate, loaded, recalls)
    if lost:
        return lost
    blocked = blocking(entries, candidate)
    if blocked:
        entry = blocked[-1]
        if entry.module == candidate.module.name:
            return f"in quarantine ({entry.cause.value}): {entry.message}"
        return f"holds a fix of level {entry.level}, which is in quarantine ({entry.cause.value}): {entry.message}"
    return ""


def regression(candidate: Manifest, loaded: Manifest | None, recalls: Recalls | None = None) -> str:
    """What going from `loaded` to `candidate` would lose; empty if nothing but what is recalled."""
    if loaded is None:
        return ""
    missing = missing_fixes(loaded, candidate) - (recalls.fixes if recalls is not None else frozenset())
    if not missing:
        return ""
    named = [fix.title for fix in loaded.fixes if fix.digest in missing]
    return f"lacks {len(missing)} fixes of level {loaded.level}, which is loaded: {'; '.join(named)}"


def reopened(loaded: Manifest, target: Manifest | None) -> tuple[str, ...]:
    """CVEs that are closed now and would not be with `target` (None: with no livepatch at all)."""
    kept = set(target.cves) if target is not None else set()
    return tuple(cve for cve in loaded.cves if cve not in kept)


class Way(enum.Enum):
    """How a rollback can go."""

    REPLACE = "replace"
    UNLOAD_THEN_LOAD = "unload-then-load"
    NOT_ON_THIS_BOOT = "not-on-this-boot"


@dataclass(frozen=True, slots=True)
class RollbackPlan:
    """Which way a rollback goes.

    Attributes:
        wait_for: a resident module that has to be removed first; empty if none.
        wait_seconds: how long until it may be.
        reopens: CVEs that the target level does not close.
        reason: for people.
    """

    way: Way
    reopens: tuple[str, ...]
    reason: str
    wait_for: str = ""
    wait_seconds: int = 0


def plan_rollback(
    *,
    loaded: Manifest,
    target: Manifest,
    view: View,
    residents: Residents,
    uptime: float,
    delay: int,
    pinned: Callable[[str], bool],
    unload_first: bool,
) -> RollbackPlan:
    """Decide the way from `loaded` to `target`.

    A module that is resident cannot be loaded again under its name, so one that lingers has to be removed first, after its
    delay; a pinned one never is (DESIGN, section 4).

    Args:
        residents: modules out of use, and since when.
        delay: seconds a module stays after it went out of use.
        pinned: whether a module must stay on this boot.
        unload_first: the caller asks for the way with a gap, because the kernel refuses to replace.
    """
    reopens = reopened(loaded, target)
    name = target.module.name
    wait_for, wait = "", 0
    if view.module(name) is not None:
        if pinned(name):
            return RollbackPlan(
                Way.NOT_ON_THIS_BOOT,
                reopens,
                f"level {target.level} was loaded before on this boot and its module must stay resident, "
                "so that it cannot be loaded a second time",
            )
        since = residents.since(name)
        if since is None:
            return RollbackPlan(Way.NOT_ON_THIS_BOOT, reopens, f"module {name} is resident and in use")
        wait_for, wait = name, max(0, since + delay - int(uptime))
    if unload_first:
        return RollbackPlan(
            Way.UNLOAD_THEN_LOAD,
            reopens,
            f"level {loaded.level} is taken off, then level {target.level} is loaded; in between no fix is in force",
            wait_for,
            wait,
        )
    return RollbackPlan(
        Way.REPLACE,
        reopens,
        f"level {target.level} replaces level {loaded.level} in one step; no fix that both hold is ever off",
        wait_for,
        wait,
    )
