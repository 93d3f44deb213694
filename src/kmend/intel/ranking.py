"""Which open CVE comes first. Not the one with the highest score: nearly every score of the kernel's CNA is high.

One question after the other, and the first that tells two CVEs apart decides: is it used in attacks; is its deadline near or
over; can its code be reached; what does closing it take; how likely are attacks; how severe is it; how many hosts have it. Each
answer is kept as a line, so that everybody can see why something stands where it stands.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass

from kmend.intel.deadlines import DAY, LIKELY_PERCENTILE, Exploitation, Signals
from kmend.intel.verdicts import Word

RULES = "kmend-ranking/1"
_NUMBER = re.compile(r"CVE-(\d+)-(\d+)")
_SOON = ((3, 1), (14, 2))
"""Days until it is due, and the step."""


class Reach(str, enum.Enum):
    """How near its code is to an attacker, at the worst host."""

    BUILT_IN = "built in"
    LOADED = "loaded"
    LOADABLE = "loadable"
    UNKNOWN = "unknown"


_REACH = {Reach.BUILT_IN: 0, Reach.LOADED: 0, Reach.LOADABLE: 1, Reach.UNKNOWN: 1}
_REACH_LINES = {
    Reach.BUILT_IN: "its code is built into the kernel",
    Reach.LOADED: "its code is in a module that is loaded",
    Reach.LOADABLE: "its code is in a module that may be loaded",
    Reach.UNKNOWN: "nobody knows whether its code is there",
}
_EFFORT = {
    Word.AVAILABLE: (0, "a level closes it, and nothing holds it back"),
    Word.PENDING: (0, "a level that closes it is on its way in"),
    Word.WITHHELD: (1, "a level closes it, and is held back"),
    Word.BLOCKED: (2, "the level that closes it is recalled"),
    Word.NEEDS_REBOOT: (3, "it takes a newer package, and a reboot"),
    Word.MITIGATED: (4, "it is mitigated, and nothing more is offered"),
    Word.UNKNOWN: (4, "nothing closes it yet"),
    Word.NO_FIX_YET: (4, "nothing closes it yet"),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An open CVE, over all hosts that were asked about.

    Attributes:
        reach: at the worst host.
        easiest: the verdict on some host that takes the least to close.
        hosts: on which it is open; overdue: of these, on which a deadline is missed.
        due: the earliest deadline, in seconds since 1970-01-01 UTC; None if there is none.
    """

    cve: str
    signals: Signals
    reach: Reach
    easiest: Word
    hosts: int
    due: int | None = None
    overdue: int = 0


@dataclass(frozen=True, slots=True)
class Ranked:
    """A CVE in its place.

    Attributes:
        place: from 1.
        reasons: a line for each question that was asked, in their order.
    """

    place: int
    candidate: Candidate
    reasons: tuple[str, ...]


def rank(candidates: Iterable[Candidate], now: int) -> tuple[Ranked, ...]:
    """Put open CVEs in order, the most pressing first; equal ones by their number, the newest first."""
    judged = []
    for item in candidates:
        steps = (
            _attacks(item.signals),
            _deadline(item, now),
            (_REACH[item.reach], _REACH_LINES[item.reach]),
            _EFFORT.get(item.easiest, (4, "nothing closes it yet")),
        )
        judged.append((tuple(step for step, _ in steps), item, tuple(line for _, line in steps)))
    judged.sort(key=lambda found: (found[0], _rest(found[1])))
    return tuple(Ranked(place, item, (*lines, *_more(item))) for place, (_, item, lines) in enumerate(judged, start=1))


def _attacks(signals: Signals) -> tuple[int, str]:
    if signals.kev_added is not None:
        if signals.ransomware:
            return 0, "CISA lists it, and knows of ransomware that uses it"
        return 1, "CISA lists it as exploited"
    if signals.exploitation is Exploitation.ACTIVE:
        return 2, "it is used in attacks, by SSVC"
    if signals.exploitation is Exploitation.POC:
        return 3, "an exploit has been published, by SSVC"
    if signals.percentile is not None and signals.percentile >= LIKELY_PERCENTILE:
        return 3, f"EPSS puts it above {signals.percentile:.0%} of all CVEs"
    return 4, "nobody is known to exploit it"


def _deadline(item: Candidate, now: int) -> tuple[int, str]:
    if item.due is None:
        return 4, "no deadline"
    if item.due < now:
        return 0, f"overdue on {item.overdue:,} hosts, at worst for {-(-(now - item.due) // DAY)} days"
    days = (item.due - now) // DAY
    line = f"due in {days} days" if days != 1 else "due in 1 day"
    return next((step for most, step in _SOON if item.due - now <= most * DAY), 3), line


def _rest(item: Candidate) -> tuple[float, float, int, int, int]:
    # No score is a decision of the CNA's, which has looked at it: after those that have one.
    percentile = item.signals.percentile if item.signals.percentile is not None else -1.0
    severity = item.signals.severity if item.signals.severity is not None else -1.0
    match = _NUMBER.match(item.cve)
    year, number = (int(match[1]), int(match[2])) if match is not None else (0, 0)
    return -percentile, -severity, -item.hosts, -year, -number


def _more(item: Candidate) -> tuple[str, ...]:
    signals = item.signals
    told = f"EPSS {signals.percentile:.0%}" if signals.percentile is not None else "no EPSS"
    scored = f"CVSS {signals.severity:.1f}" if signals.severity is not None else "not scored"
    return f"{told}, {scored}", f"open on {item.hosts:,} hosts"
