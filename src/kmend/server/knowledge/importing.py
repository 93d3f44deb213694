"""Feeds come in: what has changed is written, in portions, so that check-ins find the database free in between."""

from __future__ import annotations

import datetime
import functools
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from kmend.core.document import encode
from kmend.core.errors import MalformedError
from kmend.core.facts import KernelFacts
from kmend.core.kernel import KernelRef
from kmend.intel.feeds import Aside, Cna, CveRecord, DebianRelease, Epss, Kev
from kmend.intel.ranges import Pair
from kmend.server.store import Store
from kmend.server.store.tables import cve_signals, cves, distro_fixes, feeds, kernel_facts

PORTION = 250
KEPT_ASIDE = 1000
CNA, DEBIAN, KEV, EPSS = "cna", "debian", "kev", "epss"


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import has changed.

    Attributes:
        changed: CVEs of which something is known that was not, or not so.
        rejected: those of them that were taken back.
        aside: records that could not be read.
    """

    feed: str
    records: int
    changed: tuple[str, ...]
    rejected: tuple[str, ...] = ()
    aside: int = 0


def import_cna(store: Store, tree: Cna, *, version: str, as_of: int, now: int) -> Imported:
    """The kernel CNA's tree. A record that is not there any more, and was not rejected, stays as it was."""
    with store.read() as connection:
        known = {row.cve: row for row in connection.execute(select(cves))}
    rows = {cve: _row(record, known.get(cve), now) for cve, record in tree.records.items()}
    changed = [cve for cve, row in rows.items() if cve not in known or not _same(known[cve], row)]
    rejected = [cve for cve in sorted(tree.rejected) if cve not in known or not known[cve].rejected]
    empty = {"title": "", "cvss": "", "files": "[]", "commits": "[]", "pairs": ""}
    gone = {**empty, "rejected": True, "changed_at": now, "published_at": None, "first_seen_at": now}
    rows |= {cve: {"cve": cve, **gone} for cve in rejected}
    fresh = [rows[cve] for cve in (*changed, *rejected) if cve not in known]
    _portions(store, fresh, lambda connection, portion: connection.execute(insert(cves), portion))
    for cve in (*changed, *rejected):
        if cve in known:
            rows[cve].pop("first_seen_at", None)
            values = {"rejected": True, "changed_at": now} if cve in tree.rejected else rows[cve]
            store.transact(functools.partial(_put, cve=cve, values=values))
    _told(store, CNA, version, as_of, now, len(tree.records), tree.aside)
    return Imported(CNA, len(tree.records), (*changed, *rejected), tuple(rejected), len(tree.aside))


def import_changelog(store: Store, releases: Sequence[DebianRelease], *, as_of: int, now: int) -> Imported:
    """Debian's changelog of the kernel."""
    wanted = {
        (release.version, fix.cve): (place, fix.stable, release.uploaded_at)
        for place, release in enumerate(reversed(releases), start=1)
        for fix in release.fixes
    }
    with store.read() as connection:
        rows_before = connection.execute(select(distro_fixes)).all()
    known = {(row.package, row.cve): (row.place, row.stable, row.uploaded_at) for row in rows_before}
    seen = {(row.package, row.cve): row.seen_at for row in rows_before}
    changed = sorted({cve for key, values in wanted.items() if known.get(key) != values for cve in key[1:]})
    gone = sorted({cve for key in known.keys() - wanted.keys() for cve in key[1:]})
    if changed or gone:
        rows = [
            {
                "package": package, "cve": cve, "place": place, "stable": stable, "uploaded_at": uploaded,
                "seen_at": seen.get((package, cve), now),
            }
            for (package, cve), (place, stable, uploaded) in wanted.items()
        ]  # fmt: skip

        def replace(connection: Connection) -> None:
            connection.execute(delete(distro_fixes))
            connection.execute(insert(distro_fixes), rows)

        store.transact(replace)
    _told(store, DEBIAN, releases[0].version, as_of, now, len(wanted), ())
    return Imported(DEBIAN, len(wanted), tuple(sorted({*changed, *gone})))


def import_kev(store: Store, catalogue: Kev, *, now: int) -> Imported:
    """CISA's catalogue; what it does not list any more is not listed here either."""
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
    changed = _signals(store, wanted, none)
    _told(store, KEV, catalogue.version, catalogue.released or now, now, len(wanted), catalogue.aside)
    return Imported(KEV, len(wanted), changed, aside=len(catalogue.aside))


def import_epss(store: Store, scores: Epss, *, as_of: int, now: int) -> Imported:
    """FIRST's scores, of CVEs that the CNA's tree has."""
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


def _put(connection: Connection, cve: str, values: Mapping[str, Any]) -> None:
    connection.execute(update(cves).where(cves.c.cve == cve).values(**{**values, "cve": cve}))


def _signals(store: Store, wanted: Mapping[str, Mapping[str, object]], none: Mapping[str, object]) -> tuple[str, ...]:
    """Write some columns of `cve_signals`; returns the CVEs whose have changed."""
    with store.read() as connection:
        known = {row.cve: row for row in connection.execute(select(cve_signals))}
    fresh = [{"cve": cve, **values} for cve, values in wanted.items() if cve not in known]
    other = {cve: values for cve, values in wanted.items() if cve in known and not _same(known[cve], values)}
    other |= {cve: none for cve, row in known.items() if cve not in wanted and not _same(row, none)}
    _portions(store, fresh, lambda connection, portion: connection.execute(insert(cve_signals), portion))

    def put(connection: Connection, portion: Sequence[tuple[str, Mapping[str, object]]]) -> None:
        for cve, values in portion:
            connection.execute(update(cve_signals).where(cve_signals.c.cve == cve).values(**values))

    _portions(store, list(other.items()), put)
    return tuple(sorted({*(str(row["cve"]) for row in fresh), *other}))


def _portions(store: Store, rows: Sequence[Any], work: Callable[[Connection, Sequence[Any]], object]) -> None:
    for first in range(0, len(rows), PORTION):
        portion = rows[first : first + PORTION]
        store.transact(functools.partial(_with, work, portion))


def _with(work: Callable[[Connection, Sequence[Any]], object], portion: Sequence[Any], connection: Connection) -> None:
    work(connection, portion)


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
