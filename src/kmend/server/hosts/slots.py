"""When a host is to check in: each has its own second within the interval, so that a fleet is spread evenly for good."""

from __future__ import annotations

import hashlib


def slot(host: str, interval: int) -> int:
    """The host's second within the interval."""
    return int.from_bytes(hashlib.sha256(f"slot {host}".encode()).digest()[:8], "big") % interval


def until_next(host: str, interval: int, now: int) -> int:
    """Seconds until the host's next turn: at least a tenth of the interval, so that it does not come twice in a row."""
    wait = (slot(host, interval) - now) % interval
    return wait + interval if wait < max(1, interval // 10) else wait
