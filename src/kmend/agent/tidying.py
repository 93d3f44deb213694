"""What keeps a host's record from growing: which levels stay, and what nobody will ever look at again. Called under the lock.

Nothing here may fail a command: a file that cannot be removed now is removed another time.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from pathlib import Path

from kmend.agent.livekernel import level_of
from kmend.agent.session import Session
from kmend.core import durable
from kmend.core.errors import SystemProblemError

KEEP_SOAKED = 2
"""How many levels that ran well on the running kernel build stay for the next boot, whatever their age."""
KEEP_BUILDS = 4
"""Of how many kernel builds besides the running one the repository's list of levels is kept."""
KEEP_ASIDE = 10
"""How many files that could not be read stay set aside, in all."""
MAX_ASIDE_BYTES = 16 * 1024 * 1024
STALE_SECONDS = 3600
"""From when on a temporary file belongs to a write that was cut off."""
MAX_FILES = 20_000
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")
_ASIDE = re.compile(r".+\.corrupt-[0-9]+")
_logger = logging.getLogger(__name__)


def tidy(session: Session) -> None:
    """Forget old levels, lists of other kernel builds, files set aside, and what cut-off writes have left."""
    try:
        session.store.prune(in_use(session), session.running.build_id)
        state = session.paths.state
        others = _newest(path for path in _files(state / "repository/levels") if path.stem != session.running.build_id)
        aside = _newest(path for path in _files(state) if _ASIDE.fullmatch(path.name))
        size = 0
        spare = list(others[KEEP_BUILDS:])
        for number, path in enumerate(aside):
            size += path.stat().st_size
            if number >= KEEP_ASIDE or size > MAX_ASIDE_BYTES:
                spare.append(path)
        spare += [path for path in _below(state) if _TEMPORARY.fullmatch(path.name) and _is_stale(path)]
        for path in spare:
            durable.remove_durably(path)
    except (SystemProblemError, OSError) as problem:
        _logger.warning("cannot tidy up %s yet: %s", session.paths.state, problem)


def in_use(session: Session) -> frozenset[str]:
    """Modules whose levels must stay: in memory, being loaded, the way back from what is loaded, and what boots again."""
    view = session.kernel.view()
    names = {patch.name for patch in view.ours}
    # A module whose manifest is gone would count as pinned for ever.
    names |= {module.name for module in view.modules if level_of(module.name) is not None}
    names |= {item.module for item in session.soaked_levels()[:KEEP_SOAKED]}
    intent = session.journal.intent
    if intent is not None:
        names |= {intent.module, *intent.replaces}
    current = view.current
    for record in reversed(session.history.records()):
        if current is not None and record.module == current.name and record.event == "begin_soak":
            names |= set(record.replaces)
            break
    return frozenset(names)


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_file() and not path.is_symlink()]
    except OSError:
        return []


def _below(folder: Path) -> list[Path]:
    found = []
    for number, path in enumerate(folder.rglob(".*")):
        if number >= MAX_FILES:
            break
        if path.is_file() and not path.is_symlink():
            found.append(path)
    return found


def _newest(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: (path.stat().st_mtime, path.name), reverse=True)


def _is_stale(path: Path) -> bool:
    """By the clock that wrote its time; one that was set back in between only lets the file stay longer."""
    return time.time() - path.stat().st_mtime > STALE_SECONDS
