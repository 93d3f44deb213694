"""What operators ask: what is overdue or will be, and which open CVE comes first."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from sqlalchemy import Connection, select

from kmend.intel.clocks import Clocks
from kmend.intel.deadlines import Deadline, Signals
from kmend.intel.forecast import Forecast, earliest, forecast
from kmend.intel.policies import deadlines
from kmend.intel.ranking import Candidate, Ranked, rank
from kmend.server.compliance import policies
from kmend.server.compliance.signals import of_cves
from kmend.server.compliance.standing import fleet
from kmend.server.store.tables import rings

DAY = 86_400


@dataclass(frozen=True, slots=True)
class Outlook:
    """A forecast.

    Attributes:
        hosts: that were asked about; unknown: of these, whose kernel nobody has looked into.
        rings_without: rings with open CVEs that stand under no policy.
        at: when the hosts were looked at, in seconds since 1970-01-01 UTC.
    """

    forecast: Forecast
    hosts: int
    unknown: int
    rings_without: tuple[str, ...]
    at: int


def forecast_of(connection: Connection, now: int, seen: Collection[str] = (), *, days: int) -> Outlook:
    """What is overdue, and what will be within so many days.

    Args:
        seen: only of these rings; empty for all.
    """
    found = fleet(connection, now, seen)
    by_ring = policies.by_ring(connection, seen)
    without = {item.ring for item in found.standing} - by_ring.keys()
    answer = forecast(found.standing, by_ring, now, within=days * DAY)
    return Outlook(answer, found.hosts, found.unknown, tuple(sorted(without)), found.at)


def ranked(connection: Connection, now: int, seen: Collection[str] = ()) -> tuple[Ranked, ...]:
    """The open CVEs of a fleet, the most pressing first. One that is accepted on every host that has it is not among them."""
    by_ring = policies.by_ring(connection, seen)
    candidates = []
    for item in fleet(connection, now, seen).open:
        hosts = sum(len(span.comings) for ring in item.rings for span in ring.spans)
        if not hosts:
            continue
        dates = [earliest(ring, by_ring.get(ring.ring, ()), now) for ring in item.rings]
        due = min((first for first, _ in dates if first is not None), default=None)
        signals = replace(item.rings[0].signals, exposed=_worst(ring.signals.exposed for ring in item.rings))
        candidates.append(
            Candidate(item.cve, signals, item.reach, item.easiest, hosts, due, sum(late for _, late in dates))
        )
    return rank(candidates, now)


def deadlines_of(connection: Connection, cve: str, ring: str, clocks: Clocks, now: int) -> tuple[Deadline, ...]:
    """What the policies of a host's ring want of a CVE on it, the nearest first."""
    exposed = connection.execute(select(rings.c.exposed).where(rings.c.name == ring)).scalar()
    signals = of_cves(connection, cve).get(cve, Signals())
    return deadlines(
        policies.by_ring(connection, (ring,)).get(ring, ()), replace(signals, exposed=exposed), clocks, now
    )


def _worst(answers: Iterable[bool | None]) -> bool | None:
    found = set(answers)
    return True if True in found else None if None in found else False
