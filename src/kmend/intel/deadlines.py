"""Deadlines as rows: which framework wants what mended within how many days, counted from when, and in which years that held.

A framework that changes gets another row, with the day from which it holds; nothing of it is code. Which rows a ring stands under
is the operator's.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kmend.intel.clocks import Clocks
from kmend.intel.feeds.bod import BodRow

DAY = 86_400


class Clock(str, enum.Enum):
    """From when days are counted."""

    DISCLOSURE = "disclosure"
    FIX = "fix available"
    LISTING = "known to be exploited"


@dataclass(frozen=True, slots=True)
class Signals:
    """What is known of a CVE besides its ranges, and of where it stands.

    Attributes:
        kev_added: when CISA listed it, in seconds since 1970-01-01 UTC; None if it has not.
        kev_due: CISA's own due date; likewise.
        severity: 0 to 10, None if nobody has scored it.
        automatable, total: of SSVC; None if that is not known.
        exposed: the host can be reached from the internet; None if that is not known, which counts as yes.
    """

    kev_added: int | None = None
    kev_due: int | None = None
    severity: float | None = None
    automatable: bool | None = None
    total: bool | None = None
    exposed: bool | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One deadline.

    Attributes:
        name: of the framework and its clause.
        hours: until it must be closed; None: with the next upgrade of the system.
        least_severity: for a CVE that is at least so severe; one that nobody has scored counts as the worst.
        exploited: only for one that is known to be exploited.
        exposed: only on a host that can be reached from the internet.
        valid_from, valid_to: days on which it holds, the second one not any more.
    """

    name: str
    hours: int | None
    clock: Clock
    least_severity: float = 0.0
    exploited: bool = False
    exposed: bool = False
    valid_from: datetime.date = datetime.date.min
    valid_to: datetime.date = datetime.date.max
    source: str = ""


@dataclass(frozen=True, slots=True)
class Deadline:
    """What a row means for one CVE on one host.

    Attributes:
        begins, due: seconds since 1970-01-01 UTC; `due` is None for the next upgrade.
        forensic: traces are to be secured before it is mended.
    """

    name: str
    begins: int
    due: int | None
    forensic: bool = False

    def overdue(self, clocks: Clocks, now: int) -> bool:
        """Whether it was not closed in time, or is not, and the time is over."""
        end = clocks.closed_since if clocks.closed_since is not None else now
        return self.due is not None and end > self.due


def applying(rows: Iterable[Row], signals: Signals, clocks: Clocks, now: int) -> tuple[Deadline, ...]:
    """The deadlines that hold for an open or closed CVE, the nearest first."""
    today = datetime.datetime.fromtimestamp(now, datetime.timezone.utc).date()
    found = []
    for row in rows:
        begins = _begins(row.clock, signals, clocks)
        if begins is None or not row.valid_from <= today < row.valid_to or not _concerns(row, signals):
            continue
        found.append(Deadline(row.name, begins, None if row.hours is None else begins + row.hours * 3600))
    return _sorted(found)


def of_directive(
    table: Sequence[BodRow],
    signals: Signals,
    clocks: Clocks,
    *,
    name: str = "CISA BOD 26-04",
    unknown_total: bool = True,
) -> Deadline | None:
    """CISA's BOD 26-04, which asks four questions; None while nothing is open.

    Args:
        unknown_total: what an impact that nobody has assessed counts as; second-hand sources disagree.
    """
    key = (
        signals.kev_added is not None,
        signals.exposed is not False,
        bool(signals.automatable),
        unknown_total if signals.total is None else signals.total,
    )
    row = next(row for row in table if (row.in_kev, row.exposed, row.automatable, row.total) == key)
    begins = _begins(Clock.LISTING, signals, clocks)
    begins = clocks.open_since if begins is None else begins
    if begins is None:
        return None
    return Deadline(name, begins, None if row.days is None else begins + row.days * DAY, row.forensic)


def _begins(clock: Clock, signals: Signals, clocks: Clocks) -> int | None:
    if clocks.open_since is None:
        return None
    if clock is Clock.LISTING:
        return max(signals.kev_added, clocks.open_since) if signals.kev_added is not None else None
    if clock is Clock.FIX:
        return max(clocks.fix_since, clocks.open_since) if clocks.fix_since is not None else None
    return clocks.open_since


def _concerns(row: Row, signals: Signals) -> bool:
    if row.exploited and signals.kev_added is None:
        return False
    if row.exposed and signals.exposed is False:
        return False
    return signals.severity is None or signals.severity >= row.least_severity


def _sorted(found: Iterable[Deadline]) -> tuple[Deadline, ...]:
    return tuple(sorted(found, key=lambda item: (item.due is None, item.due or 0, item.name)))


FRAMEWORKS: dict[str, tuple[Row, ...]] = {
    "pci-dss": (
        Row(
            "PCI DSS 4.0.1, 6.3.3: critical", 30 * 24, Clock.FIX, least_severity=9.0,
            valid_from=datetime.date(2024, 6, 11), source="6.3.3",
        ),
    ),
    "cyber-essentials": (
        Row("UK Cyber Essentials, A6.4: high and critical", 14 * 24, Clock.FIX, least_severity=7.0, source="A6.4, A6.5"),
    ),
    "cis": (Row("CIS Controls 8.1, 7.3 and 7.7", 30 * 24, Clock.FIX, source="7.3, 7.7"),),
    "essential-eight": (
        Row("ASD Essential Eight: exploited", 48, Clock.FIX, exploited=True, exposed=True, source="patch operating systems"),
        Row("ASD Essential Eight: reachable", 14 * 24, Clock.FIX, exposed=True, source="patch operating systems"),
        Row("ASD Essential Eight", 30 * 24, Clock.FIX, source="patch operating systems"),
    ),
}  # fmt: skip
"""Rows that come with kmend, by framework; an operator adds own ones. CISA's table and FedRAMP's are read from their own data."""
