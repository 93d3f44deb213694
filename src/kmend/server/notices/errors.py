"""Why a notice was not sent, or a channel not made."""

from __future__ import annotations

from kmend.core.errors import KmendError


class NoticeError(KmendError):
    """Base: a notice could not be sent."""

    kind = "notice"
    default_hint = "it is tried again"


class ChannelError(NoticeError):
    """A channel cannot be what was asked for, or is not there."""

    kind = "channel"
    exit_status = 2
    default_hint = "see docs/operators.md, 'Telling people'"


class ForbiddenTargetError(NoticeError):
    """A webhook leads to where it must not: this machine, its network, or no place at all."""

    kind = "forbidden-target"
    exit_status = 2
    default_hint = "notices.allow_networks in the server's configuration can allow it"


class DeliveryError(NoticeError):
    """The other side refused, or did not answer as it should."""

    kind = "delivery"
