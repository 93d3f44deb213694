"""What is true of one CVE on one host: the table that orders what could be said, and the rules that pick from it.

A livepatch counts while it is in force and its transition is over. With the next boot, an unload, or a level that goes into
quarantine, the verdict is judged anew; when the CVE was first open is not forgotten (`kmend.intel.clocks`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kmend.intel.applicability import Applicability, Presence, Reason

RULES = "kmend-verdicts/2"
NOT_PRESENT = "component not present"
_VMLINUX = "vmlinux"
_MAX_TOLD = 8


class Word(str, enum.Enum):
    """DESIGN's words, the first that is true wins."""

    FIXED_BY_KERNEL = "fixed by the kernel"
    NOT_AFFECTED = "not affected"
    LIVE_PATCHED = "live-patched"
    PENDING = "pending"
    MITIGATED = "mitigated"
    AVAILABLE = "available"
    WITHHELD = "withheld"
    BLOCKED = "blocked"
    NEEDS_REBOOT = "needs reboot"
    UNKNOWN = "unknown"
    NO_FIX_YET = "no fix yet"


CLOSED = frozenset({Word.FIXED_BY_KERNEL, Word.NOT_AFFECTED, Word.LIVE_PATCHED})
"""Deadlines end with these; a mitigation ends none, since the code is still there."""
ORDER = {word: place for place, word in enumerate(Word)}


@dataclass(frozen=True, slots=True)
class Level:
    """A published level for the host's kernel build.

    Attributes:
        cves: that its fixes close.
        objects: CVE -> objects in which the level replaces code for it; a CVE that is missing there may be in any of them.
        withheld: by which rules the host or its server holds it back; empty if nobody does.
        blocked: why it must not be loaded (recall, quarantine); empty if it may.
    """

    level: int
    cves: frozenset[str]
    objects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    withheld: tuple[str, ...] = ()
    blocked: str = ""


@dataclass(frozen=True, slots=True)
class HostKernel:
    """What a host's own report says.

    Attributes:
        level: in force, or on its way; 0 for none.
        transition: the kernel still changes over to it.
        modules: that are loaded; None if the host has not said.
        barred: modules that nothing on the host loads by name; one that is loaded all the same is not barred.
        absent: modules of the kernel build that are not on the host's disk.
        sealed: nothing that is not loaded can be loaded any more on this boot.
        unpatched: objects that the level in force should patch, and that are there without being patched.
        installed: package version of the newest kernel that is installed; empty if the host has not said.
    """

    level: int = 0
    transition: bool = False
    modules: frozenset[str] | None = None
    barred: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    sealed: bool = False
    unpatched: frozenset[str] = frozenset()
    installed: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer.

    Attributes:
        detail: which level, rule, package; for people.
        evidence: what it rests on, a line each.
    """

    cve: str
    word: Word
    detail: str = ""
    evidence: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        """Whether a deadline runs."""
        return self.word not in CLOSED


class Holding(str, enum.Enum):
    """How a host holds a module; a value follows the module's name in a sentence."""

    LOADED = "is loaded"
    LOADABLE = "is not loaded, and is loaded as soon as something asks for it"
    BARRED = "is not loaded, and is barred from loading"
    SEALED = "is not loaded, and this boot loads no more modules"
    ABSENT = "is not loaded, and is not on the disk"


def holding(module: str, host: HostKernel) -> Holding | None:
    """How a host holds a module; None if it has not said which ones it has loaded."""
    if host.modules is None:
        return None
    if module in host.modules:
        return Holding.LOADED
    if module in host.absent:
        return Holding.ABSENT
    if host.sealed:
        return Holding.SEALED
    return Holding.BARRED if module in host.barred else Holding.LOADABLE


