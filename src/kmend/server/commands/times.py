"""Times for people."""

from __future__ import annotations

import datetime

_UNITS = ((86_400 * 2, 86_400, "d"), (7200, 3600, "h"), (120, 60, "min"))


def moment(seconds: int | None) -> str:
    """A time as date and hour, UTC; empty for none."""
    if not seconds:
        return ""
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return f"second {seconds}"  # a host's own word may be beyond every calendar


def span(seconds: int) -> str:
    """A length of time in its largest fitting unit."""
    for least, unit, name in _UNITS:
        if seconds >= least:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"
