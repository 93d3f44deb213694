"""CVEs: how the fleet stands to one, what is true of one host, and how old the feeds are that say so."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
from litestar import Router, get
from litestar.di import NamedDependency
from litestar.params import PathParameter, QueryParameter
from sqlalchemy import select

from kmend.intel.applicability import RULES as APPLICABILITY_RULES
from kmend.intel.clocks import clocks
from kmend.intel.deadlines import Signals
from kmend.intel.verdicts import ORDER, RULES, Word
from kmend.server.access.permissions import Caller, Permission
from kmend.server.api import paging
from kmend.server.api.guarding import needs
from kmend.server.api.paging import Cursor, Limit
from kmend.server.api.routes.hosts import HostId, visible
from kmend.server.api.services import Services
from kmend.server.compliance import answers, exceptions
from kmend.server.feeds import place_of
from kmend.server.knowledge import (
    HostVerdict,
    Timeline,
    ages,
    effective_of,
    of_cve,
    of_host,
    signals_of,
    timeline_of,
    timelines_of_host,
)
from kmend.server.store import tables

CveId = Annotated[str, PathParameter(max_length=40)]


class GroupView(msgspec.Struct, frozen=True):
    """Hosts of which one thing is true of the CVE.

    Attributes:
        verdict: one of DESIGN's words; `open` unless a deadline ends with it.
        level: in force; 0 for none.
    """

    verdict: Word
    detail: str
    open: bool
    release: str
    build_id: str
    ring: str
    level: int
    hosts: int
    evidence: tuple[str, ...]


class CveView(msgspec.Struct, frozen=True):
    """A CVE and the fleet.

    Attributes:
        cvss: the CNA's vector, a worst case; empty where it gives none.
        kev_added, kev_due: seconds since 1970-01-01 UTC; null if CISA does not list it.
        ssvc: CISA's assessment: `exploitation`, `automatable`, `impact`, as far as it says; null if there is none.
        closed_by: kernel build -> levels that close it.
        stale: feeds that are missing, or older than they may be.
    """

    cve: str
    title: str
    cvss: str
    files: tuple[str, ...]
    rejected: bool
    kev_added: int | None
    kev_due: int | None
    epss: float | None
    ssvc: dict[str, str] | None
    closed_by: dict[str, tuple[int, ...]]
    exposed: int
    groups: tuple[GroupView, ...]
    stale: tuple[str, ...]
    rules: str


class VerdictView(msgspec.Struct, frozen=True):
    """What is true of a CVE on a host, and what that rests on.

    Attributes:
        ssvc: as above.
        feeds: name -> [version, age in seconds].
        stale: feeds that are missing, or older than they may be.
        published: when the CVE was, or else when this server first read of it; 0 if that is not known.
        since: since when the verdict holds.
        open_since: when it was first open on this host; null if it never was. A reboot does not set it back.
        fix_since: since when there has been something that closes it; null if there is nothing.
        closed_since: since when it has been closed; null while it is open.
        exposed: seconds in which it was open; reopened: how often it was closed and open again.
        rules, applicability_rules: versions of the rules by which this is said.
    """

    cve: str
    verdict: Word
    detail: str
    open: bool
    title: str
    cvss: str
    kev_added: int | None
    epss: float | None
    ssvc: dict[str, str] | None
    evidence: tuple[str, ...]
    feeds: dict[str, tuple[str, int]]
    stale: tuple[str, ...]
    published: int
    since: int | None
    open_since: int | None
    fix_since: int | None
    closed_since: int | None
    exposed: int
    reopened: int
    rules: str
    applicability_rules: str


class ChangeView(msgspec.Struct, frozen=True):
    """From then on a verdict held. `at` is in seconds since 1970-01-01 UTC."""

    at: int
    verdict: Word
    detail: str


class DeadlineView(msgspec.Struct, frozen=True):
    """By when the CVE is to be closed.

    Attributes:
        begins, due: seconds since 1970-01-01 UTC; `due` is null for the next upgrade of the system.
        overdue: it was not closed in time, or is not, and the time is over.
        forensic: traces are to be secured first.
    """

    name: str
    begins: int
    due: int | None
    overdue: bool
    forensic: bool


class ExplainedView(VerdictView, frozen=True):
    """The same, and what there is to know besides.

    Attributes:
        changes: which verdicts held before, oldest first; the last is the present one.
        deadlines: what the ring's policies want, the nearest first.
        accepted_until: until when an exception lies over it; null if none does.
    """

    changes: tuple[ChangeView, ...]
    deadlines: tuple[DeadlineView, ...]
    accepted_until: int | None


class HostCves(msgspec.Struct, frozen=True):
    """A page of a host's CVEs, the worst last; and how many there are of each verdict, on all pages.

    Attributes:
        next: the cursor of the page after this one; empty on the last.
        effective: the newest release whose fixes the host has, as far as they concern it, with `+partial` if it has some of
            later ones; empty if nobody has looked into its kernel.
    """

    effective: str
    counts: dict[str, int]
    stale: tuple[str, ...]
    items: tuple[VerdictView, ...]
    next: str = ""


class FeedView(msgspec.Struct, frozen=True):
    """A feed.

    Attributes:
        version: empty if it was not imported yet.
        age: seconds, of what it says; null likewise.
        stale: it is missing although verdicts need it, or older than it may be.
        aside: records that could not be read, and why; the first thousand.
        source: where it is fetched from by itself, without passwords; empty if it is only imported by hand.
        tried_age, checked_age: seconds since its source was asked last, and since that succeeded; null if it never was.
        next_at: when it is asked again, in seconds since 1970-01-01 UTC; null if it is not.
        failures: since it succeeded last; `error` and `hint` say why.
    """

    name: str
    version: str
    age: int | None
    stale: bool
    imported_at: int | None
    records: int
    aside_count: int
    aside: tuple[tuple[str, str], ...]
    source: str
    tried_age: int | None
    checked_age: int | None
    next_at: int | None
    failures: int
    error: str
    hint: str


@get("/cves/{cve:str}", opt=needs(Permission.READ), sync_to_thread=True)
def show_cve(services: NamedDependency[Services], caller: NamedDependency[Caller], cve: CveId) -> CveView:
    """How the fleet stands to a CVE: who is exposed, and what closes it."""
    with services.store.read() as connection:
        groups = of_cve(connection, cve, caller.rings)
        record = connection.execute(select(tables.cves).where(tables.cves.c.cve == cve)).first()
        signal = connection.execute(select(tables.cve_signals).where(tables.cve_signals.c.cve == cve)).first()
        _, stale = ages(connection, services.clock())
        closing = tables.level_cves.c
        rows = connection.execute(
            select(closing.build_id, closing.level).where(closing.cve == cve).order_by(closing.build_id, closing.level)
        ).all()
    closed_by: dict[str, tuple[int, ...]] = {}
    for row in rows:
        closed_by[row.build_id] = (*closed_by.get(row.build_id, ()), row.level)
    return CveView(
        cve=cve,
        title=record.title if record is not None else "",
        cvss=record.cvss if record is not None else "",
        files=tuple(json.loads(record.files)) if record is not None else (),
        rejected=record is not None and record.rejected,
        kev_added=signal.kev_added if signal is not None else None,
        kev_due=signal.kev_due if signal is not None else None,
        epss=signal.epss if signal is not None else None,
        ssvc=_assessment(signal.ssvc_exploitation or "", signals_of(signal)) if signal is not None else None,
        closed_by=closed_by,
        exposed=sum(group.hosts for group in groups if group.verdict.open),
        groups=tuple(
            GroupView(
                item.verdict.word, item.verdict.detail, item.verdict.open, item.release, item.build_id, item.ring,
                item.level, item.hosts, item.verdict.evidence,
            )
            for item in groups
        ),
        stale=stale,
        rules=RULES,
    )  # fmt: skip


@get("/hosts/{host:str}/cves", opt=needs(Permission.READ), sync_to_thread=True)
def cves_of_host(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    host: HostId,
    verdict: Annotated[Word | None, QueryParameter()] = None,
    limit: Limit = 100,
    cursor: Cursor = "",
) -> HostCves:
    """Every CVE that a host's kernel has, or may have, or has mended; with `verdict`, only those of which that is true."""
    after = paging.read_timed(cursor)
    with services.store.read() as connection:
        visible(connection, caller, host)
        now = services.clock()
        found = of_host(connection, host, now)
        rest = [item for item in found if verdict is None or item.verdict.word is verdict]
        if after is not None:
            rest = [item for item in rest if (ORDER[item.verdict.word], item.verdict.cve) > after]
        page = rest[:limit]
        before = timelines_of_host(connection, host, now, {item.verdict.cve for item in page})
        version = effective_of(connection, host, (item.verdict for item in found))
    counts: dict[str, int] = {}
    for item in found:
        counts[item.verdict.word.value] = counts.get(item.verdict.word.value, 0) + 1
    shown = tuple(VerdictView(**_view(item, before.get(item.verdict.cve, _NOTHING_BEFORE))) for item in page)
    last = page[-1].verdict if len(page) < len(rest) else None
    end = paging.write_cursor(ORDER[last.word], last.cve) if last is not None else ""
    return HostCves(str(version or ""), counts, found[0].stale if found else (), shown, end)