def verdict(
    found: Applicability, host: HostKernel, levels: Sequence[Level], *, fixed_in: str = "", ready: bool = False
) -> Verdict:
    """What is true of a CVE on a host.

    Args:
        found: what it means for the host's kernel build.
        levels: published for that build.
        fixed_in: the distro's first package version that has it mended; empty if there is none yet.
        ready: the newest kernel that is installed has it mended.
    """
    holdings = _holdings(found, host)
    possible = _possible(found, host, levels, fixed_in, ready=ready)
    possible += _kept_out(found, holdings)
    word, detail, line = min(possible, key=lambda item: ORDER[item[0]])
    told = tuple(f"{name} {how.value}" for name, how in list(holdings.items())[:_MAX_TOLD])
    if len(holdings) > _MAX_TOLD:
        told += (f"{len(holdings) - _MAX_TOLD} more modules have it",)
    return Verdict(found.cve, word, detail, (*found.evidence, *told, *((line,) if line else ())))


def _holdings(found: Applicability, host: HostKernel) -> dict[str, Holding]:
    """The modules with the code, if it is only in modules, and the host has said how it holds them."""
    if found.affected is False or found.presence is not Presence.MODULE:
        return {}
    return {name: how for name in found.objects if (how := holding(name, host)) is not None}


def _kept_out(found: Applicability, holdings: Mapping[str, Holding]) -> list[tuple[Word, str, str]]:
    """What follows from modules that cannot be loaded: of all that may have the code, or of none."""
    ways = set(holdings.values())
    if not ways or not found.complete or ways & {Holding.LOADED, Holding.LOADABLE}:
        return []
    if ways == {Holding.ABSENT}:
        return [(Word.NOT_AFFECTED, NOT_PRESENT, "")]
    names = ", ".join(sorted(holdings)[:_MAX_TOLD])
    return [(Word.MITIGATED, f"{names} cannot be loaded", "")]


def _possible(
    found: Applicability, host: HostKernel, levels: Sequence[Level], fixed_in: str, *, ready: bool
) -> list[tuple[Word, str, str]]:
    if found.affected is False:
        if found.reason is Reason.FIXED_IN_BUILD:
            return [(Word.FIXED_BY_KERNEL, "", "")]
        return [(Word.NOT_AFFECTED, found.reason.value, "")]
    possible = [(Word.NO_FIX_YET, "", "no level and no package closes it")]
    if found.affected is None:
        possible.append((Word.UNKNOWN, found.reason.value, ""))
    closing = [level for level in levels if found.cve in level.cves]
    for level in closing:
        possible.append(_of_level(found, level, host))
    if fixed_in:
        line = f"{fixed_in} has it mended"
        if ready:
            line += f"; {host.installed} is installed, and waits for a restart"
        elif host.installed:
            line += f"; {host.installed} is the newest that is installed"
        possible.append((Word.NEEDS_REBOOT, f"{fixed_in}, installed" if ready else fixed_in, line))
    return possible


def _of_level(found: Applicability, level: Level, host: HostKernel) -> tuple[Word, str, str]:
    name = f"level {level.level}"
    if level.level == host.level:
        if host.transition:
            return Word.PENDING, name, f"{name} is on its way in"
        objects = _objects(found, level)
        left_out = sorted(host.unpatched & objects if objects else host.unpatched)
        if left_out:
            names = ", ".join(left_out)
            line = f"{name} is in force, and the kernel has not patched {names} with it"
            return Word.BLOCKED, f"{name}: {names} is not patched", line
        missing = sorted(objects - {_VMLINUX} - host.modules) if host.modules is not None else []
        if not missing:
            return Word.LIVE_PATCHED, name, f"{name} is in force, and its transition is over"
        # The livepatch lies in wait: the module is patched as it is loaded.
        names = ", ".join(missing)
        return Word.LIVE_PATCHED, name, f"{name} is in force; {names} is not loaded, and is patched when it is"
    if level.blocked:
        return Word.BLOCKED, f"{name}: {level.blocked}", f"{name} closes it: {level.blocked}"
    if level.withheld:
        rules = ", ".join(level.withheld)
        return Word.WITHHELD, f"{name}: {rules}", f"{name} closes it, and is held back: {rules}"
    return Word.AVAILABLE, name, f"{name} closes it"


def _objects(found: Applicability, level: Level) -> frozenset[str]:
    """The objects that the level has to patch for a CVE; empty if that is not known."""
    objects = frozenset(level.objects.get(found.cve, ()))
    # A fix with a header counts for every object of its level; what was compiled knows better.
    return objects & frozenset(found.objects) or objects
