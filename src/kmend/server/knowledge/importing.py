"""Feeds come in: what has changed is written, in portions, so that check-ins find the database free in between."""

from __future__ import annotations

import datetime
import functools
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from kmend.core.document import encode
from kmend.core.errors import MalformedError
from kmend.core.facts import KernelFacts
from kmend.core.kernel import KernelRef
from kmend.intel.feeds import Aside, BodRow, Cna, CveRecord, DebianRelease, Epss, Kev, Ssvc
from kmend.intel.ranges import Pair
from kmend.intel.uploads import branch_of
from kmend.server import notices
from kmend.server.knowledge import changelogs, telling
from kmend.server.notices import Event
from kmend.server.store import Store
from kmend.server.store.tables import (
    cve_signals,
    cves,
    directive_rows,
    distro_fixes,
    distro_uploads,
    feeds,
    kernel_facts,
)

PORTION = 250
KEPT_ASIDE = 1000
CNA, KEV, EPSS, SSVC, BOD = "cna", "kev", "epss", "ssvc", "bod"


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import has changed.

    Attributes:
        changed: CVEs of which something is known that was not, or not so.
        rejected: those of them that were taken back.
        aside: records that could not be read.
        added: those of `changed` of which nothing was known before, and that were not taken back.
        moved: there are other uploads than before, so that answers may be others although no CVE is.
    """

    feed: str
    records: int
    changed: tuple[str, ...]
    rejected: tuple[str, ...] = ()
    aside: int = 0
    added: tuple[str, ...] = ()
    moved: bool = False


def import_cna(
    store: Store, tree: Cna, *, version: str, as_of: int, now: int, touched: Collection[str] | None = None
) -> Imported:
    """The kernel CNA's tree. A record that is not there any more, and was not rejected, stays as it was.

    Args:
        touched: the tree holds these CVEs alone, as far as they are still there; None: it is whole.
    """
    with store.read() as connection:
        known = {row.cve: row for row in connection.execute(select(cves))}
        aside = _aside(connection, CNA, tree.aside, touched)
    rows = {cve: _row(record, known.get(cve), now) for cve, record in tree.records.items()}
    changed = [cve for cve, row in rows.items() if cve not in known or not _same(known[cve], row)]
    rejected = [cve for cve in sorted(tree.rejected) if cve not in known or not known[cve].rejected]
    empty = {"title": "", "cvss": "", "files": "[]", "commits": "[]", "pairs": ""}
    gone = {**empty, "rejected": True, "changed_at": now, "published_at": None, "first_seen_at": now}
    rows |= {cve: {"cve": cve, **gone} for cve in rejected}
    fresh = [rows[cve] for cve in (*changed, *rejected) if cve not in known]
    _portions(store, fresh, lambda connection, portion: connection.execute(insert(cves), portion))
    other = [
        (cve, {"rejected": True, "changed_at": now} if cve in tree.rejected else rows[cve])
        for cve in (*changed, *rejected)
        if cve in known
    ]

    def put(connection: Connection, portion: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        for cve, values in portion:
            kept = {name: value for name, value in values.items() if name != "first_seen_at"}
            connection.execute(update(cves).where(cves.c.cve == cve).values(**{**kept, "cve": cve}))

    _portions(store, other, put)
    with store.read() as connection:
        count = connection.execute(
            select(func.count()).select_from(cves).where(cves.c.rejected.is_(False))
        ).scalar_one()
    _told(store, CNA, version, as_of, now, len(tree.records) if touched is None else count, aside)
    added = tuple(cve for cve in changed if cve not in known)
    return Imported(CNA, len(tree.records), (*changed, *rejected), tuple(rejected), len(tree.aside), added)


def import_changelog(
    store: Store, releases: Sequence[DebianRelease], *, as_of: int, now: int, name: str = ""
) -> Imported:
    """A changelog of Debian's kernel. It takes the place of the one of the same branch; others stay as they are.

    Args:
        name: as what it is kept among the feeds; empty: the name that one of this branch has already, or a new one.

    Raises:
        MalformedError: its newest upload is of no release of Linux.
    """
    branch = branch_of(releases[0].version)
    if not branch:
        raise MalformedError(f"the newest upload, {releases[0].version[:60]}, is of no release of Linux")
    places = {release.version: place for place, release in enumerate(reversed(releases), start=1)}
    wanted = {
        (release.version, fix.cve): (place, fix.stable, release.uploaded_at)
        for place, release in enumerate(reversed(releases), start=1)
        for fix in release.fixes
    }
    with store.read() as connection:
        name = name or changelogs.name_for(connection, branch)
        rows_before = connection.execute(select(distro_fixes).where(distro_fixes.c.branch == branch)).all()
        query = select(distro_uploads.c.package, distro_uploads.c.place).where(distro_uploads.c.branch == branch)
        places_before = {row.package: row.place for row in connection.execute(query)}
    known = {(row.package, row.cve): (row.place, row.stable, row.uploaded_at) for row in rows_before}
    seen = {(row.package, row.cve): row.seen_at for row in rows_before}
    changed = sorted({cve for key, values in wanted.items() if known.get(key) != values for cve in key[1:]})
    gone = sorted({cve for key in known.keys() - wanted.keys() for cve in key[1:]})
    moved = places != places_before
    if changed or gone or moved:
        rows = [
            {
                "branch": branch, "package": package, "cve": cve, "place": place, "stable": stable, "uploaded_at": uploaded,
                "seen_at": seen.get((package, cve), now),
            }
            for (package, cve), (place, stable, uploaded) in wanted.items()
        ]  # fmt: skip

        def replace(connection: Connection) -> None:
            # Rows without a branch are of a server of an earlier version, which knew one changelog alone.
            connection.execute(delete(distro_fixes).where(distro_fixes.c.branch.in_((branch, ""))))
            connection.execute(delete(distro_uploads).where(distro_uploads.c.branch == branch))
            uploads = [{"branch": branch, "package": package, "place": place} for package, place in places.items()]
            connection.execute(insert(distro_uploads), uploads)
            if rows:
                connection.execute(insert(distro_fixes), rows)

        store.transact(replace)
    _told(store, name, releases[0].version, as_of, now, len(wanted), ())
    store.transact(lambda connection: changelogs.only(connection, name, branch))
    return Imported(name, len(wanted), tuple(sorted({*changed, *gone})), moved=moved)


def forget_changelog(store: Store, name: str) -> None:
    """Take a changelog out; builds that it spoke of have to be judged anew."""

    def forget(connection: Connection) -> None:
        branch = branch_of(changelogs.versions(connection).get(name, ""))
        for table in (distro_fixes, distro_uploads):
            connection.execute(delete(table).where(table.c.branch == branch))
        connection.execute(delete(feeds).where(feeds.c.name == name))

    store.transact(forget)


def import_kev(store: Store, catalogue: Kev, *, now: int) -> Imported:
    """CISA's catalogue; what it does not list any more is not listed here either.

    People are told of CVEs that it lists newly and that stand open in the fleet, in the transaction that writes these.
    """
    wanted = {
        cve: {
            "kev_added": _midnight(entry.added),
            "kev_due": _midnight(entry.due),
            "forensic": entry.forensic,
            "ransomware": entry.ransomware,
        }
        for cve, entry in catalogue.entries.items()
    }
    none: dict[str, object] = {"kev_added": None, "kev_due": None, "forensic": None, "ransomware": None}
    with store.read() as connection:
        fresh = wanted.keys() - telling.exploited(connection, wanted)
        notice = telling.of_listed(connection, fresh)
    changed: tuple[str, ...] = ()
    if notice is not None:
        first = {cve: wanted[cve] for cve in fresh}

        def tell(connection: Connection) -> None:
            _put_signals(connection, first)
            notices.post(connection, Event.CVE_EXPLOITED, notice.subject, notice.body, now)

        store.transact(tell)
        changed = tuple(first)
    changed = tuple(sorted({*changed, *_signals(store, wanted, none)}))
    _told(store, KEV, catalogue.version, catalogue.released or now, now, len(wanted), catalogue.aside)
    return Imported(KEV, len(wanted), changed, aside=len(catalogue.aside))


def import_epss(store: Store, scores: Epss, *, as_of: int, now: int) -> Imported:
    """FIRST's scores, of CVEs that the CNA's tree has; the feed's version is that of the model.

    Nobody is told of a score that has jumped: a new model moves all of them.
    """
    with store.read() as connection:
        ours = set(connection.execute(select(cves.c.cve)).scalars())
    wanted = {
        cve: {"epss": score, "percentile": percentile}
        for cve, (score, percentile) in scores.scores.items()
        if cve in ours
    }
    changed = _signals(store, wanted, {"epss": None, "percentile": None})
    _told(store, EPSS, scores.model or scores.date, as_of, now, len(wanted), scores.aside)
    return Imported(EPSS, len(wanted), changed, aside=len(scores.aside))


def import_ssvc(
    store: Store, found: Ssvc, *, version: str, as_of: int, now: int, touched: Collection[str] | None = None
) -> Imported:
    """CISA's assessments, of CVEs that the CNA's tree has.

    Args:
        touched: these CVEs alone were looked at; None: all.
    """
    with store.read() as connection:
        ours = set(connection.execute(select(cves.c.cve)).scalars())
        aside = _aside(connection, SSVC, [item for item in found.aside if item.name in ours], touched)
    # One that cannot be read is set aside, and what was known of it stays.
    held = {item.name for item in found.aside}
    wanted = {
        cve: {"ssvc_exploitation": item.exploitation, "ssvc_automatable": item.automatable, "ssvc_impact": item.impact}
        for cve, item in found.decisions.items()
        if cve in ours
    }
    none: dict[str, object] = {"ssvc_exploitation": None, "ssvc_automatable": None, "ssvc_impact": None}
    changed = _signals(store, wanted, none, lambda cve: cve not in held and (touched is None or cve in touched))
    with store.read() as connection:
        query = select(func.count()).select_from(cve_signals).where(cve_signals.c.ssvc_exploitation.is_not(None))
        count = connection.execute(query).scalar_one()
    _told(store, SSVC, version, as_of, now, count, aside)
    return Imported(SSVC, len(wanted), changed, aside=len(aside))


def import_bod(store: Store, rows: Sequence[BodRow], *, version: str, now: int) -> Imported:
    """CISA's table of BOD 26-04."""

    def replace(connection: Connection) -> None:
        connection.execute(delete(directive_rows))
        connection.execute(insert(directive_rows), [asdict(row) for row in rows])

    store.transact(replace)
    _told(store, BOD, version, now, now, len(rows), ())
    return Imported(BOD, len(rows), ())


