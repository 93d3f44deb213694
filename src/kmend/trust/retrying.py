"""Whether and when to ask again: exponential back-off with full jitter, and what the server says about it (Retry-After).

Full jitter (a uniform draw from zero to the bound) spreads hosts that failed together best; see M. Brooker, "Exponential Backoff
And Jitter", 2015. Only GET is ever sent, which may be repeated (RFC 9110, section 9.2.2).
"""

from __future__ import annotations

import datetime
from email.utils import parsedate_to_datetime

AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may pass; all others will be the same a moment later."""
FIRST_SECONDS = 0.5
LONGEST_SECONDS = 20.0
PATIENCE_SECONDS = 60.0
"""A server that wants a longer pause is not waited for within one command."""


def pause(attempt: int, draw: float, *, retry_after: float | None = None) -> float | None:
    """Seconds to wait before the next attempt; None if the server wants a longer pause than a command should wait.

    Args:
        attempt: how many attempts have failed, from 1.
        draw: a uniform random number in [0, 1).
        retry_after: what the server asks for, in seconds.
    """
    jitter: float = draw * min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(attempt - 1, 30))
    if retry_after is None:
        return jitter
    if retry_after > PATIENCE_SECONDS:
        return None
    # After what was asked for, not at it: all hosts were told the same.
    return retry_after + jitter


def read_retry_after(value: str, date: datetime.datetime | None, now: datetime.datetime) -> float | None:
    """Seconds that a Retry-After header (RFC 9110, section 10.2.3) asks for; None if it says nothing that can be read.

    Args:
        date: the answer's own date, which a date in the header is held against, so that a wrong clock here does no harm.
        now: this host's clock, if the answer has no date.
    """
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(int(text[:9]))
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return max(0.0, (moment - (date or now)).total_seconds())
