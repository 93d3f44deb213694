"""What a pack says, for people: joined from its timelines and states, as a sample of CVE and host is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kmend.core.document import decode
from kmend.core.manifest import Levels
from kmend.server.evidence import documents, timelines
from kmend.server.evidence.documents import LEVELS, About, CveRow, HostRow, Meaning, Stay, Surroundings, Timeline
from kmend.server.evidence.errors import EvidenceError
from kmend.server.evidence.levels import cves_of_level
from kmend.server.evidence.reading import Reader
from kmend.server.evidence.times import day

DAY = 86_400
_NAMED = 5
TIMES = ("published", "detected", "fix_available", "closed_at")


@dataclass(frozen=True, slots=True)
class CveOnHost:
    """One CVE on one host; times in seconds since 1970-01-01 UTC, None for what is not known or has not been.

    Attributes:
        detected: the first report in the pack of a kernel that has it open.
        fix_available: when the first level that closes it was published.
        fixed_in: the distro's first package that has it mended.
        closed_at: None while it is open.
        mitigated: open, and by the last report no module that has the code can be loaded.
        since_published, since_fix: whole days from then until it was closed, or until the period ended.
    """

    host: str
    name: str
    cve: str
    published: int | None
    detected: int | None
    fix_available: int | None
    fixed_in: str
    closed_at: int | None
    closed_by: str
    reopened: int
    since_published: int | None
    since_fix: int | None
    open: bool
    mitigated: bool


def summary(about: About) -> dict[str, object]:
    """What a pack is of, for people."""
    return {
        "server": about.server,
        "period": f"{day(about.since)} to {day(about.until - 1)}",
        "ring": about.ring or "all",
        "made": f"{day(about.made_at)} for {about.made_by}",
        "hosts": about.hosts,
        "reports": about.reports,
        "inventory": f"{about.covered} of {about.inventory} machines have an agent that reports",
        "rules": about.rules,
        "audit log": f"{about.audit.number}:{about.audit.digest}",
        "reports are kept": f"{about.keep_days} days",
    }


def plain_row(value: object) -> dict[str, object]:
    """A value's members, for a table."""
    return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}  # type: ignore[arg-type]


def of_host(reader: Reader, wanted: str) -> Timeline:
    """A host's timeline.

    Raises:
        EvidenceError: there is no such host in the pack, or more than one has that name.
    """
    rows = _hosts(reader, wanted)
    if len(rows) > 1:
        ids = ", ".join(row.id for row in rows[:_NAMED])
        raise EvidenceError(f"{len(rows)} hosts have the name {wanted[:64]!r}", hint=f"name it by its ID: {ids}")
    for found in reader.rows(Timeline, documents.TIMELINES):
        if found.host == rows[0].id:
            return found
    raise EvidenceError(f"there is no timeline of host {wanted[:64]!r} in the pack")


def of_cve(reader: Reader, cve: str, wanted: str = "") -> Iterator[CveOnHost]:
    """How hosts stood to a CVE; those that it was never open on are left out.

    Args:
        wanted: only this host, by ID or name; empty for all.

    Raises:
        EvidenceError: nothing in the pack names the CVE, or there is no such host.
    """
    about = reader.about()
    told = {row.cve: row for row in reader.rows(CveRow, documents.CVES) if row.cve == cve}.get(cve)
    published = told.published if told is not None else None
    states, around = reader.states(), reader.surroundings()
    open_in = timelines.opened(
        lambda *key: [cve] if key in states and cve in states[key].open else (), lambda name: _changed(around, name)
    )
    means = {row.build_id: row for row in reader.rows(Meaning, documents.KERNELS) if row.cve == cve}
    fixed_in = {build_id: row.fixed_in for build_id, row in means.items()}
    fixes = _fixes(reader, cve)
    if told is None and not fixes and not fixed_in:
        raise EvidenceError(
            f"nothing in the pack names {cve[:40]}",
            hint="what no kernel that ran in the period has, and no level closes, is in no pack",
        )
    hosts = {row.id: row for row in _hosts(reader, wanted)}
    for found in reader.rows(Timeline, documents.TIMELINES):
        row = hosts.get(found.host)
        if row is None:
            continue
        how = timelines.closing(cve, found.stays, open_in)
        if how.detected is None:
            continue
        builds = [stay.build_id for stay in found.stays]
        fix = min((fixes[build_id] for build_id in builds if build_id in fixes), default=None)
        end = how.closed_at if how.closed_at is not None else min(about.until, about.made_at)
        package = next((fixed_in[item] for item in builds if item in fixed_in), "")
        yield CveOnHost(
            row.id, row.name, cve, published, how.detected, fix, package,
            how.closed_at, how.closed_by, how.reopened, _days(published, end), _days(fix, end), how.closed_at is None,
            how.closed_at is None and _is_mitigated(found.stays[-1], means, around),
        )  # fmt: skip


def _changed(around: Mapping[str, Surroundings], name: str) -> Surroundings:
    if name not in around:
        raise EvidenceError(f"the surroundings {name[:40]} are not in the pack")
    return around[name]


def _is_mitigated(stay: Stay, means: Mapping[str, Meaning], around: Mapping[str, Surroundings]) -> bool:
    item = means.get(stay.build_id)
    return item is not None and bool(stay.around) and timelines.is_mitigated(item, _changed(around, stay.around).around)


def _hosts(reader: Reader, wanted: str) -> list[HostRow]:
    rows = reader.rows(HostRow, documents.POPULATION)
    found = [row for row in rows if not wanted or wanted in (row.id, row.name)]
    if wanted and not found:
        raise EvidenceError(f"there is no host {wanted[:64]!r} in the pack")
    return found


def _fixes(reader: Reader, cve: str) -> dict[str, int]:
    """Kernel build -> when the first level that closes the CVE was published."""
    found: dict[str, int] = {}
    for name in reader.pack.parts(LEVELS):
        levels = decode(Levels, reader.pack.read(name))
        for record in levels.levels:
            if cve in cves_of_level(reader, levels.build_id, record.level):
                found[levels.build_id] = min(record.published, found.get(levels.build_id, record.published))
    return found


def _days(since: int | None, until: int) -> int | None:
    return max(0, until - since) // DAY if since is not None else None