def directive(connection: Connection) -> tuple[BodRow, ...]:
    """CISA's table, as it was imported; empty if it was not."""
    return tuple(
        BodRow(row.in_kev, row.exposed, row.automatable, row.total, row.days, row.forensic)
        for row in connection.execute(select(directive_rows))
    )


def import_facts(store: Store, facts: KernelFacts, *, now: int) -> str:
    """The facts of a kernel build; returns its build ID.

    Raises:
        MalformedError: they do not say of which package the build is.
    """
    package = KernelRef.parse(facts.kernel.ref).package
    if package is None:
        raise MalformedError(f"the facts of {facts.kernel.ref} do not name a package version")
    build_id = facts.kernel.build_id
    row = {"package": package, "imported_at": now, "facts": zlib.compress(encode(facts), 6)}

    def put(connection: Connection) -> None:
        own = kernel_facts.c.build_id == build_id
        if not connection.execute(update(kernel_facts).where(own).values(**row)).rowcount:
            connection.execute(insert(kernel_facts).values(build_id=build_id, **row))

    store.transact(put)
    return build_id


def written(pairs: Iterable[Pair]) -> str:
    """Pairs as lines of a .dyad file."""
    return "\n".join(
        f"{pair.introduced or 0}:{pair.introduced_by or 0}:{pair.fixed or 0}:{pair.fixed_by or 0}" for pair in pairs
    )


