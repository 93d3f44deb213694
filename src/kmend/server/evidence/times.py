"""Times in a pack, for people; some are a host's own word, and no calendar has all of them."""

from __future__ import annotations

import datetime


def day(seconds: int) -> str:
    """YYYY-MM-DD, UTC."""
    return _shown(seconds, "%Y-%m-%d")


def minute(seconds: int) -> str:
    """YYYY-MM-DD HH:MM, UTC."""
    return _shown(seconds, "%Y-%m-%d %H:%M")


def _shown(seconds: int, form: str) -> str:
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime(form)
    except (ValueError, OverflowError, OSError):
        return f"second {seconds}"
