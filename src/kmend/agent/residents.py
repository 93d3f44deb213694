"""Replaced and unloaded modules that are still resident, and when they may be removed.

A finished transition does not prove that the old code is unused: a task that has left the task list inside `do_exit()` may
still return into it. So a module stays for a delay after it went out of use, and for ever (on this boot) if its manifest
calls it pinned, or if there is no manifest that says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kmend.agent import statefile
from kmend.agent.livekernel import View


@dataclass(frozen=True, slots=True)
class Resident:
    """A module out of use since an uptime, in whole seconds."""

    module: str
    since: int


@dataclass(frozen=True, slots=True)
class Residents:
    """What was seen in one boot."""

    boot_id: str
    modules: tuple[Resident, ...] = ()
    format: str = "kmend-residents/1"

    def since(self, module: str) -> int | None:
        """Since when a module is out of use; None if it is not known to be."""
        return next((resident.since for resident in self.modules if resident.module == module), None)


def observe(view: View, known: Residents | None, uptime: float) -> Residents:
    """What is resident and out of use now; a module not known before counts from now on."""
    before = known if known is not None and known.boot_id == view.boot_id else Residents(view.boot_id)
    # Rounded up, so that rounding never shortens the delay.
    now = int(uptime) + 1
    return Residents(
        view.boot_id,
        tuple(Resident(name, now if (since := before.since(name)) is None else since) for name in view.idle_modules),
    )


def removable(
    residents: Residents, view: View, uptime: float, delay: int, pinned: Callable[[str], bool]
) -> tuple[str, ...]:
    """The modules that may be removed now: out of use for long enough, unpinned, unused, and no transition under way."""
    if view.moving is not None:
        return ()
    names = []
    for resident in residents.modules:
        module = view.module(resident.module)
        if module is None or module.references or pinned(resident.module):
            continue
        if uptime >= resident.since + delay:
            names.append(resident.module)
    return tuple(names)


def next_due(residents: Residents, delay: int, pinned: Callable[[str], bool]) -> int | None:
    """The uptime at which the next module may be removed; None if none ever may."""
    times = [resident.since + delay for resident in residents.modules if not pinned(resident.module)]
    return min(times, default=None)


def load(path: Path) -> Residents | None:
    """What an earlier command saw."""
    return statefile.load(path, Residents)
