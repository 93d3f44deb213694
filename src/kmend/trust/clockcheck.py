"""What a wrong clock looks like from a repository, told apart from a repository that is old.

Three witnesses: the time that the online key has signed (proof that it is at least that late), the date in the server's answers
(unsigned: good for a hint, never for a decision to accept anything), and the validity of the server's certificate. Nothing
here changes what is accepted: what has expired by this host's clock is refused in any case, only the words differ.
"""

from __future__ import annotations

import datetime

from kmend.trust.certificates import EXPIRED, NOT_YET_VALID
from kmend.trust.errors import CertificateError, ClockError, ExpiredError, TrustError

TOLERANCE_SECONDS = 3600.0
_UNITS = ((365.25 * 86_400, "year"), (86_400, "day"), (3600, "hour"), (60, "minute"))


def behind(signed: int | None, now: float) -> ClockError | None:
    """The error if the repository was signed later than this host believes it is; None if not.

    Args:
        signed: the verified time of signing; None if the repository does not tell it.
        now: this host's clock. Both in seconds since 1970-01-01 UTC.
    """
    if signed is None or signed <= now + TOLERANCE_SECONDS:
        return None
    return ClockError(
        f"this host's clock is {spoken(signed - now)} behind, or more: the repository was signed at {utc(signed)}, but "
        f"this host's clock says {utc(now)}",
        hint="set the clock; with a clock that is behind, held-back updates cannot be told from current ones",
    )


def expired(text: str, *, now: float, server: float | None) -> TrustError:
    """The error for signed metadata whose time has passed by this host's clock.

    Args:
        text: which.
        server: the date of the server's answer, None if it gave none.
    """
    if server is not None and now - server > TOLERANCE_SECONDS:
        return ClockError(
            f"{text} by this host's clock, which is {spoken(now - server)} ahead of the server's: the server's clock says "
            f"{utc(server)}, this host's {utc(now)}",
            hint="set this host's clock and try again; if it is right, the server's is wrong and the repository is too old",
        )
    return ExpiredError(
        f"{text} (it is {utc(now)} by this host's clock)",
        hint="the publisher must refresh the repository (kmend-factory publish --refresh); or somebody serves a frozen copy, or "
        "this host's clock is ahead",
    )


def certificate(problem: CertificateError, *, now: float, signed: int | None) -> TrustError:
    """A better error for a certificate that is not valid at this host's time, if the clock is the likely cause.

    Args:
        signed: the latest verified time of signing that this host has seen; None if it has seen none.
    """
    proven = behind(signed, now)
    if proven is not None and problem.verify_code in (NOT_YET_VALID, EXPIRED):
        return proven
    if problem.verify_code == NOT_YET_VALID:
        return ClockError(
            f"{problem.message}, which says {utc(now)}: the clock is probably behind", hint="set this host's clock"
        )
    if problem.verify_code == EXPIRED:
        problem.hint = f"this host's clock says {utc(now)}; if that is right, the server needs a new certificate"
    return problem


def skew(now: float, server: float | None) -> str:
    """A remark if this host's clock and the server's are apart; empty if they agree or the server does not tell."""
    if server is None or abs(now - server) <= TOLERANCE_SECONDS:
        return ""
    direction = "ahead of" if now > server else "behind"
    return f"this host's clock ({utc(now)}) is {spoken(abs(now - server))} {direction} the server's ({utc(server)})"


def spoken(seconds: float) -> str:
    """A span of time in its largest unit: `1 year`, `3 days`, `90 seconds`."""
    for size, name in _UNITS:
        if seconds >= size * 0.99:
            count = round(seconds / size)
            return f"{count} {name}{'' if count == 1 else 's'}"
    return f"{round(seconds)} seconds"


def utc(moment: float) -> str:
    """A moment for people."""
    try:
        return datetime.datetime.fromtimestamp(moment, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return f"{moment:g} s after 1970"
