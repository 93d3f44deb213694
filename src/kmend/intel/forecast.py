"""Which deadlines are missed, and which will be unless something is done.

Hosts of a ring on which a CVE has been open equally long are one *span*: they are counted, not gone through. So the work grows
with rings, CVEs and different clocks, and not with hosts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kmend.intel.clocks import Clocks
from kmend.intel.deadlines import DAY, Signals
from kmend.intel.policies import Policy

BUCKETS = ((7, "0-7"), (14, "8-14"), (30, "15-30"), (90, "31-90"))
"""Days overdue, up to and with which; what is older is in the last one."""
OLDEST = ">90"
BUCKET_NAMES = (*(name for _, name in BUCKETS), OLDEST)


@dataclass(frozen=True, slots=True)
class Span:
    """Hosts on which a CVE has been open equally long.

    Attributes:
        open_since, fix_since: as of `kmend.intel.clocks.Clocks`.
    """

    open_since: int
    fix_since: int | None
    hosts: int


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
        row: name of the deadline.
        due: the earliest, in seconds since 1970-01-01 UTC; latest: likewise.
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
    """The answer; hosts are counted once for each CVE and row.

    Attributes:
        overdue: what should be closed, the oldest first.
        due: what will be due, the nearest first.
        buckets: row -> days overdue -> hosts times CVEs.
        later: hosts times CVEs that are due after that time; upgrade: with the next upgrade of the system; unbound: under no row.
        accepted: hosts times CVEs over which an exception lies.
    """

    overdue: tuple[Due, ...]
    due: tuple[Due, ...]
    buckets: Mapping[str, Mapping[str, int]]
    later: int = 0
    upgrade: int = 0
    unbound: int = 0
    accepted: int = 0


@dataclass(slots=True)
class _Sum:
    hosts: int
    earliest: int
    latest: int
    forensic: bool


def forecast(
    standing: Iterable[Standing], policies: Mapping[str, Sequence[Policy]], now: int, *, within: int
) -> Forecast:
    """What is overdue, and what will be within a time.

    Args:
        policies: ring -> what it stands under.
        within: seconds from now.
    """
    sums: dict[tuple[bool, str, str, str], _Sum] = {}
    buckets: dict[str, dict[str, int]] = {}
    later = upgrade = unbound = accepted = 0
    for item in standing:
        accepted += item.accepted
        hosts_here = sum(span.hosts for span in item.spans)
        bound = False
        for policy in policies.get(item.ring, ()):
            rows = policy.concerning(item.signals, now)
            for span in item.spans if rows else ():
                clocks = Clocks(span.open_since, span.fix_since, None, 0, 0)
                found = policy.nearest(rows, item.signals, clocks)
                if found is None:
                    continue
                bound = True
                if found.due is None:
                    upgrade += span.hosts
                    continue
                if found.due > now + within:
                    later += span.hosts
                    continue
                late = found.due < now
                _add(sums, (late, found.name, item.cve, item.ring), span.hosts, found.due, found.forensic)
                if late:
                    by_age = buckets.setdefault(found.name, dict.fromkeys(BUCKET_NAMES, 0))
                    by_age[bucket(now - found.due)] += span.hosts
        if not bound:
            unbound += hosts_here
    rows_found = [
        Due(row, cve, ring, item.hosts, item.earliest, item.latest, late, item.forensic)
        for (late, row, cve, ring), item in sums.items()
    ]
    rows_found.sort(key=lambda item: (item.due, item.row, item.cve, item.ring))
    return Forecast(
        tuple(item for item in rows_found if item.overdue), tuple(item for item in rows_found if not item.overdue),
        buckets, later, upgrade, unbound, accepted,
    )  # fmt: skip


def bucket(seconds: int) -> str:
    """The bucket of what has been overdue for so long; a day that has begun counts."""
    days = -(-seconds // DAY)
    return next((name for most, name in BUCKETS if days <= most), OLDEST)


def _add(
    sums: dict[tuple[bool, str, str, str], _Sum], key: tuple[bool, str, str, str], hosts: int, due: int, forensic: bool
) -> None:
    known = sums.get(key)
    if known is None:
        sums[key] = _Sum(hosts, due, due, forensic)
        return
    known.hosts += hosts
    known.earliest, known.latest = min(known.earliest, due), max(known.latest, due)
    known.forensic = known.forensic or forensic
