"""Since when verdicts hold, and both clocks of every CVE: a host's history, made of what is kept of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from kmend.intel.applicability import Applicability, Presence, Reason
from kmend.intel.clocks import Change, Clocks
from kmend.intel.timeline import Answer, History, LevelStory, Period, Story
from kmend.server.hosts.periods import Standing, standing
from kmend.server.knowledge.answering import is_known, meaning
from kmend.server.knowledge.errors import NotKnownError
from kmend.server.knowledge.fixes import Fixes, package_of
from kmend.server.knowledge.surroundings import Surroundings
from kmend.server.rollouts import recalling
from kmend.server.store.tables import (
    applicability,
    applicability_changes,
    cves,
    host_periods,
    hosts,
    kernel_facts,
    level_cves,
    levels,
    reports,
    ring_levels,
    ring_releases,
)

_ANY = "CVE"
"""Stands for every CVE: what is alike is told once."""
_NEVER = Applicability(_ANY, False, Reason.RELEASE, Presence.UNKNOWN)
_NOBODY_KNOWS = Applicability(_ANY, None, Reason.NO_RECORD, Presence.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Timeline:
    """One CVE on one host.

    Attributes:
        published: when it was; or, where no record says so, when this server first read of it; 0 if it never has.
        changes: from when on which verdict held, oldest first.
    """

    published: int
    changes: tuple[Change, ...]
    clocks: Clocks


def changes_of(connection: Connection, host: str, cve: str, now: int) -> tuple[Change, ...]:
    """From when on which verdict on a CVE held on a host, oldest first; empty if the host has never said what it runs.

    Raises:
        NotKnownError: there is no such host, or nothing names the CVE.
    """
    return timeline_of(connection, host, cve, now).changes


def clocks_of_host(connection: Connection, host: str, now: int) -> Mapping[str, Clocks]:
    """Both clocks of every CVE that a host's kernel builds have, or may have, or have mended.

    Raises:
        NotKnownError: there is no such host.
    """
    return {cve: found.clocks for cve, found in timelines_of_host(connection, host, now).items()}


def timeline_of(connection: Connection, host: str, cve: str, now: int) -> Timeline:
    """One CVE on one host.

    Raises:
        NotKnownError: there is no such host, or nothing names the CVE.
    """
    if not is_known(connection, cve):
        raise NotKnownError(f"nothing that was imported names {cve[:40]}", hint="kmend-server feeds list")
    book = _Book(connection, host, now, cve)
    means = {build_id: meaning(connection, cve, build_id) for build_id in book.history.builds}
    return book.timeline(cve, means)


def timelines_of_host(
    connection: Connection, host: str, now: int, only: Collection[str] | None = None
) -> Mapping[str, Timeline]:
    """CVE -> what became of it on a host: of every CVE that its kernel builds have, or may have, or have mended.

    Args:
        only: of these, as far as they are among them; None for all.

    Raises:
        NotKnownError: there is no such host.
    """
    book = _Book(connection, host, now)
    means = {build_id: _present(connection, build_id) for build_id in book.history.builds}
    looked_into = set(
        connection.execute(select(kernel_facts.c.build_id).where(kernel_facts.c.build_id.in_(means))).scalars()
    )
    # What is kept of a build is what its release has; of a CVE that others have, its record says that this one has not.
    absent = {build_id: _NEVER if build_id in looked_into else _NOBODY_KNOWS for build_id in means}
    names = {cve for found in means.values() for cve in found} | book.named
    return {
        cve: book.timeline(cve, {build_id: found.get(cve, absent[build_id]) for build_id, found in means.items()})
        for cve in sorted(names if only is None else names & set(only))
    }


class _Book:
    """What is kept of one host, read once.

    Args:
        cve: that is asked of; empty for all.
    """

    def __init__(self, connection: Connection, host: str, now: int, cve: str = "") -> None:
        periods = _periods(connection, host)
        builds = sorted({period.build_id for period in periods})
        self.history = History(periods, {build_id: _levels(connection, build_id) for build_id in builds}, now)
        # Which modules hold the code matters only where the host has said that some cannot be loaded, or are not patched.
        self._modules = any(period.kernel.modules is not None for period in periods)
        self._unpatched = any(period.kernel.unpatched for period in periods)
        self._former = _former(connection, builds, cve)
        self._closing = {build_id: _closing(connection, build_id, cve) for build_id in builds}
        self._fixes = Fixes(connection, cve)
        self._packages = {build_id: package_of(connection, build_id) for build_id in builds}
        self._published = published_of(connection, self._fixes, cve)

    @property
    def named(self) -> set[str]:
        """CVEs of which something else was said before."""
        return {cve for former in self._former.values() for cve in former}

    def timeline(self, cve: str, means: Mapping[str, Applicability]) -> Timeline:
        """What became of a CVE that means this for the host's builds."""
        stories = {build_id: self._story(cve, build_id, found) for build_id, found in means.items()}
        published = self._published.get(cve, 0)
        changes = self.history.changes(stories)
        return Timeline(published, changes, self.history.clocks(stories, published, changes))

    def _story(self, cve: str, build_id: str, found: Applicability) -> Story:
        fix = self._fixes.of(self._packages[build_id], cve)
        answers = (*self._former[build_id].get(cve, ()), Answer(None, found))
        closing = self._closing[build_id].get(cve, {})
        return Story(
            tuple(Answer(item.until, self._bare(item.found)) for item in answers),
            tuple(closing),
            fix.package if fix is not None else "",
            fix.at if fix is not None else 0,
            tuple(closing.values()) if self._unpatched else (),
        )

    def _bare(self, found: Applicability) -> Applicability:
        """An answer without what no verdict depends on, so that many are alike."""
        objects = found.objects if (self._modules or self._unpatched) and found.presence is Presence.MODULE else ()
        complete = found.complete and bool(objects)
        return Applicability(_ANY, found.affected, found.reason, found.presence, objects, complete=complete)


