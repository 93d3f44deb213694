"""Which CVEs stand open in which ring, and since when; for a whole fleet at once.

Hosts that have run the same kernel builds and levels in the same order share a *path*, and what is true of one is true of all,
but for the times. CVEs that the same levels close, and that the distro has mended or has not, are of one *kind*, and share a
verdict. So verdicts are made for paths and kinds, by the rules that make all others; hosts are only counted.

Since when: a CVE has been open on a host since it first stood so that it has it, or since the CVE is known, the later, as
`kmend.server.knowledge.timeline` says it host by host. Where an answer for a kernel build was replaced by another one, the last
answer that is open and has none but closed ones before it counts, whichever build the host ran then.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, select

from kmend.intel.applicability import Applicability, Presence, Reason
from kmend.intel.deadlines import Signals
from kmend.intel.forecast import Span, Standing
from kmend.intel.ranking import Reach
from kmend.intel.verdicts import ORDER, HostKernel, Level, Verdict, Word, verdict
from kmend.server.compliance import exceptions
from kmend.server.compliance.exceptions import Lying
from kmend.server.compliance.signals import of_cves
from kmend.server.hosts.periods import COLUMNS
from kmend.server.hosts.periods import standing as standing_of
from kmend.server.knowledge.fixes import Fixes, package_of
from kmend.server.knowledge.timeline import published_of
from kmend.server.rollouts import recalling
from kmend.server.store.tables import (
    applicability,
    applicability_changes,
    host_periods,
    hosts,
    kernel_facts,
    level_cves,
    levels,
    ring_levels,
    rings,
)

_REACH = {Presence.BUILT_IN: Reach.BUILT_IN, Presence.MODULE: Reach.LOADABLE}
_WORST = (Reach.BUILT_IN, Reach.LOADED, Reach.UNKNOWN, Reach.LOADABLE)


@dataclass(frozen=True, slots=True)
class Open:
    """A CVE that stands open somewhere.

    Attributes:
        easiest: the verdict on some host that takes the least to close.
        hosts: on which it is open, accepted ones among them.
    """

    cve: str
    reach: Reach
    easiest: Word
    hosts: int
    rings: tuple[Standing, ...]


@dataclass(frozen=True, slots=True)
class Fleet:
    """The answer.

    Attributes:
        hosts: that were asked about; unknown: of these, whose kernel nobody has looked into, or who have not said which it is.
        at: when they were, in seconds since 1970-01-01 UTC.
    """

    open: tuple[Open, ...]
    hosts: int
    unknown: int
    at: int

    @property
    def standing(self) -> Iterable[Standing]:
        """Every CVE in every ring."""
        return itertools.chain.from_iterable(item.rings for item in self.open)


@dataclass(frozen=True, slots=True)
class _State:
    """How a host stands: its kernel build, the level in force (`held`), and that or the one on its way."""

    build_id: str
    level: int
    transition: bool
    held: int


@dataclass(frozen=True, slots=True)
class _Kind:
    """What verdicts on a CVE depend on, for one build."""

    closing: tuple[int, ...]
    affected: bool | None
    reason: Reason
    mended: bool


@dataclass(frozen=True, slots=True)
class _Path:
    """Where hosts are, and what they have run, the present last."""

    ring: str
    states: tuple[_State, ...]
    refuses: str


@dataclass(slots=True)
class _Crowd:
    """Hosts of one path, each with when it came into each state."""

    hosts: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)


@dataclass(slots=True)
class _Build:
    """What is known of a kernel build.

    Attributes:
        package: that it is of.
        kinds: kind -> CVEs that are of it; those that it does not have are in none.
        presence: CVE -> where its code is.
        opened: CVE -> since when an answer says that it is open, where one said otherwise before.
        first: CVE -> when a level that closes it was first published.
    """

    package: str
    kinds: dict[_Kind, list[str]]
    presence: dict[str, Presence]
    opened: dict[str, int]
    first: dict[str, int]


def fleet(connection: Connection, now: int, seen: Collection[str] = ()) -> Fleet:
    """Which CVEs stand open.

    Args:
        seen: only hosts of these rings; empty for all.
    """
    crowds, count, silent = _crowds(connection, seen)
    builds = {state.build_id for path in crowds for state in path.states}
    known = set(connection.execute(select(kernel_facts.c.build_id)).scalars())
    shelf = _Shelf(connection, sorted(builds & known), Fixes(connection), now)
    lying = exceptions.in_force(connection, now)
    unknown = silent
    # ring -> CVE -> (known since, fix since) -> (path, which of its states was the first that has it)
    found: dict[str, dict[str, dict[tuple[int, int | None], list[tuple[_Path, int]]]]] = {}
    easiest: dict[str, Word] = {}
    reach: dict[str, Reach] = {}
    for path, crowd in crowds.items():
        if path.states[-1].build_id not in known:
            unknown += len(crowd.hosts)
            continue
        words = shelf.words(path)
        for cve, (since, fixed, place) in shelf.beginnings(path, words).items():
            spans = found.setdefault(path.ring, {}).setdefault(cve, {})
            spans.setdefault((since, fixed), []).append((path, place))
        presence = shelf.builds[path.states[-1].build_id].presence
        for cve, word in words.items():
            if cve not in easiest or ORDER[word] < ORDER[easiest[cve]]:
                easiest[cve] = word
            near = _REACH.get(presence[cve], Reach.UNKNOWN)
            if cve not in reach or _WORST.index(near) < _WORST.index(reach[cve]):
                reach[cve] = near
    signals, exposed = of_cves(connection), _exposed(connection)
    times = _Times(crowds)
    by_cve: dict[str, list[Standing]] = {}
    counts: dict[str, int] = {}
    for ring in sorted(found):
        for cve, groups in found[ring].items():
            crowd_spans, accepted = times.spans(groups, lying.get(cve))
            here = replace(signals.get(cve, _NOTHING), exposed=exposed.get(ring))
            by_cve.setdefault(cve, []).append(Standing(cve, ring, here, crowd_spans, accepted))
            counts[cve] = counts.get(cve, 0) + accepted + sum(len(span.comings) for span in crowd_spans)
    return Fleet(
        tuple(Open(cve, reach[cve], easiest[cve], counts[cve], tuple(by_cve[cve])) for cve in sorted(by_cve)), count, unknown, now
    )  # fmt: skip


_NOTHING = Signals()


class _Shelf:
    """Kernel builds, each looked up once."""

    def __init__(self, connection: Connection, builds: Sequence[str], fixes: Fixes, now: int) -> None:
        self._connection = connection
        self._fixes = fixes
        self._now = now
        self._known = published_of(connection, fixes, "")
        self._recalled: dict[tuple[str, int], str] = {}
        self._open: dict[_State, frozenset[str]] = {}
        self._begun: dict[tuple[_State, ...], dict[str, tuple[int, int | None, int]]] = {}
        self._free = {
            (row.build_id, row.ring): row.level
            for row in connection.execute(select(ring_levels.c.build_id, ring_levels.c.ring, ring_levels.c.level))
        }
        self.builds = {build_id: self._build(build_id) for build_id in builds}

    def words(self, path: _Path) -> dict[str, Word]:
        """CVE -> the verdict on hosts of a path, for those that are open."""
        state = path.states[-1]
        free = max(self._free.get((state.build_id, path.ring), 0), state.held)
        refused = {int(word) for word in path.refuses.strip("[]").split(",") if word.strip()}
        found: dict[str, Word] = {}
        for kind, names in self.builds[state.build_id].kinds.items():
            there = [self._level(state.build_id, number, free, refused) for number in kind.closing]
            said = self._verdict(kind, state, there)
            if said.open:
                found.update(dict.fromkeys(names, said.word))
        return found

    def beginnings(self, path: _Path, words: Mapping[str, Word]) -> dict[str, tuple[int, int | None, int]]:
        """CVE -> since when it is known to be open here, since when something closes it, and in which state it was open first."""
        if path.states not in self._begun:
            self._begun[path.states] = self._begin(path, words)
        return self._begun[path.states]

    def _begin(self, path: _Path, words: Mapping[str, Word]) -> dict[str, tuple[int, int | None, int]]:
        left = set(words)
        found: dict[str, tuple[int, int | None, int]] = {}
        states = [state for state in path.states if state.build_id in self.builds]
        builds = [self.builds[name] for name in dict.fromkeys(state.build_id for state in states)]
        for place, state in enumerate(path.states):
            if state.build_id not in self.builds:
                continue
            opened = self.builds[state.build_id].opened
            for cve in left & self._open_in(state):
                having = [build for build in builds if cve in build.presence]
                offers = [build.first[cve] for build in having if cve in build.first]
                mended = (self._fixes.of(build.package, cve) for build in having)
                offers += [fix.at for fix in mended if fix is not None and fix.at <= self._now]
                since = max(self._known.get(cve, 0), opened.get(cve, 0))
                found[cve] = (since, min(offers, default=None), place)
            left -= found.keys()
        return found

    def _open_in(self, state: _State) -> frozenset[str]:
        if state not in self._open:
            names: list[str] = []
            for kind, of_kind in self.builds[state.build_id].kinds.items():
                there = [Level(number, frozenset({_ANY})) for number in kind.closing]
                if self._verdict(kind, state, there).open:
                    names += of_kind
            self._open[state] = frozenset(names)
        return self._open[state]

    @staticmethod
    def _verdict(kind: _Kind, state: _State, there: Sequence[Level]) -> Verdict:
        means = Applicability(_ANY, kind.affected, kind.reason, Presence.UNKNOWN)
        return verdict(
            means, HostKernel(state.level, state.transition), there, fixed_in="a package" if kind.mended else ""
        )

    def _level(self, build_id: str, number: int, free: int, refused: Collection[int]) -> Level:
        if (build_id, number) not in self._recalled:
            self._recalled[build_id, number] = recalling.of_level(self._connection, build_id, number)
        rules = tuple(rule for rule, holds in (("the host", number in refused), ("rollout", number > free)) if holds)
        return Level(number, frozenset({_ANY}), withheld=rules, blocked=self._recalled[build_id, number])

    def _build(self, build_id: str) -> _Build:
        package = package_of(self._connection, build_id)
        closing: dict[str, list[int]] = {}
        first: dict[str, int] = {}
        query = (
            select(level_cves.c.cve, level_cves.c.level, levels.c.published, levels.c.imported_at)
            .join_from(
                level_cves,
                levels,
                (levels.c.build_id == level_cves.c.build_id) & (levels.c.level == level_cves.c.level),
            )
            .where(level_cves.c.build_id == build_id)
            .order_by(level_cves.c.level)
        )
        for row in self._connection.execute(query):
            closing.setdefault(row.cve, []).append(row.level)
            at = min(row.published, row.imported_at)
            if at <= self._now:
                first[row.cve] = min(at, first.get(row.cve, at))
        kinds: dict[_Kind, list[str]] = {}
        presence: dict[str, Presence] = {}
        table = applicability.c
        means = select(table.cve, table.affected, table.reason, table.presence).where(table.build_id == build_id)
        for row in self._connection.execute(means):
            if row.affected is False:
                continue
            mended = self._fixes.of(package, row.cve) is not None
            kind = _Kind(tuple(closing.get(row.cve, ())), row.affected, Reason(row.reason), mended)
            kinds.setdefault(kind, []).append(row.cve)
            presence[row.cve] = Presence(row.presence)
        return _Build(package, kinds, presence, self._opened(build_id), first)

    def _opened(self, build_id: str) -> dict[str, int]:
        table = applicability_changes.c
        query = select(table.cve, table.until, table.affected).where(table.build_id == build_id).order_by(table.until)
        found: dict[str, int] = {}
        over: set[str] = set()
        for row in self._connection.execute(query):
            if row.affected is not False:
                over.add(row.cve)
            elif row.cve not in over:
                found[row.cve] = row.until
        return found


_ANY = "CVE"
"""Stands for every CVE of a kind."""


class _Times:
    """When hosts of paths came, sorted; what is asked twice is made once."""

    def __init__(self, crowds: Mapping[_Path, _Crowd]) -> None:
        self._crowds = crowds
        self._made: dict[tuple[tuple[_Path, int], ...], tuple[int, ...]] = {}

    def spans(
        self, groups: Mapping[tuple[int, int | None], Sequence[tuple[_Path, int]]], lying: Lying | None
    ) -> tuple[tuple[Span, ...], int]:
        """Spans of a CVE in a ring, and on how many hosts it is accepted."""
        found: list[Span] = []
        accepted = 0
        for (known, fix), parts in groups.items():
            if lying is None:
                comings = self._comings(tuple(parts))
            elif lying.covers_ring(parts[0][0].ring):
                accepted += sum(len(self._crowds[path].hosts) for path, _ in parts)
                continue
            else:
                left = [
                    times[place]
                    for path, place in parts
                    for host, times in self._crowds[path].hosts
                    if host not in lying.hosts
                ]
                accepted += sum(len(self._crowds[path].hosts) for path, _ in parts) - len(left)
                comings = tuple(sorted(left))
            if comings:
                found.append(Span(comings, known, fix))
        return tuple(found), accepted

    def _comings(self, parts: tuple[tuple[_Path, int], ...]) -> tuple[int, ...]:
        if parts not in self._made:
            times = (times[place] for path, place in parts for _, times in self._crowds[path].hosts)
            self._made[parts] = tuple(sorted(times))
        return self._made[parts]


def _crowds(connection: Connection, seen: Collection[str]) -> tuple[dict[_Path, _Crowd], int, int]:
    """Paths with their hosts; how many hosts there are, and how many of them have not said what they run."""
    columns = ("id", "enrolled_at", *COLUMNS)
    query = select(*(hosts.c[name] for name in columns)).where(hosts.c.state == "enrolled")
    periods = select(
        host_periods.c.host, host_periods.c.at, host_periods.c.state, host_periods.c.build_id, host_periods.c.level,
        host_periods.c.transition, host_periods.c.unpatched,
    ).order_by(host_periods.c.host, host_periods.c.at)  # fmt: skip
    if seen:
        query = query.where(hosts.c.ring.in_(sorted(seen)))
        periods = periods.where(host_periods.c.host.in_(select(hosts.c.id).where(hosts.c.ring.in_(sorted(seen)))))
    past: dict[str, list[tuple[_State, int]]] = {}
    for row in connection.execute(periods.execution_options(yield_per=5000)):
        if row.state == "enrolled":
            state = _state(row)
            past.setdefault(row.host, []).append((state, row.at))
    crowds: dict[_Path, _Crowd] = {}
    count = silent = 0
    for row in connection.execute(query):
        count += 1
        if not row.build_id:
            silent += 1
            continue
        own = past.get(row.id, [])
        present = standing_of(row)
        now = _state(present)
        if not own or own[-1][0] != now:
            own = [*own, (now, own[-1][1] if own else row.enrolled_at)]
        states: list[_State] = []
        times: list[int] = []
        for state, at in own:
            # Coming back to what it ran before brings no new beginning.
            if state not in states:
                states.append(state)
                times.append(at)
        if states[-1] != now:
            states.append(now)
            times.append(own[-1][1])
        path = _Path(row.ring, tuple(states), row.refuses)
        crowds.setdefault(path, _Crowd()).hosts.append((row.id, tuple(times)))
    return crowds, count, silent


def _state(row: Any) -> _State:
    # A level that the kernel has not patched everything with closes nothing for certain here; `explain` is exact.
    level = row.level if row.unpatched == "[]" else 0
    return _State(row.build_id, row.transition or level, bool(row.transition), level)


def _exposed(connection: Connection) -> dict[str, bool | None]:
    return {row.name: row.exposed for row in connection.execute(select(rings.c.name, rings.c.exposed))}