@get("/hosts/{host:str}/cves/{cve:str}", opt=needs(Permission.READ), sync_to_thread=True)
def explain_cve(
    services: NamedDependency[Services], caller: NamedDependency[Caller], host: HostId, cve: CveId
) -> ExplainedView:
    """What is true of one CVE on one host, with the whole chain of reasoning, and what was true before."""
    with services.store.read() as connection:
        ring = visible(connection, caller, host).ring
        now = services.clock()
        (found,) = of_host(connection, host, now, cve)
        before = timeline_of(connection, host, cve, now)
        wanted = answers.deadlines_of(connection, cve, ring, before.clocks, now)
        until = exceptions.lying_until(connection, cve, host, ring, now)
    changes = tuple(ChangeView(change.at, change.word, change.detail) for change in before.changes)
    deadlines = tuple(
        DeadlineView(item.name, item.begins, item.due, item.overdue(before.clocks, now), item.forensic)
        for item in wanted
    )
    return ExplainedView(**_view(found, before), changes=changes, deadlines=deadlines, accepted_until=until)


@get("/feeds", opt=needs(Permission.READ), sync_to_thread=True)
def list_feeds(services: NamedDependency[Services]) -> tuple[FeedView, ...]:
    """What was imported, how old it is, what of it could not be read, where it comes from, and what went wrong with that."""
    with services.store.read() as connection:
        imported = {row.name: row for row in connection.execute(select(tables.feeds))}
        tried = {row.name: row for row in connection.execute(select(tables.feed_sources))}
        _, stale = ages(connection, services.clock())
    configured = services.config.feeds.configured
    names = sorted({*imported, *configured, *(stale if configured or imported else ())})
    return tuple(_feed(name, services, imported.get(name), tried.get(name), name in stale) for name in names)


