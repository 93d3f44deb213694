"""What operators can ask for in vain."""

from __future__ import annotations

from typing import ClassVar

from kmend.core.errors import KmendError


class HostsError(KmendError):
    """Something about hosts, rings or enrolment keys cannot be done."""

    kind: ClassVar[str] = "hosts"
    exit_status = 2


class NotFoundError(HostsError):
    """There is no such thing, or the caller may not know of it."""

    kind: ClassVar[str] = "not-found"


class ConflictError(HostsError):
    """It is in use, or exists already."""

    kind: ClassVar[str] = "conflict"


class InvalidError(HostsError):
    """What was asked for makes no sense."""

    kind: ClassVar[str] = "invalid"
