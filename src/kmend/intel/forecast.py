"""Which deadlines are missed, and which will be unless something is done.

Hosts are not gone through one by one. What tells hosts of a ring apart is since when a CVE has been open on them, and that is
when they came, or when the CVE did, whichever is later. So hosts are held as the sorted times of their coming, and how many of
them are late is found by bisection: the work grows with rings, CVEs and policies, and hardly with hosts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kmend.intel.deadlines import DAY, Bounds, Row, Signals, running
from kmend.intel.policies import Policy

BUCKETS = ((7, "0-7"), (14, "8-14"), (30, "15-30"), (90, "31-90"))
"""Days overdue, up to and with which; what is older is in the last one."""
OLDEST = ">90"
BUCKET_NAMES = (*(name for _, name in BUCKETS), OLDEST)


@dataclass(frozen=True, slots=True)
class Span:
    """Hosts on which a CVE is open, and for which the same is there to close it.

    Attributes:
        comings: when each first stood as one that has it, if it had been known; sorted.
        known: since when it is known; it has been open on a host since the later of both.
        fix_since: when something that closes it was first there; None if nothing is.
    """

    comings: Sequence[int]
    known: int
    fix_since: int | None


@dataclass(frozen=True, slots=True)
class Standing:
    """A CVE that is open in a ring.

    Attributes:
        accepted: hosts besides, for which an exception lies over it.
    """

    cve: str
    ring: str
    signals: Signals
    spans: tuple[Span, ...]
    accepted: int = 0


@dataclass(frozen=True, slots=True)
class Due:
    """Hosts of a ring on which a CVE is to be closed, by one row.

    Attributes:
        row: name of the deadline; of several rows of a policy the one that is nearest where the CVE has been open longest.
        due: the earliest, in seconds since 1970-01-01 UTC; latest: likewise, of those that are counted here.
        overdue: it was due before now.
        forensic: traces are to be secured first.
    """

    row: str
    cve: str
    ring: str
    hosts: int
    due: int
    latest: int
    overdue: bool
    forensic: bool


@dataclass(frozen=True, slots=True)
class Forecast:
    """The answer; hosts are counted once for each CVE and policy.

    Attributes:
        overdue: what should be closed, the oldest first.
        due: what will be due, the nearest first.
        buckets: row -> days overdue -> hosts times CVEs.
        later: hosts times CVEs that are due after that time; upgrade: with the next upgrade of the system.
        unbound: for which no clock of any policy runs.
        accepted: hosts times CVEs over which an exception lies.
    """

    overdue: tuple[Due, ...]
    due: tuple[Due, ...]
    buckets: Mapping[str, Mapping[str, int]]
    later: int = 0
    upgrade: int = 0
    unbound: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True)
class _Running:
    """A row whose clock runs.

    Attributes:
        seconds: from the clock's beginning until it is due.
    """

    row: Row
    forensic: bool
    bounds: Bounds
    seconds: int

    def due(self, open_since: int) -> int:
        return self.bounds.begins(open_since) + self.seconds

    def before(self, span: Span, moment: int) -> int:
        """On how many hosts it is due before a moment: always the first of them."""
        begun = moment - self.seconds
        if begun > self.bounds.most:
            return len(span.comings)
        if begun <= max(self.bounds.least, span.known):
            return 0
        return bisect_left(span.comings, begun)


class _Counts:
    """What adds up."""

    def __init__(self, now: int, within: int) -> None:
        self.now, self.end = now, now + within
        self.sums: dict[tuple[bool, str, str, str], Due] = {}
        self.buckets: dict[str, dict[str, int]] = {}
        self.later = self.upgrade = self.unbound = self.accepted = 0

    def add(self, item: Standing, span: Span, rows: Sequence[_Running]) -> None:
        """Count a span under one policy; what is due before a moment by any of its rows is due before it."""
        late = self._before(span, rows, self.now)
        soon = self._before(span, rows, self.end + 1)
        first = min(rows, key=lambda row: (row.due(max(span.comings[0], span.known)), row.row.name))
        self._put(item, span, rows, first, 0, late)
        self._put(item, span, rows, first, late, soon)
        self.later += len(span.comings) - soon
        if late:
            ages = self.buckets.setdefault(first.row.name, dict.fromkeys(BUCKET_NAMES, 0))
            rest = late
            for days, name in BUCKETS:
                older = self._before(span, rows, self.now - days * DAY)
                ages[name] += rest - older
                rest = older
            ages[OLDEST] += rest

    @staticmethod
    def _before(span: Span, rows: Sequence[_Running], moment: int) -> int:
        return max(row.before(span, moment) for row in rows)

    def _put(self, item: Standing, span: Span, rows: Sequence[_Running], first: _Running, begin: int, end: int) -> None:
        if begin == end:
            return
        earliest, latest = (
            min(row.due(max(span.comings[place], span.known)) for row in rows) for place in (begin, end - 1)
        )
        late = begin == 0 and earliest < self.now
        key = (late, first.row.name, item.cve, item.ring)
        before = self.sums.get(key)
        hosts = end - begin
        forensic = first.forensic
        if before is not None:
            hosts += before.hosts
            earliest, latest = min(earliest, before.due), max(latest, before.latest)
            forensic = forensic or before.forensic
        self.sums[key] = Due(first.row.name, item.cve, item.ring, hosts, earliest, latest, late, forensic)


def forecast(
    standing: Iterable[Standing], policies: Mapping[str, Sequence[Policy]], now: int, *, within: int
) -> Forecast:
    """What is overdue, and what will be within a time.

    Args:
        policies: ring -> what it stands under.
        within: seconds from now.
    """
    counts = _Counts(now, within)
    for item in standing:
        counts.accepted += item.accepted
        concerned = [(policy, policy.concerning(item.signals, now)) for policy in policies.get(item.ring, ())]
        for span in item.spans:
            if not span.comings:
                continue
            bound = False
            for policy, rows in concerned:
                found = [(row, forensic, running(row.clock, item.signals, span.fix_since, policy.assumed))
                         for row, forensic in rows]  # fmt: skip
                timed = [_Running(row, forensic, bounds, row.hours * 3600)
                         for row, forensic, bounds in found if bounds is not None and row.hours is not None]  # fmt: skip
                if timed:
                    counts.add(item, span, timed)
                elif any(bounds is not None for _, _, bounds in found):
                    counts.upgrade += len(span.comings)
                else:
                    continue
                bound = True
            if not bound:
                counts.unbound += len(span.comings)
    rows_found = sorted(counts.sums.values(), key=lambda item: (item.due, item.row, item.cve, item.ring))
    return Forecast(
        tuple(item for item in rows_found if item.overdue), tuple(item for item in rows_found if not item.overdue),
        counts.buckets, counts.later, counts.upgrade, counts.unbound, counts.accepted,
    )  # fmt: skip


def earliest(item: Standing, policies: Sequence[Policy], now: int) -> tuple[int | None, int]:
    """When a CVE is due first in a ring, by any policy, and on how many hosts it is overdue by some; None if there is no date."""
    first: int | None = None
    late = 0
    concerned = [(policy, policy.concerning(item.signals, now)) for policy in policies]
    for span in item.spans:
        rows = []
        for policy, of_policy in concerned:
            for row, forensic in of_policy:
                bounds = running(row.clock, item.signals, span.fix_since, policy.assumed)
                if bounds is not None and row.hours is not None:
                    rows.append(_Running(row, forensic, bounds, row.hours * 3600))
        if rows and span.comings:
            due = min(row.due(max(span.comings[0], span.known)) for row in rows)
            first = due if first is None else min(first, due)
            late += max(row.before(span, now) for row in rows)
    return first, late
