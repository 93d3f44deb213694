"""What is true of one CVE on one host: the table that orders what could be said, and the rules that pick from it.

A livepatch counts while it is in force and its transition is over. With the next boot, an unload, or a level that goes into
quarantine, the verdict is judged anew; when the CVE was first open is not forgotten (`kmend.intel.clocks`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kmend.intel.applicability import Applicability, Presence, Reason

RULES = "kmend-verdicts/1"
_VMLINUX = "vmlinux"


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
        barred: modules that nothing can load there: barred by name, and not loaded.
        installed: package version of the newest kernel that is installed; empty if the host has not said.
    """

    level: int = 0
    transition: bool = False
    modules: frozenset[str] | None = None
    barred: frozenset[str] = frozenset()
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


def verdict(found: Applicability, host: HostKernel, levels: Sequence[Level], *, fixed_in: str = "") -> Verdict:
    """What is true of a CVE on a host.

    Args:
        found: what it means for the host's kernel build.
        levels: published for that build.
        fixed_in: the distro's first package version that has it mended; empty if there is none yet.
    """
    possible = _possible(found, host, levels, fixed_in)
    word, detail, line = min(possible, key=lambda item: ORDER[item[0]])
    return Verdict(found.cve, word, detail, (*found.evidence, *((line,) if line else ())))


def _possible(
    found: Applicability, host: HostKernel, levels: Sequence[Level], fixed_in: str
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
    if found.presence is Presence.MODULE and host.modules is not None:
        objects = set(found.objects)
        if objects <= host.barred and not objects & host.modules:
            names = ", ".join(sorted(objects))
            possible.append(
                (Word.MITIGATED, f"{names} cannot be loaded", f"{names}: not loaded, and barred from loading")
            )
    if fixed_in:
        line = f"{fixed_in} has it mended" + (f"; {host.installed} is installed" if host.installed else "")
        possible.append((Word.NEEDS_REBOOT, fixed_in, line))
    return possible


def _of_level(found: Applicability, level: Level, host: HostKernel) -> tuple[Word, str, str]:
    name = f"level {level.level}"
    if level.level == host.level:
        if host.transition:
            return Word.PENDING, name, f"{name} is on its way in"
        missing = _not_patched(found.cve, level, host)
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


def _not_patched(cve: str, level: Level, host: HostKernel) -> tuple[str, ...]:
    objects = level.objects.get(cve, ())
    if host.modules is None:
        return ()
    return tuple(name for name in objects if name != _VMLINUX and name not in host.modules)
