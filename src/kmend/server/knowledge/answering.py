"""Verdicts on hosts: of one CVE over the fleet, and of one host over all CVEs.

What a CVE means for a build is kept; a verdict is made of that, of what the host last reported, and of the levels that are
published, when somebody asks. Hosts of one build that run the same and may have the same share one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, case, func, select

from kmend.core.errors import MalformedError
from kmend.intel.applicability import Applicability, Build, Presence, Reason, judge
from kmend.intel.deadlines import Exploitation, Signals
from kmend.intel.effective import Effective, effective
from kmend.intel.ranges import fixed_in, read_dyad
from kmend.intel.uploads import branch_of
from kmend.intel.verdicts import ORDER, Level, Verdict, Word, verdict
from kmend.intel.versions import KernelVersion
from kmend.server.feeds import CHANGELOG, is_changelog, kind_of
from kmend.server.hosts.periods import ON_ITS_WAY
from kmend.server.knowledge import surroundings
from kmend.server.knowledge.changelogs import versions as changelogs
from kmend.server.knowledge.errors import NotKnownError
from kmend.server.knowledge.fixes import Fixes, Uploads, package_of
from kmend.server.knowledge.judging import build_of, kept, record_of
from kmend.server.rollouts import recalling
from kmend.server.store.tables import (
    applicability,
    cve_signals,
    cves,
    distro_fixes,
    feeds,
    hosts,
    kernel_facts,
    level_cves,
    ring_levels,
)

_ALIKE = (
    "build_id", "release", "ring", "level", "trying", "phase", "refuses", "barred", "absent", "sealed", "unpatched", "installed",
)  # fmt: skip
"""Hosts that do not differ in these columns have the same verdicts, but for what is loaded where some modules cannot be."""


@dataclass(frozen=True, slots=True)
class Group:
    """Hosts of which one thing is true.

    Attributes:
        hosts: how many.
    """

    verdict: Verdict
    release: str
    build_id: str
    ring: str
    level: int
    hosts: int


@dataclass(frozen=True, slots=True)
class HostVerdict:
    """A verdict on a host, with what it rests on besides the evidence.

    Attributes:
        feeds: name -> version and age in seconds of each feed that was asked.
        stale: feeds that are older than they may be.
        cvss: the CNA's vector; empty if it gives none.
        kev_added: when CISA listed it; None if it has not.
        signals: the same, and CISA's assessment, for `kmend.intel.deadlines`.
        exploitation: CISA's word for it, `none`, `poc` or `active`; empty if it has none.
    """

    verdict: Verdict
    title: str
    cvss: str
    kev_added: int | None
    epss: float | None
    signals: Signals
    exploitation: str
    feeds: Mapping[str, tuple[str, int]]
    stale: tuple[str, ...]


STALE_SECONDS = {
    "cna": 7 * 86_400, "debian": 7 * 86_400, "kev": 3 * 86_400, "epss": 7 * 86_400, "ssvc": 14 * 86_400,
}  # fmt: skip
"""A feed that is older makes verdicts stale, which is shown. CISA's table changes once in years, and is not among them."""
NEEDED = ("cna", "debian")
"""Without these, too."""


