"""What requests hold. A member that is not known here is refused, so that nobody believes to have said something."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kmend.server.access.permissions import Role
from kmend.server.compliance.exceptions import Extent
from kmend.server.notices import Event
from kmend.server.notices.channels import Kind
from kmend.server.rollouts.plan import Plan

Name = Annotated[str, Meta(min_length=1, max_length=100)]
Reason = Annotated[str, Meta(min_length=1, max_length=300)]
Seconds = Annotated[int, Meta(ge=1, le=2 * 366 * 86_400)]


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every one of them."""


class Move(Body, frozen=True):
    """Where a host is to be."""

    ring: Name


class Tags(Body, frozen=True):
    """The tags that a host is to have, in place of those that it has."""

    tags: Annotated[dict[str, str], Meta(max_length=64)]


class Decommission(Body, frozen=True):
    """Why."""

    reason: Annotated[str, Meta(max_length=300)] = ""


class RingBody(Body, frozen=True):
    """What a ring is to be.

    Attributes:
        exposed: the internet reaches its hosts; null if nobody has said, which deadlines take for yes.
    """

    position: Annotated[int, Meta(ge=0, le=10_000)]
    description: Annotated[str, Meta(max_length=500)] = ""
    exposed: bool | None = None


class NewKey(Body, frozen=True):
    """An enrolment key.

    Attributes:
        expires_in: seconds from now.
        max_uses: None for any number.
        networks: from which hosts may come; empty: from anywhere.
        ephemeral_seconds: hosts that are silent for so long are let go; None: they stay.
    """

    ring: Name
    expires_in: Seconds = 7 * 86_400
    note: Annotated[str, Meta(max_length=300)] = ""
    max_uses: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    networks: Annotated[list[str], Meta(max_length=32)] = []
    tags: Annotated[dict[str, str], Meta(max_length=16)] = {}
    ephemeral_seconds: Seconds | None = None


class PlanBody(Body, frozen=True):
    """A plan to be kept."""

    plan: Plan
    automatic: bool = False


class NewRollout(Body, frozen=True):
    """A rollout.

    Attributes:
        plan: the name of a plan that is kept.
        targets: kernel build -> level.
        emergency: no soak, windows and approvals between stages, and two people who approve before it begins.
        start: begin at once.
    """

    name: Annotated[str, Meta(min_length=1, max_length=300)]
    plan: Name
    targets: Annotated[dict[str, Annotated[int, Meta(ge=1, le=999_999)]], Meta(min_length=1, max_length=20_000)]
    emergency: bool = False
    return_soaking: bool = True
    start: bool = False


class Because(Body, frozen=True):
    """Why somebody does what they do."""

    reason: Reason


class NewToken(Body, frozen=True):
    """A token.

    Attributes:
        rings: that it is bound to; empty for none.
        expires_in: seconds from now.
    """

    name: Name
    roles: Annotated[list[Role], Meta(min_length=1, max_length=5)]
    rings: Annotated[list[str], Meta(max_length=100)] = []
    expires_in: Seconds = 90 * 86_400


class NewChannel(Body, frozen=True):
    """A channel.

    Attributes:
        target: a URL, or an e-mail address.
        events: empty for all.
    """

    kind: Kind
    target: Annotated[str, Meta(min_length=1, max_length=2000)]
    events: Annotated[list[Event], Meta(max_length=20)] = []


class Assumed(Body, frozen=True):
    """What counts where nobody knows.

    Attributes:
        automatable, total: an answer of SSVC that nobody has given.
        likely: every CVE is likely to be exploited; else only one with a known exploit, or in the upper tenth of EPSS.
        earlier: a listing's clock begins with the listing, also where the CVE has been open only since then.
    """

    automatable: bool = False
    total: bool = True
    likely: bool = True
    earlier: bool = False


class PolicyBody(Body, frozen=True):
    """What a ring is to stand under.

    Attributes:
        framework: of `/frameworks`, or `own`.
        rows: own deadlines, in place of those of the framework (docs/compliance.md).
        certification, impact: FedRAMP's class, a to d, and potential agency impact, 1 to 5.
        valid_from, valid_to: YYYY-MM-DD, the second one not any more; empty for no bound.
        approved_by: who has approved it, for people.
    """

    framework: Annotated[str, Meta(min_length=1, max_length=40)]
    approved_by: Annotated[str, Meta(min_length=1, max_length=200)]
    rows: Annotated[list[dict[str, Any]], Meta(max_length=100)] = []
    certification: Annotated[str, Meta(max_length=1)] = ""
    impact: Annotated[int, Meta(ge=0, le=5)] = 0
    assumed: Assumed = Assumed()
    valid_from: Annotated[str, Meta(max_length=10)] = ""
    valid_to: Annotated[str, Meta(max_length=10)] = ""


class NewException(Body, frozen=True):
    """A CVE that is to be accepted for a time.

    Attributes:
        subject: ID of a host, name of a ring, `name=value` or `name` of a tag; empty for everything.
        control: what is done instead.
        expires_in: seconds from now; at most 400 days.
    """

    cve: Annotated[str, Meta(min_length=1, max_length=40)]
    extent: Extent
    reason: Annotated[str, Meta(min_length=1, max_length=1000)]
    control: Annotated[str, Meta(min_length=1, max_length=1000)]
    expires_in: Annotated[int, Meta(ge=1, le=400 * 86_400)]
    subject: Annotated[str, Meta(max_length=200)] = ""
