"""Deadlines as rows: which framework wants what mended within how many hours, counted from when, and in which years that held.

A framework that changes gets another row, with the day from which it holds; nothing of it is code. The rows that come with kmend
are in `kmend.intel.frameworks`, an operator's own are read by `kmend.intel.rows`; which of them a ring stands under is its policy
(`kmend.intel.policies`).
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from kmend.intel.clocks import Clocks
from kmend.intel.feeds.bod import BodRow

DAY = 86_400


class Clock(str, enum.Enum):
    """From when hours are counted."""

    DISCLOSURE = "disclosure"
    """From when it was open here and published, the later. An evaluation, too: ours is made as a feed comes in."""
    FIX = "fix available"
    """From when something that closes it was there, or it was open here, the later."""
    LISTING = "known to be exploited"
    """From when CISA listed it, or it was open here, the later."""
    CISA_DUE = "CISA's due date"
    """From the beginning of the day that CISA's catalogue names; 24 hours are until its end."""


class Exploitation(str, enum.Enum):
    """SSVC's word for what is known of attacks."""

    NONE = "none"
    POC = "poc"
    ACTIVE = "active"


@dataclass(frozen=True, slots=True)
class Signals:
    """What is known of a CVE besides its ranges, and of where it stands.

    Attributes:
        kev_added: when CISA listed it, in seconds since 1970-01-01 UTC; None if it has not.
        kev_due: CISA's own due date; likewise.
        severity: 0 to 10, None if nobody has scored it.
        automatable, total: of SSVC; None if that is not known.
        exposed: the host can be reached from the internet; None if that is not known, which counts as yes.
        exploitation: of SSVC; None if nobody has assessed it.
        percentile: of EPSS, 0 to 1; None if it has none.
        ransomware: CISA knows of ransomware that uses it.
        forensic: CISA's catalogue wants traces secured before it is mended.
    """

    kev_added: int | None = None
    kev_due: int | None = None
    severity: float | None = None
    automatable: bool | None = None
    total: bool | None = None
    exposed: bool | None = None
    exploitation: Exploitation | None = None
    percentile: float | None = None
    ransomware: bool = False
    forensic: bool = False

    @property
    def working_exploit(self) -> bool:
        """Whether somebody is known to have one."""
        return self.kev_added is not None or self.exploitation in (Exploitation.POC, Exploitation.ACTIVE)


LIKELY_PERCENTILE = 0.9