def of_cve(connection: Connection, cve: str, rings: Collection[str] = ()) -> tuple[Group, ...]:
    """How the fleet stands to a CVE, the worst verdicts last.

    Args:
        rings: only hosts of these; empty for all.

    Raises:
        NotKnownError: no feed, no level and no changelog names it.
    """
    if not is_known(connection, cve):
        raise NotKnownError(f"nothing that was imported names {cve[:40]}", hint="kmend-server feeds list")
    # Where everything can be loaded it does not matter what is, and nearly every host has a list of its own.
    loadable = (hosts.c.barred == "") & (hosts.c.absent == "") & hosts.c.sealed.is_(False)
    loaded = case((loadable, ""), else_=hosts.c.loaded).label("loaded")
    each = select(*(hosts.c[name] for name in _ALIKE), loaded).where(
        hosts.c.state == "enrolled", hosts.c.build_id != ""
    )
    if rings:
        each = each.where(hosts.c.ring.in_(sorted(rings)))
    alike = each.subquery()
    query = select(*alike.c, func.count().label("number")).group_by(*alike.c)
    found: dict[tuple[str, str, str, str, int], Group] = {}
    means: dict[str, Applicability] = {}
    desk = _Desk(connection, cve)
    for row in connection.execute(query).all():
        if row.build_id not in means:
            means[row.build_id] = meaning(connection, cve, row.build_id)
        answer = desk.verdict(means[row.build_id], row)
        key = (answer.word.value, answer.detail, row.build_id, row.ring, row.level)
        before = found.get(key)
        count = row.number + (before.hosts if before is not None else 0)
        found[key] = Group(answer, row.release, row.build_id, row.ring, row.level, count)
    return tuple(
        sorted(found.values(), key=lambda item: (ORDER[item.verdict.word], item.release, item.ring, item.level))
    )


def of_host(connection: Connection, host: str, now: int, cve: str = "") -> tuple[HostVerdict, ...]:
    """Verdicts on a host, the worst last; of one CVE, or of all that its kernel build has, or may have.

    Raises:
        NotKnownError: there is no such host, or its kernel's facts are not there.
    """
    row = connection.execute(select(hosts).where(hosts.c.id == host)).first()
    if row is None:
        raise NotKnownError(f"there is no host {host[:64]!r}", hint="kmend-server hosts list")
    if not row.build_id:
        raise NotKnownError(f"{row.name} has not said yet which kernel it runs")
    known = connection.execute(select(kernel_facts.c.build_id).where(kernel_facts.c.build_id == row.build_id)).first()
    if known is None and not cve:
        raise NotKnownError(
            f"nobody has looked into the kernel of {row.name}, {row.release}",
            hint=f"kmend-server feeds import facts debian:{row.release}",
        )
    if cve:
        if not is_known(connection, cve):
            raise NotKnownError(f"nothing that was imported names {cve[:40]}", hint="kmend-server feeds list")
        means = [meaning(connection, cve, row.build_id)]
    else:
        query = select(applicability).where(applicability.c.build_id == row.build_id)
        means = [kept(item) for item in connection.execute(query).all()]
    old, stale = ages(connection, now, package_of(connection, row.build_id))
    desk = _Desk(connection, cve)
    told = _rows(connection, select(cves.c.cve, cves.c.title, cves.c.cvss), cves.c.cve, row.build_id, cve)
    signals = _rows(connection, select(cve_signals), cve_signals.c.cve, row.build_id, cve)
    found = []
    for item in means:
        record, signal = told.get(item.cve), signals.get(item.cve)
        found.append(
            HostVerdict(
                desk.verdict(item, row),
                record.title if record is not None else "",
                record.cvss if record is not None else "",
                signal.kev_added if signal is not None else None,
                signal.epss if signal is not None else None,
                signals_of(signal),
                signal.ssvc_exploitation or "" if signal is not None else "",
                old,
                stale,
            )
        )
    return tuple(sorted(found, key=lambda item: (ORDER[item.verdict.word], item.verdict.cve)))


def ages(connection: Connection, now: int, package: str = "") -> tuple[dict[str, tuple[str, int]], tuple[str, ...]]:
    """Version and age in seconds of each feed that was imported; and which are missing, or older than they may be.

    Args:
        package: of the distro's changelogs only the one that speaks of this package, as `debian`; empty for all of them.
    """
    rows = connection.execute(select(feeds)).all()
    found = {row.name: (row.version, max(0, now - row.as_of)) for row in rows}
    if package:
        branch = Uploads(connection).changelog(package)
        speaking = [found[name] for name, version in changelogs(connection).items() if branch_of(version) == branch]
        found = {name: told for name, told in found.items() if not is_changelog(name)}
        if speaking:
            found[CHANGELOG] = speaking[0]
    old = [name for name, (_, age) in found.items() if age > STALE_SECONDS.get(kind_of(name), age)]
    there = {kind_of(name) for name in found}
    return found, tuple(old + [name for name in NEEDED if name not in there])


