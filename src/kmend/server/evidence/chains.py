"""Whether a host's reports follow on each other: each names the last one that the server had acknowledged (`wire.link`).

What a host says is signed, so a server can only leave a whole report out. The next one then follows on a report that is not
there. The last ones of a host can be left out unseen, and what an agent of an earlier version has sent, which names nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from kmend.core.wire import NO_LINK, CheckIn, link

DAY = 86_400
MAX_GAPS = 1000
"""So many are kept of a pack; all are counted."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Where at least one report of a host is missing.

    Attributes:
        after, before: counters of the reports on both sides; the first is 0 if there is none.
        since, until: their times, by the host's clock; the first is None if there is none.
    """

    host: str
    after: int
    before: int
    since: int | None
    until: int


@dataclass(slots=True)
class Chain:
    """One host's, as far as it was read.

    Attributes:
        since: when the period begins: what a host sent before that, but for its last report, is not in the pack.
        chained: reports that name what they follow.
        begun: how often it was begun anew, behind the first report.
    """

    host: str
    since: int
    chained: int = 0
    begun: int = 0
    gaps: list[Gap] = field(default_factory=list)
    _links: set[str] = field(default_factory=set)
    _last: tuple[int, int] | None = None

    def take(self, message: CheckIn, at: int, received_at: int) -> None:
        """The next report.

        Args:
            at: by the host's clock; received_at: by the server's, which could say anything.
        """
        self.chained += bool(message.after)
        if self._last is not None:
            self.begun += message.after == NO_LINK
        is_before = self._last is None and received_at < self.since and at < self.since + DAY
        if message.after not in ("", NO_LINK) and message.after not in self._links and not is_before:
            counter, when = self._last if self._last is not None else (0, None)
            self.gaps.append(Gap(self.host, counter, message.counter, when, at))
        # The same state may have been acknowledged once without the modules, if the answer to this one was lost.
        self._links |= {link(message), link(replace(message, module_report=None))}
        self._last = message.counter, at


@dataclass(slots=True)
class Chains:
    """Of all hosts.

    Attributes:
        whole: hosts whose reports all follow on each other.
        partly: hosts some of whose reports name nothing, without a gap.
        silent: hosts with reports of which none names anything.
        begun: hosts that have begun anew at some time.
        broken: hosts with gaps; missing: how many gaps; gaps: the first thousand.
    """

    whole: int = 0
    partly: int = 0
    silent: int = 0
    begun: int = 0
    broken: int = 0
    missing: int = 0
    gaps: list[Gap] = field(default_factory=list)

    def add(self, chain: Chain, reports: int) -> None:
        """A host whose reports are all read."""
        if not reports:
            return
        self.begun += bool(chain.begun)
        self.missing += len(chain.gaps)
        self.gaps += chain.gaps[: max(0, MAX_GAPS - len(self.gaps))]
        if chain.gaps:
            self.broken += 1
        elif not chain.chained:
            self.silent += 1
        elif chain.chained < reports:
            self.partly += 1
        else:
            self.whole += 1


def told(chains: Chains) -> str:
    """What was found, for people."""
    found = [f"the reports of {chains.whole} hosts follow on each other"]
    for count, what in (
        (chains.partly, "of {} only some, after an earlier agent"),
        (chains.silent, "{} have an agent that does not say what a report follows"),
        (chains.begun, "{} have lost their state and begun anew"),
    ):
        if count:
            found.append(what.format(count))
    return "; ".join(found)


def complaint(chains: Chains, names: Iterable[str]) -> str:
    """What is missing, for people; the first gaps by name."""
    return f"reports are missing, {chains.missing} times, of {chains.broken} hosts: {', '.join(names)}"