def _feed(name: str, services: Services, row: Any, source: Any, stale: bool) -> FeedView:
    now = services.clock()
    written = services.config.feeds.configured.get(name, "")

    def ago(moment: int | None) -> int | None:
        return max(0, now - moment) if moment is not None and written else None

    return FeedView(
        name=name,
        version=row.version if row is not None else "",
        age=max(0, now - row.as_of) if row is not None else None,
        stale=stale,
        imported_at=row.imported_at if row is not None else None,
        records=row.records if row is not None else 0,
        aside_count=row.aside_count if row is not None else 0,
        aside=tuple((str(item), str(why)) for item, why in json.loads(row.aside)) if row is not None else (),
        source=str(place_of(name, written)) if written else "",
        tried_age=ago(source.tried_at) if source is not None else None,
        checked_age=ago(source.checked_at) if source is not None else None,
        next_at=source.next_at if source is not None and written else None,
        failures=source.failures if source is not None and written else 0,
        error=source.error if source is not None and written else "",
        hint=source.hint if source is not None and written else "",
    )


_NOTHING_BEFORE = Timeline(0, (), clocks((), 0))
"""Of a host that was taken out as soon as it had come."""


def _view(item: HostVerdict, before: Timeline) -> dict[str, Any]:
    """The fields of a VerdictView."""
    found, told = item.verdict, before.clocks
    return {
        "cve": found.cve, "verdict": found.word, "detail": found.detail, "open": found.open, "title": item.title,
        "cvss": item.cvss, "kev_added": item.kev_added, "epss": item.epss,
        "ssvc": _assessment(item.exploitation, item.signals), "evidence": found.evidence,
        "feeds": dict(item.feeds), "stale": item.stale, "published": before.published, "since": told.since,
        "open_since": told.open_since, "fix_since": told.fix_since, "closed_since": told.closed_since,
        "exposed": told.exposed, "reopened": told.reopened, "rules": RULES, "applicability_rules": APPLICABILITY_RULES,
    }  # fmt: skip


def _assessment(exploitation: str, signals: Signals) -> dict[str, str] | None:
    said = {
        "exploitation": exploitation,
        "automatable": {True: "yes", False: "no", None: ""}[signals.automatable],
        "impact": {True: "total", False: "partial", None: ""}[signals.total],
    }
    return {name: word for name, word in said.items() if word} or None


router = Router("/", tags=["cves"], route_handlers=[show_cve, cves_of_host, explain_cve, list_feeds])