def signals_of(row: Any, severity: float | None = None) -> Signals:
    """What a row of `cve_signals` says, as deadlines and the ranking ask for it; None, where there is no row."""
    if row is None:
        return Signals(severity=severity)
    answers = {"yes": True, "no": False, "total": True, "partial": False}
    known = {item.value for item in Exploitation}
    return Signals(
        kev_added=row.kev_added,
        kev_due=row.kev_due,
        severity=severity,
        automatable=answers.get(row.ssvc_automatable or ""),
        total=answers.get(row.ssvc_impact or ""),
        exploitation=Exploitation(row.ssvc_exploitation) if row.ssvc_exploitation in known else None,
        percentile=row.percentile,
        ransomware=bool(row.ransomware),
        forensic=bool(row.forensic),
    )


def effective_of(connection: Connection, host: str, verdicts: Iterable[Verdict]) -> Effective | None:
    """The effective version of a host, of all its verdicts; None if its kernel or its release is not known."""
    package = connection.execute(
        select(kernel_facts.c.package).join_from(hosts, kernel_facts, kernel_facts.c.build_id == hosts.c.build_id)
        .where(hosts.c.id == host)
    ).scalar()  # fmt: skip
    if package is None:
        return None
    try:
        running = KernelVersion.of_package(package)
    except MalformedError:
        return None
    updates = _updates(connection, running)
    opened, patched = [], []
    for item in verdicts:
        if item.cve in updates:
            if item.open:
                opened.append(updates[item.cve])
            elif item.word is Word.LIVE_PATCHED:
                patched.append(updates[item.cve])
    return effective(running, opened, patched, max(updates.values(), default=running.update))


def _updates(connection: Connection, running: KernelVersion) -> dict[str, int]:
    """CVE -> the stable update of that branch that mends it, by the CNA, or else by the distro."""
    found: dict[str, int] = {}
    query = select(distro_fixes.c.cve, distro_fixes.c.stable).where(distro_fixes.c.stable != "")
    for row in connection.execute(query):
        release = KernelVersion.parse(row.stable)
        if release.branch == running.branch:
            found[row.cve] = min(release.update, found.get(row.cve, release.update))
    for row in connection.execute(
        select(cves.c.cve, cves.c.pairs).where(cves.c.pairs.contains(f":{running.branch[0]}."))
    ):
        mended = fixed_in(read_dyad(row.pairs), running.branch)
        if mended is not None:
            found[row.cve] = mended.update
    return found


