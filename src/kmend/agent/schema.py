"""Which version of kmend's state lies on this host, and what another version does with it.

`schema.json` in the state folder carries the number. The rules, which recorded folders test:

- A newer kmend brings an older folder up, step by step; every step may be repeated, since it may be cut off by a crash.
- A schema differs from the one before by additions, and writes what that one requires. So a kmend that is one schema older
  than the folder reads it, and goes on; it leaves the number, and sets nothing aside that it cannot read.
- A folder that is two or more schemas newer is not touched at all.

A change that takes something away therefore takes two schemas: one that no longer reads it, then one that no longer writes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kmend import __version__
from kmend.agent.errors import AgentError
from kmend.core import durable
from kmend.core.document import decode, encode
from kmend.core.errors import MalformedError, SystemProblemError

STATE_SCHEMA = 2
"""1: a folder without a number, as kmend left it before there was one. 2: the number."""

NAME = "schema.json"
_MAX_BYTES = 16 * 1024
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mark:
    """`schema.json`; every version reads these members, so they never change.

    Attributes:
        kmend: the version that wrote it, for people.
    """

    schema: int
    kmend: str
    format: str = "kmend-state/1"


class StateSchemaError(AgentError):
    """The state is that of a kmend which this one is too old for; nothing was changed."""

    kind = "state-schema"
    exit_status = 60


def _add_number(folder: Path) -> None:
    """1 to 2: nothing but the number itself is new."""


MIGRATIONS: dict[int, Callable[[Path], None]] = {1: _add_number}
"""Schema to what makes the next one of a folder of that schema; may be repeated."""


def standing(folder: Path) -> Mark | None:
    """The folder's mark; None if it has none, or none that can be read."""
    path = folder / NAME
    try:
        mark = decode(Mark, durable.read_bounded(path, max_bytes=_MAX_BYTES)) if path.exists() else None
    except (MalformedError, SystemProblemError):
        return None
    return mark if mark is not None and mark.schema >= 1 else None


def admit(folder: Path) -> None:
    """Refuse a folder that this version must not touch.

    Raises:
        StateSchemaError: it is too new.
    """
    mark = standing(folder)
    if mark is not None and mark.schema > STATE_SCHEMA + 1:
        raise StateSchemaError(
            f"{folder} is of schema {mark.schema}, written by kmend {mark.kmend[:40]}; this is kmend {__version__}, which "
            f"reads up to {STATE_SCHEMA + 1}. Nothing was changed, and what is loaded stays in force",
            hint=f"install kmend {mark.kmend[:40]} or newer again",
        )


def bring_up(folder: Path) -> None:
    """Make a folder one of this schema, unless it is newer; called under the lock.

    Raises:
        SystemProblemError: a step could not be stored.
    """
    mark = standing(folder)
    if mark is not None and mark.schema >= STATE_SCHEMA:
        return
    used = (folder / "history.jsonl").exists() or any(folder.glob("*.json"))
    for step in range(mark.schema if mark is not None else 1, STATE_SCHEMA) if used else ():
        MIGRATIONS[step](folder)
    try:
        durable.write_durably(folder / NAME, encode(Mark(STATE_SCHEMA, __version__)) + b"\n")
    except SystemProblemError as problem:
        # Without it the next command finds out the same again, so a full disk is no reason to stop here.
        _logger.debug("%s", problem.message)


def newer(path: Path) -> Mark | None:
    """The mark of the state that a file belongs to, if that is newer than this version; None if it is not."""
    for folder in (path.parent, path.parent.parent):
        mark = standing(folder)
        if mark is not None:
            return mark if mark.schema > STATE_SCHEMA else None
    return None
