"""When a host looks at the repository. Pure: identity, time and random numbers in, seconds out.

Each host has a slot of its own in every interval, by a digest of its machine ID, so that a fleet's checks are spread evenly and
stay so whatever happens to all hosts at once (a power cut, an upgrade). What fails is tried again after a random time whose
limit doubles (exponential back-off with full jitter), so that hosts that failed together do not come back together.
"""

from __future__ import annotations

import hashlib

FIRST_RETRY_SECONDS = 30
MAX_RETRY_SECONDS = 3600
START_SECONDS = 60
"""Within how long after its start a service looks that has not looked for an interval."""
MAX_ATTEMPT_SECONDS = 86_400
BOOTED_SECONDS = 10
CHECK_IN_RETRY_SECONDS, TRIED_RETRY_SECONDS = 900, 60
"""The longest pause between tries to reach the server; and while a level is being tried, when silence counts as failure."""
LEAST_CHECK_IN_SECONDS = 5
"""Between two check-ins, whatever the server says."""


def slot(machine_id: str, interval: int) -> int:
    """This host's second within each interval."""
    digest = hashlib.sha256(b"kmend check " + machine_id.strip().encode()).digest()
    return int.from_bytes(digest[:8], "big") % interval


def until_slot(now: int, interval: int, own: int) -> int:
    """Seconds from `now` (since 1970-01-01 UTC) to the next time that is this host's: 1 to `interval`."""
    return interval - (now - own) % interval


def until_first(now: int, last: int, interval: int, own: int, draw: float) -> float:
    """Seconds until a service that has just started looks at the repository.

    Args:
        last: when this host has looked last, 0 if it never has.
        draw: uniform in [0, 1).
    """
    if 0 < last <= now < last + interval:
        return until_slot(now, interval, own)
    return draw * min(START_SECONDS, interval) if last else 0


def until_check_in(draw: float, *, other_boot: bool) -> float:
    """Seconds until a service that has just started checks in at its server, which may be waiting for just that.

    Args:
        draw: uniform in [0, 1).
        other_boot: the host has been started since it checked in last.
    """
    return draw * (BOOTED_SECONDS if other_boot else START_SECONDS)


def after_failure(
    failures: int, interval: int, draw: float, retry_after: float | None = None, *, longest: int = 0
) -> float:
    """Seconds until the next try after so many failures in a row.

    Args:
        failures: at least 1.
        draw: uniform in [0, 1).
        retry_after: what the server asks for, in seconds; waited for in any case, up to a day.
        longest: the most that is waited besides; 0: an interval, or an hour if that is more.
    """
    limit = min(FIRST_RETRY_SECONDS << min(failures - 1, 20), longest or max(interval, MAX_RETRY_SECONDS))
    return max(1.0, draw * limit) + min(retry_after or 0.0, MAX_ATTEMPT_SECONDS)


def before_attempt(attempts: int, interval: int) -> int:
    """Seconds after which a level that could not be loaded so many times is tried again: an interval, doubling up to a day."""
    return min(interval << min(attempts - 1, 20), MAX_ATTEMPT_SECONDS)
