"""What a ring stands under: several policies at once, each some framework's rows or an operator's own.

The rows of one policy are steps of one rule: of those that are about a CVE the nearest counts. Policies count beside each other.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

from kmend.intel.clocks import Clocks
from kmend.intel.deadlines import STANDARD, Assumptions, Deadline, Row, Signals, concerning, due_by


@dataclass(frozen=True, slots=True)
class Policy:
    """One of them.

    Attributes:
        framework: of `kmend.intel.frameworks`, or `own`.
        valid_from, valid_to: days on which the ring stands under it, the second one not any more.
        approved_by: who has approved it, for people.
        at: since when it is kept, in seconds since 1970-01-01 UTC.
    """

    id: str
    ring: str
    framework: str
    rows: tuple[Row, ...]
    assumed: Assumptions = STANDARD
    valid_from: datetime.date = datetime.date.min
    valid_to: datetime.date = datetime.date.max
    approved_by: str = ""
    at: int = 0

    def holds(self, now: int) -> bool:
        """Whether the ring stands under it today."""
        today = datetime.datetime.fromtimestamp(now, datetime.timezone.utc).date()
        return self.valid_from <= today < self.valid_to

    def concerning(self, signals: Signals, now: int) -> tuple[tuple[Row, bool], ...]:
        """Its rows that are about such a CVE, whatever its clocks; none on a day on which it does not hold."""
        return concerning(self.rows, signals, now, self.assumed) if self.holds(now) else ()

    def nearest(self, rows: Iterable[tuple[Row, bool]], signals: Signals, clocks: Clocks) -> Deadline | None:
        """The deadline that counts, of rows that `concerning` gave."""
        return next(iter(due_by(rows, signals, clocks, self.assumed)), None)


def deadlines(policies: Iterable[Policy], signals: Signals, clocks: Clocks, now: int) -> tuple[Deadline, ...]:
    """For a CVE on a host: what each policy wants, the nearest first."""
    found = [policy.nearest(policy.concerning(signals, now), signals, clocks) for policy in policies]
    return tuple(
        sorted(
            (item for item in found if item is not None), key=lambda item: (item.due is None, item.due or 0, item.name)
        )
    )