def _periods(connection: Connection, host: str) -> tuple[Period, ...]:
    row = connection.execute(select(hosts).where(hosts.c.id == host)).first()
    if row is None:
        raise NotKnownError(f"there is no host {host[:64]!r}", hint="kmend-server hosts list")
    query = select(host_periods).where(host_periods.c.host == host).order_by(host_periods.c.at)
    kept = [(item.at, _standing(item)) for item in connection.execute(query)]
    present = standing(row)
    if present.build_id and (not kept or kept[-1][1] != present):
        # A server of an earlier version has taken that report.
        told = connection.execute(select(func.max(reports.c.received_at)).where(reports.c.host == host)).scalar()
        at = told if told is not None else row.enrolled_at
        kept.append((max(at, kept[-1][0] if kept else at), present))
    around = Surroundings(connection)
    return tuple(_period(at, item, around) for at, item in kept)


def _standing(row: Any) -> Standing:
    return Standing(
        row.state, row.ring, row.boot_id, row.build_id, row.level, row.transition, row.refuses, row.loaded, row.barred,
        row.absent, row.sealed, row.unpatched,
    )  # fmt: skip


def _period(at: int, item: Standing, around: Surroundings) -> Period:
    kernel = around.of(item, item.transition or item.level, bool(item.transition), modules=True)
    refuses = frozenset(int(level) for level in json.loads(item.refuses))
    return Period(at, item.build_id, item.ring, kernel, item.level, refuses, gone=item.state != "enrolled")


def _levels(connection: Connection, build_id: str) -> tuple[LevelStory, ...]:
    freed: dict[int, dict[str, int]] = {}
    for table in (ring_releases, ring_levels):
        query = select(table.c.ring, table.c.level, table.c.since).where(table.c.build_id == build_id)
        for row in connection.execute(query):
            rings = freed.setdefault(row.level, {})
            rings[row.ring] = min(row.since, rings.get(row.ring, row.since))
    recalled = recalling.history(connection, build_id)
    query = select(levels.c.level, levels.c.published, levels.c.imported_at).where(levels.c.build_id == build_id)
    return tuple(
        LevelStory(
            row.level, min(row.published, row.imported_at), freed.get(row.level, {}), recalled.get(row.level, ())
        )
        for row in connection.execute(query.order_by(levels.c.level)).all()
    )


def _closing(connection: Connection, build_id: str, cve: str) -> dict[str, dict[int, tuple[str, ...]]]:
    """CVE -> level that closes it -> objects that it patches for that; none if it is not known."""
    table = level_cves.c
    query = select(table.cve, table.level, table.objects).where(table.build_id == build_id).order_by(table.level)
    found: dict[str, dict[int, tuple[str, ...]]] = {}
    for row in connection.execute(query.where(table.cve == cve) if cve else query):
        found.setdefault(row.cve, {})[row.level] = tuple(json.loads(row.objects))
    return found


def _former(connection: Connection, builds: Sequence[str], cve: str) -> dict[str, dict[str, tuple[Answer, ...]]]:
    """Kernel build -> CVE -> answers that others have replaced, oldest first."""
    found: dict[str, dict[str, tuple[Answer, ...]]] = {build_id: {} for build_id in builds}
    table = applicability_changes.c
    query = select(applicability_changes).where(table.build_id.in_(builds)).order_by(table.until)
    for row in connection.execute(query.where(table.cve == cve) if cve else query):
        before = found[row.build_id].get(row.cve, ())
        found[row.build_id][row.cve] = (*before, Answer(row.until, _answer(row)))
    return found


def _present(connection: Connection, build_id: str) -> dict[str, Applicability]:
    """CVE -> what is kept of it for a build, without the evidence."""
    table = applicability.c
    query = select(table.cve, table.affected, table.reason, table.presence, table.objects, table.complete)
    return {row.cve: _answer(row) for row in connection.execute(query.where(table.build_id == build_id))}


def _answer(row: Any) -> Applicability:
    presence = Presence(row.presence)
    objects = tuple(json.loads(row.objects)) if presence is Presence.MODULE else ()
    return Applicability(
        row.cve, row.affected, Reason(row.reason), presence, objects, complete=row.complete and bool(objects)
    )


def published_of(connection: Connection, fixes: Fixes, cve: str) -> dict[str, int]:
    """CVE -> when it was published, or else when this server first read of it."""
    found = fixes.first_named()
    table = cves.c
    query = select(table.cve, table.published_at, table.first_seen_at)
    for row in connection.execute(query.where(table.cve == cve) if cve else query):
        if row.published_at is not None:
            found[row.cve] = row.published_at
        elif row.first_seen_at is not None:
            found[row.cve] = min(row.first_seen_at, found.get(row.cve, row.first_seen_at))
    return found
