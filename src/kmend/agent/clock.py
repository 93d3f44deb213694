"""Time as the agent uses it: wall clock for records, uptime for delays (it is right even if somebody sets the clock)."""

from __future__ import annotations

import time


class Clock:
    """The real time; tests have their own."""

    def now(self) -> int:
        """Seconds since 1970-01-01 UTC."""
        return int(time.time())

    def uptime(self) -> float:
        """Seconds since boot, suspended time included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)
