"""State files that may be torn by a crash: one that cannot be read is set aside, never a reason not to start.

Unless a newer kmend wrote it (`kmend.agent.schema`): what is only too new is left as it is.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

from kmend.agent import schema
from kmend.core import durable
from kmend.core.document import decode, encode
from kmend.core.errors import MalformedError, SystemProblemError

T = TypeVar("T")

MAX_STATE_BYTES = 4 * 1024 * 1024
_MAX_CORRUPT = 20
_logger = logging.getLogger(__name__)


def load(path: Path, kind: type[T]) -> T | None:
    """The document in `path`; None if there is none, or none that can be read (it is then set aside).

    Raises:
        StateSchemaError: it cannot be read because it is newer than this version.
    """
    if not path.exists():
        return None
    try:
        return decode(kind, durable.read_bounded(path, max_bytes=MAX_STATE_BYTES))
    except (MalformedError, SystemProblemError) as problem:
        mark = schema.newer(path)
        if mark is not None:
            raise schema.StateSchemaError(
                f"{path} cannot be read: {problem.message}. It is of a newer kmend ({mark.kmend[:40]}), and was left as it is",
                hint=f"install kmend {mark.kmend[:40]} or newer again",
            ) from None
        set_aside(path, problem.message)
        return None


def save(path: Path, document: object) -> None:
    """Store a document durably.

    Raises:
        SystemProblemError: it could not be stored; the old one is untouched.
    """
    durable.make_folder(path.parent)
    durable.write_durably(path, encode(document) + b"\n")


def set_aside(path: Path, reason: str) -> None:
    """Rename an unreadable file to `<name>.corrupt-<n>`, so that a person can look at it; says so in the log."""
    for number in range(1, _MAX_CORRUPT + 1):
        target = path.with_name(f"{path.name}.corrupt-{number}")
        if not target.exists() or number == _MAX_CORRUPT:
            break
    try:
        path.replace(target)
        durable.sync_folder(path.parent)
    except OSError as problem:
        _logger.warning("%s cannot be read (%s) and cannot be set aside: %s", path, reason, problem.strerror)
        return
    _logger.warning("%s cannot be read and was set aside as %s: %s", path, target.name, reason)
