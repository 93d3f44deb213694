"""Why somebody may not."""

from __future__ import annotations

from typing import ClassVar

from kmend.core.errors import KmendError


class AccessError(KmendError):
    """Base: somebody may not do what was asked for."""

    kind: ClassVar[str] = "access"
    exit_status = 2


class UnauthenticatedError(AccessError):
    """There is no token, or none that counts."""

    kind: ClassVar[str] = "unauthenticated"
    default_hint: ClassVar[str] = "give a token that has neither expired nor been revoked"


class ForbiddenError(AccessError):
    """The token is good, and not for this."""

    kind: ClassVar[str] = "forbidden"


class TokenError(AccessError):
    """A token cannot be made as it was asked for."""

    kind: ClassVar[str] = "invalid"


class NoTokenError(AccessError):
    """There is no token of that ID."""

    kind: ClassVar[str] = "not-found"