def _row(record: CveRecord, known: Any, now: int) -> dict[str, Any]:
    published = record.published_at
    if published is None and known is not None:
        published = known.published_at  # a tree that does not say takes nothing back
    return {
        "cve": record.cve,
        "title": record.title,
        "cvss": record.cvss,
        "files": json.dumps(record.files),
        "commits": json.dumps(record.commits),
        "pairs": written(record.pairs),
        "rejected": False,
        "changed_at": now,
        "published_at": published,
        "first_seen_at": now,
    }


def _same(known: Any, row: Mapping[str, Any]) -> bool:
    return all(
        getattr(known, name) == value for name, value in row.items() if name not in ("changed_at", "first_seen_at")
    )


def _signals(
    store: Store,
    wanted: Mapping[str, Mapping[str, object]],
    none: Mapping[str, object],
    ends: Callable[[str], bool] = lambda cve: True,
) -> tuple[str, ...]:
    """Write some columns of `cve_signals`; returns the CVEs whose have changed.

    Args:
        none: what they are of CVEs that are not wanted,
        ends: if this says so.
    """
    with store.read() as connection:
        known = {row.cve: row for row in connection.execute(select(cve_signals))}
    other = {cve: values for cve, values in wanted.items() if cve not in known or not _same(known[cve], values)}
    other |= {cve: none for cve, row in known.items() if cve not in wanted and not _same(row, none) and ends(cve)}
    _portions(store, list(other.items()), lambda connection, portion: _put_signals(connection, dict(portion)))
    return tuple(sorted(other))


