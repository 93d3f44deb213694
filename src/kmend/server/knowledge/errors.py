"""What can go wrong with what the server knows."""

from __future__ import annotations

from typing import ClassVar

from kmend.core.errors import KmendError


class KnowledgeError(KmendError):
    """A question that cannot be answered."""

    kind: ClassVar[str] = "knowledge"


class NotKnownError(KnowledgeError):
    """Nobody has told the server of it."""

    kind: ClassVar[str] = "not-known"
    exit_status = 2
