"""What about policies and exceptions cannot be done."""

from __future__ import annotations

from typing import ClassVar

from kmend.core.errors import KmendError


class ComplianceError(KmendError):
    """What was asked for makes no sense."""

    kind: ClassVar[str] = "compliance"
    exit_status = 2


class NotThereError(ComplianceError):
    """There is no such policy or exception, or the caller may not know of it."""

    kind: ClassVar[str] = "not-found"


class StandsOtherwiseError(ComplianceError):
    """It is in another state, or not for this person to do."""

    kind: ClassVar[str] = "conflict"