def _put_signals(connection: Connection, values: Mapping[str, Mapping[str, object]]) -> None:
    table = cve_signals
    there = set(connection.execute(select(table.c.cve).where(table.c.cve.in_(list(values)))).scalars())
    fresh = [{"cve": cve, **row} for cve, row in values.items() if cve not in there]
    if fresh:
        connection.execute(insert(table), fresh)
    for cve in there:
        connection.execute(update(table).where(table.c.cve == cve).values(**values[cve]))


def _portions(store: Store, rows: Sequence[Any], work: Callable[[Connection, Sequence[Any]], object]) -> None:
    for first in range(0, len(rows), PORTION):
        portion = rows[first : first + PORTION]
        store.transact(functools.partial(_with, work, portion))


def _with(work: Callable[[Connection, Sequence[Any]], object], portion: Sequence[Any], connection: Connection) -> None:
    work(connection, portion)


def _aside(
    connection: Connection, name: str, found: Sequence[Aside], touched: Collection[str] | None
) -> tuple[Aside, ...]:
    """What is set aside of a feed after a part of it was read: what was before, and was not looked at, still is."""
    if touched is None:
        return tuple(found)
    kept = connection.execute(select(feeds.c.aside).where(feeds.c.name == name)).scalar()
    before = [Aside(str(item), str(why)) for item, why in json.loads(kept or "[]")]
    return (*(item for item in before if item.name not in touched), *found)


def _told(store: Store, name: str, version: str, as_of: int, now: int, records: int, aside: Sequence[Aside]) -> None:
    row = {
        "version": version,
        "as_of": as_of,
        "imported_at": now,
        "records": records,
        "aside_count": len(aside),
        "aside": json.dumps([[item.name, item.why] for item in aside[:KEPT_ASIDE]]),
    }

    def put(connection: Connection) -> None:
        connection.execute(delete(feeds).where(feeds.c.name == name))
        connection.execute(insert(feeds).values(name=name, **row))

    store.transact(put)


def _midnight(day: datetime.date | None) -> int | None:
    if day is None:
        return None
    return int(datetime.datetime.combine(day, datetime.time(), datetime.timezone.utc).timestamp())
