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


def after_failure(failures: int, interval: int, draw: float, retry_after: float | None = None) -> float:
    """Seconds until the next try after so many failures in a row.

    Args:
        failures: at least 1.
        draw: uniform in [0, 1).
        retry_after: what the server asks for, in seconds; waited for in any case, up to a day.
    """
    limit = min(FIRST_RETRY_SECONDS << min(failures - 1, 20), max(interval, MAX_RETRY_SECONDS))
    return max(1.0, draw * limit) + min(retry_after or 0.0, MAX_ATTEMPT_SECONDS)


def before_attempt(attempts: int, interval: int) -> int:
    """Seconds after which a level that could not be loaded so many times is tried again: an interval, doubling up to a day."""
    return min(interval << min(attempts - 1, 20), MAX_ATTEMPT_SECONDS)