@dataclass(frozen=True, slots=True)
class Row:
    """One deadline. A condition that is None asks for nothing.

    Attributes:
        name: of the framework and its clause.
        hours: until it must be closed; None: with the next upgrade of the system.
        least_severity: for a CVE that is at least so severe; one that nobody has scored counts as the worst, unless `unscored`
            is false.
        exploited: whether CISA lists it.
        working_exploit: whether somebody is known to have one: CISA lists it, or SSVC says `poc` or `active`.
        exposed: whether the host can be reached from the internet; not known counts as yes.
        automatable, total: of SSVC.
        likely: whether it is likely to be exploited; the ring's policy says what that is.
        forensic: traces are to be secured before it is mended.
        valid_from, valid_to: days on which it holds, the second one not any more.
        source: where it is written.
        second_hand: that text has not been read by those who wrote the row.
    """

    name: str
    hours: int | None
    clock: Clock
    least_severity: float = 0.0
    unscored: bool = True
    exploited: bool | None = None
    working_exploit: bool | None = None
    exposed: bool | None = None
    automatable: bool | None = None
    total: bool | None = None
    likely: bool | None = None
    forensic: bool = False
    valid_from: datetime.date = datetime.date.min
    valid_to: datetime.date = datetime.date.max
    source: str = ""
    second_hand: bool = False

    @property
    def condition(self) -> str:
        """What it is for, in words."""
        words = [text for value, text in (
            (self.exploited, "listed by CISA"), (self.working_exploit, "a working exploit is known"),
            (self.exposed, "internet exposed"), (self.automatable, "automatable"), (self.total, "total impact"),
            (self.likely, "likely exploitable"),
        ) if value]  # fmt: skip
        words += [text for value, text in (
            (self.exploited, "not listed by CISA"), (self.working_exploit, "no working exploit is known"),
            (self.exposed, "not internet exposed"), (self.automatable, "not automatable"), (self.total, "partial impact"),
            (self.likely, "not likely exploitable"),
        ) if value is False]  # fmt: skip
        if self.least_severity:
            words.append(f"severity {self.least_severity:g} or more" + (", or not scored" if self.unscored else ""))
        return "; ".join(words) or "every CVE"


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What counts where nobody knows; a policy says so.

    Attributes:
        automatable, total: what an answer of SSVC that nobody has given counts as. Second-hand sources disagree.
        likely: every CVE is likely to be exploited; else only one that CISA lists, that SSVC knows an exploit of, or that is in
            the upper tenth of EPSS.
        earlier: a listing's clock runs from the listing or from when it was open here, whichever is the earlier. That is what a
            second-hand source says of BOD 26-04; else from when both are true.
    """

    automatable: bool = False
    total: bool = True
    likely: bool = True
    earlier: bool = False


STANDARD = Assumptions()


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


def applying(
    rows: Iterable[Row], signals: Signals, clocks: Clocks, now: int, assumed: Assumptions = STANDARD
) -> tuple[Deadline, ...]:
    """The deadlines that hold for an open or closed CVE, the nearest first."""
    return due_by(concerning(rows, signals, now, assumed), signals, clocks, assumed)


def concerning(
    rows: Iterable[Row], signals: Signals, now: int, assumed: Assumptions = STANDARD
) -> tuple[tuple[Row, bool], ...]:
    """Rows that are about such a CVE and hold today, each with whether traces are to be secured.

    It needs no clock, so it is asked once for all hosts that are alike.
    """
    today = datetime.datetime.fromtimestamp(now, datetime.timezone.utc).date()
    return tuple(
        (row, row.forensic or (signals.forensic and row.exploited is True))
        for row in rows
        if row.valid_from <= today < row.valid_to and _concerns(row, signals, assumed)
    )


def due_by(
    rows: Iterable[tuple[Row, bool]], signals: Signals, clocks: Clocks, assumed: Assumptions = STANDARD
) -> tuple[Deadline, ...]:
    """Deadlines by rows that `concerning` has picked, the nearest first."""
    found = []
    since = clocks.open_since
    for row, forensic in rows if since is not None else ():
        bounds = running(row.clock, signals, clocks.fix_since, assumed)
        if bounds is not None and since is not None:
            begins = bounds.begins(since)
            due = None if row.hours is None else begins + row.hours * 3600
            found.append(Deadline(row.name, begins, due, forensic))
    return _sorted(found)


@dataclass(frozen=True, slots=True)
class Bounds:
    """When a clock begins, whenever the CVE was first open on a host: not before `least`, not after `most`."""

    least: int = 0
    most: int = 2**62

    def begins(self, open_since: int) -> int:
        """When it begins on one host."""
        return min(max(open_since, self.least), self.most)


def running(clock: Clock, signals: Signals, fix_since: int | None, assumed: Assumptions = STANDARD) -> Bounds | None:
    """How a clock runs for a CVE, on hosts for which the same has been there to close it; None if it does not."""
    if clock is Clock.LISTING:
        if signals.kev_added is None:
            return None
        return Bounds(most=signals.kev_added) if assumed.earlier else Bounds(signals.kev_added)
    if clock is Clock.CISA_DUE:
        return Bounds(signals.kev_due, signals.kev_due) if signals.kev_due is not None else None
    if clock is Clock.FIX:
        return Bounds(fix_since) if fix_since is not None else None
    return Bounds()


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
    assumed = replace(STANDARD, total=unknown_total)
    rows = [row for row in rows_of_directive(table, name) if _concerns(row, signals, assumed)]
    return next(iter(due_by(((row, row.forensic) for row in rows), signals, clocks, assumed)), None)


def rows_of_directive(
    table: Sequence[BodRow], name: str = "CISA BOD 26-04", *, valid_from: datetime.date = datetime.date(2026, 6, 10)
) -> tuple[Row, ...]:
    """Rows by CERT/CC's table of the directive."""
    return tuple(
        Row(
            name, None if row.days is None else row.days * 24, Clock.LISTING if row.in_kev else Clock.DISCLOSURE,
            exploited=row.in_kev, exposed=row.exposed, automatable=row.automatable, total=row.total, forensic=row.forensic,
            valid_from=valid_from, source="CERTCC/SSVC, cisa_bod_26_04_1_0_0.csv",
        )
        for row in table
    )  # fmt: skip


def _concerns(row: Row, signals: Signals, assumed: Assumptions) -> bool:
    asked = (
        (row.exploited, signals.kev_added is not None),
        (row.working_exploit, signals.working_exploit),
        (row.exposed, signals.exposed is not False),
        (row.automatable, assumed.automatable if signals.automatable is None else signals.automatable),
        (row.total, assumed.total if signals.total is None else signals.total),
        (row.likely, assumed.likely or is_likely(signals)),
    )
    if any(wanted is not None and wanted is not is_so for wanted, is_so in asked):
        return False
    if signals.severity is None:
        return row.unscored or not row.least_severity
    return signals.severity >= row.least_severity


def is_likely(signals: Signals) -> bool:
    """Whether what is known says that it is likely to be exploited."""
    return signals.working_exploit or (signals.percentile is not None and signals.percentile >= LIKELY_PERCENTILE)


def _sorted(found: Iterable[Deadline]) -> tuple[Deadline, ...]:
    return tuple(sorted(found, key=lambda item: (item.due is None, item.due or 0, item.name)))
