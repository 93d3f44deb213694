"""What each role may do, and where. One table; the API asks it for every route, and the tests go through all of it.

A caller may be bound to rings. Then it sees and changes only what belongs to these, and nothing that is of the whole fleet.
Whoever wants a rollout approved is somebody else than who approves it, so administrators are no approvers.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from kmend.server.access.errors import ForbiddenError


class Role(str, enum.Enum):
    """What a token is for."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    AUDITOR = "auditor"
    ADMINISTRATOR = "administrator"


class Permission(str, enum.Enum):
    """One thing that can be allowed."""

    READ = "read"
    HOSTS = "hosts"
    """Move, tag, decommission."""
    KEYS = "keys"
    """Make and revoke enrolment keys."""
    ROLLOUTS = "rollouts"
    """Make, start, pause, resume, abort and promote rollouts."""
    APPROVE = "approve"
    RINGS = "rings"
    PLANS = "plans"
    TOKENS = "tokens"
    CHANNELS = "channels"
    POLICIES = "policies"
    """Say what rings stand under."""
    EXCEPTIONS = "exceptions"
    """Ask for exceptions, and withdraw them; `approve` puts them in force."""
    AUDIT = "audit"


FLEET_WIDE = frozenset(
    {
        Permission.RINGS,
        Permission.PLANS,
        Permission.TOKENS,
        Permission.CHANNELS,
        Permission.AUDIT,
        Permission.POLICIES,
    }
)
"""Of the whole fleet: nobody who is bound to rings has them."""

GRANTED: dict[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset({Permission.READ}),
    Role.OPERATOR: frozenset(
        {
            Permission.READ,
            Permission.HOSTS,
            Permission.KEYS,
            Permission.ROLLOUTS,
            Permission.PLANS,
            Permission.EXCEPTIONS,
        }
    ),
    Role.APPROVER: frozenset({Permission.READ, Permission.APPROVE}),
    Role.AUDITOR: frozenset({Permission.READ, Permission.AUDIT}),
    Role.ADMINISTRATOR: frozenset(Permission) - {Permission.APPROVE},
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        id: of the token.
        rings: that it is bound to; empty for none.
    """

    id: str
    name: str
    roles: tuple[Role, ...]
    rings: tuple[str, ...] = ()

    @property
    def actor(self) -> str:
        """As it stands in the audit log."""
        return f"token:{self.id}"

    def sees(self, ring: str) -> bool:
        """Whether what belongs to that ring is there for it."""
        return not self.rings or ring in self.rings


def may(caller: Caller, permission: Permission, ring: str | None = None) -> None:
    """Let pass, or raise.

    Args:
        ring: of what is to be read or changed; None if it is of no ring, or the answer is limited to the caller's rings anyway.

    Raises:
        ForbiddenError: the caller may not.
    """
    if not any(permission in GRANTED[role] for role in caller.roles):
        needed = ", ".join(role.value for role in Role if permission in GRANTED[role])
        raise ForbiddenError(f"this token may not: {permission.value}", hint=f"it takes one of the roles {needed}")
    if not caller.rings:
        return
    if permission in FLEET_WIDE:
        raise ForbiddenError(f"this token is bound to rings, and {permission.value} are of the whole fleet")
    if ring is not None and ring not in caller.rings:
        raise ForbiddenError(f"this token is not for the ring {ring[:80]!r}")


def may_all(caller: Caller, permission: Permission, rings: Collection[str]) -> None:
    """As `may`, for what concerns several rings: every one of them must be the caller's.

    Raises:
        ForbiddenError: one is not.
    """
    may(caller, permission)
    for ring in sorted(rings):
        may(caller, permission, ring)
