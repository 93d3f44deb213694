"""Verdicts on hosts: of one CVE over the fleet, and of one host over all CVEs.

What a CVE means for a build is kept; a verdict is made of that, of what the host last reported, and of the levels that are
published, when somebody asks. Hosts of one build that run the same and may have the same share one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from kmend.intel.applicability import Applicability, Presence, Reason, judge
from kmend.intel.verdicts import ORDER, HostKernel, Level, Verdict, verdict
from kmend.server.knowledge.errors import NotKnownError
from kmend.server.knowledge.judging import build_of, kept, record_of
from kmend.server.store.tables import (
    applicability,
    cve_signals,
    cves,
    distro_fixes,
    feeds,
    hosts,
    kernel_facts,
    level_cves,
    level_fixes,
    recalls,
    ring_levels,
)

_ON_ITS_WAY = ("transitioning", "loading")


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
    """

    verdict: Verdict
    title: str
    cvss: str
    kev_added: int | None
    epss: float | None
    feeds: Mapping[str, tuple[str, int]]
    stale: tuple[str, ...]


STALE_SECONDS = {"cna": 7 * 86_400, "debian": 7 * 86_400, "kev": 3 * 86_400, "epss": 7 * 86_400}
"""A feed that is older makes verdicts stale, which is shown."""


def of_cve(connection: Connection, cve: str, rings: Collection[str] = ()) -> tuple[Group, ...]:
    """How the fleet stands to a CVE, the worst verdicts last.

    Args:
        rings: only hosts of these; empty for all.

    Raises:
        NotKnownError: no feed, no level and no changelog names it.
    """
    if not _is_known(connection, cve):
        raise NotKnownError(f"nothing that was imported names {cve[:40]}", hint="kmend-server feeds list")
    query = (
        select(hosts.c.build_id, hosts.c.release, hosts.c.ring, hosts.c.level, hosts.c.trying, hosts.c.phase, hosts.c.refuses,
               func.count().label("number"))
        .where(hosts.c.state == "enrolled", hosts.c.build_id != "")
        .group_by(hosts.c.build_id, hosts.c.release, hosts.c.ring, hosts.c.level, hosts.c.trying, hosts.c.phase, hosts.c.refuses)
    )  # fmt: skip
    if rings:
        query = query.where(hosts.c.ring.in_(sorted(rings)))
    found: dict[tuple[str, str, str, str, int], Group] = {}
    means: dict[str, Applicability] = {}
    for row in connection.execute(query).all():
        if row.build_id not in means:
            means[row.build_id] = _meaning(connection, cve, row.build_id)
        answer = _verdict(connection, means[row.build_id], row)
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
        if not _is_known(connection, cve):
            raise NotKnownError(f"nothing that was imported names {cve[:40]}", hint="kmend-server feeds list")
        means = [_meaning(connection, cve, row.build_id)]
    else:
        query = select(applicability).where(applicability.c.build_id == row.build_id)
        means = [kept(item) for item in connection.execute(query).all()]
    ages, stale = _ages(connection, now)
    found = []
    told = (
        {item.cve: item for item in connection.execute(select(cves.c.cve, cves.c.title, cves.c.cvss)).all()}
        if not cve
        else {}
    )
    signals = {item.cve: item for item in connection.execute(select(cve_signals)).all()} if not cve else {}
    for item in means:
        title = (
            told.get(item.cve)
            or connection.execute(select(cves.c.title, cves.c.cvss).where(cves.c.cve == item.cve)).first()
        )
        signal = signals.get(item.cve)
        if cve:
            signal = connection.execute(select(cve_signals).where(cve_signals.c.cve == item.cve)).first()
        found.append(
            HostVerdict(
                _verdict(connection, item, row),
                title.title if title is not None else "",
                title.cvss if title is not None else "",
                signal.kev_added if signal is not None else None,
                signal.epss if signal is not None else None,
                ages,
                stale,
            )
        )
    return tuple(sorted(found, key=lambda item: (ORDER[item.verdict.word], item.verdict.cve)))


def _is_known(connection: Connection, cve: str) -> bool:
    for table in (cves, distro_fixes, level_cves):
        if connection.execute(select(table.c.cve).where(table.c.cve == cve).limit(1)).first() is not None:
            return True
    return False


def _meaning(connection: Connection, cve: str, build_id: str) -> Applicability:
    row = connection.execute(
        select(applicability).where(applicability.c.build_id == build_id, applicability.c.cve == cve)
    ).first()
    if row is not None:
        return kept(row)
    build = build_of(connection, build_id)
    if build is None:
        return Applicability(
            cve, None, Reason.NO_RECORD, Presence.UNKNOWN, (), ("nobody has looked into this kernel build",)
        )
    record = connection.execute(select(cves).where(cves.c.cve == cve)).first()
    if record is None or not record.pairs:
        return judge(cve, None, build, rejected=record is not None and record.rejected)
    return judge(cve, record_of(record), build, rejected=record.rejected)


def _verdict(connection: Connection, means: Applicability, host: Any) -> Verdict:
    on_its_way = host.phase in _ON_ITS_WAY and bool(host.trying)
    kernel = HostKernel(host.trying if on_its_way else host.level, on_its_way)
    return verdict(means, kernel, _levels(connection, means.cve, host), fixed_in=_fixed_in(connection, means.cve, host))


def _levels(connection: Connection, cve: str, host: Any) -> list[Level]:
    """Levels that close it on the host's build, with who holds each of them back from this host."""
    numbers = connection.execute(
        select(level_cves.c.level).where(level_cves.c.build_id == host.build_id, level_cves.c.cve == cve)
    ).scalars()
    free = connection.execute(
        select(ring_levels.c.level).where(ring_levels.c.build_id == host.build_id, ring_levels.c.ring == host.ring)
    ).scalar()
    refused = set(json.loads(host.refuses))
    found = []
    for number in numbers.all():
        why = _recalled(connection, host.build_id, number)
        rules = tuple(
            rule
            for rule, holds in (("the host", number in refused), ("rollout", number > max(free or 0, host.level)))
            if holds
        )
        found.append(Level(number, frozenset({cve}), withheld=rules, blocked=why))
    return found


def _recalled(connection: Connection, build_id: str, level: int) -> str:
    fixes = select(level_fixes.c.fix).where(level_fixes.c.build_id == build_id, level_fixes.c.level == level)
    query = select(recalls.c.number).where(
        recalls.c.withdrawn_at.is_(None),
        ((recalls.c.build_id == build_id) & (recalls.c.level == level)) | recalls.c.fix.in_(fixes),
    )
    number = connection.execute(query.limit(1)).scalar()
    return f"recalled (recall {number})" if number is not None else ""


def _fixed_in(connection: Connection, cve: str, host: Any) -> str:
    query = select(distro_fixes.c.package).where(distro_fixes.c.cve == cve).order_by(distro_fixes.c.place).limit(1)
    return connection.execute(query).scalar() or ""


def _ages(connection: Connection, now: int) -> tuple[dict[str, tuple[str, int]], tuple[str, ...]]:
    rows = connection.execute(select(feeds)).all()
    ages = {row.name: (row.version, max(0, now - row.as_of)) for row in rows}
    missing = [name for name in ("cna", "debian") if name not in ages]
    return ages, tuple([name for name, (_, age) in ages.items() if age > STALE_SECONDS.get(name, 0)] + missing)