class _Desk:
    """Makes verdicts; what several of them need is asked for once.

    Args:
        cve: that all of them are of; empty if they are of any.
    """

    def __init__(self, connection: Connection, cve: str) -> None:
        self._connection = connection
        self._cve = cve
        self._closing: dict[str, dict[str, dict[int, tuple[str, ...]]]] = {}
        self._surroundings = surroundings.Surroundings(connection)
        self._free: dict[tuple[str, str], int] = {}
        self._recalls: dict[tuple[str, int], str] = {}
        self._fixes = Fixes(connection, cve)
        self._packages: dict[str, str] = {}

    def verdict(self, means: Applicability, host: Any) -> Verdict:
        """What is true on a host (or on many that are alike), a row of `hosts`."""
        on_its_way = host.phase in ON_ITS_WAY and bool(host.trying)
        modules = means.presence is Presence.MODULE
        kernel = self._surroundings.of(host, host.trying if on_its_way else host.level, on_its_way, modules=modules)
        fix = self._fixes.of(self._package(host), means.cve)
        fixed = fix.package if fix is not None else ""
        ready = bool(fixed) and self._fixes.is_in(host.installed, means.cve)
        return verdict(means, kernel, self._levels(means.cve, host), fixed_in=fixed, ready=ready)

    def _package(self, host: Any) -> str:
        if host.build_id not in self._packages:
            self._packages[host.build_id] = package_of(self._connection, host.build_id)
        return self._packages[host.build_id]

    def _levels(self, cve: str, host: Any) -> list[Level]:
        """Levels that close it on the host's build, with who holds each of them back from this host."""
        closing = self._closing_of(host.build_id).get(cve, {})
        if not closing:
            return []
        refused = set(json.loads(host.refuses))
        free = max(self._free_in(host.build_id, host.ring), host.level)
        found = []
        for number, objects in closing.items():
            rules = tuple(
                rule for rule, holds in (("the host", number in refused), ("rollout", number > free)) if holds
            )
            blocked = self._recalled(host.build_id, number)
            found.append(Level(number, frozenset({cve}), {cve: objects}, withheld=rules, blocked=blocked))
        return found

    def _closing_of(self, build_id: str) -> dict[str, dict[int, tuple[str, ...]]]:
        """CVE -> level that closes it -> objects that it patches for that; none if it is not known."""
        if build_id not in self._closing:
            table = level_cves.c
            query = (
                select(table.cve, table.level, table.objects).where(table.build_id == build_id).order_by(table.level)
            )
            if self._cve:
                query = query.where(table.cve == self._cve)
            found: dict[str, dict[int, tuple[str, ...]]] = {}
            for row in self._connection.execute(query):
                found.setdefault(row.cve, {})[row.level] = tuple(json.loads(row.objects))
            self._closing[build_id] = found
        return self._closing[build_id]

    def _free_in(self, build_id: str, ring: str) -> int:
        if (build_id, ring) not in self._free:
            table = ring_levels.c
            query = select(table.level).where(table.build_id == build_id, table.ring == ring)
            self._free[build_id, ring] = self._connection.execute(query).scalar() or 0
        return self._free[build_id, ring]

    def _recalled(self, build_id: str, level: int) -> str:
        if (build_id, level) not in self._recalls:
            self._recalls[build_id, level] = recalling.of_level(self._connection, build_id, level)
        return self._recalls[build_id, level]


def _rows(
    connection: Connection, query: Select[Any], column: ColumnElement[str], build_id: str, cve: str
) -> dict[str, Any]:
    """CVE -> its row; of one CVE, or of all that a build has, or may have."""
    mine = select(applicability.c.cve).where(applicability.c.build_id == build_id)
    return {row.cve: row for row in connection.execute(query.where(column == cve if cve else column.in_(mine)))}


def is_known(connection: Connection, cve: str) -> bool:
    """Whether anything that was imported names a CVE."""
    for table in (cves, distro_fixes, level_cves):
        if connection.execute(select(table.c.cve).where(table.c.cve == cve).limit(1)).first() is not None:
            return True
    return False


def meaning(connection: Connection, cve: str, build_id: str) -> Applicability:
    """What a CVE means for a kernel build, also for one that nobody has looked into."""
    row = connection.execute(
        select(applicability).where(applicability.c.build_id == build_id, applicability.c.cve == cve)
    ).first()
    if row is not None:
        return kept(row)
    package = connection.execute(select(kernel_facts.c.package).where(kernel_facts.c.build_id == build_id)).scalar()
    if package is None:
        return Applicability(
            cve, None, Reason.NO_RECORD, Presence.UNKNOWN, (), ("nobody has looked into this kernel build",)
        )
    record = connection.execute(select(cves).where(cves.c.cve == cve)).first()
    if record is not None and not record.rejected:
        # What its release never had, or has mended, is not kept for each build: it takes no more than the ranges.
        found = judge(cve, record_of(record), Build(package, frozenset(), None))
        if found.reason is Reason.RELEASE:
            return found
    build = build_of(connection, build_id)
    if build is None or record is None or record.rejected:
        return judge(
            cve, None, build or Build(package, frozenset(), None), rejected=record is not None and record.rejected
        )
    return judge(cve, record_of(record), build)
