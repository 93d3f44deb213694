"""What CVEs mean for kernel builds, computed once for each build and kept: hosts share builds."""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from kmend.core.document import decode
from kmend.core.facts import KernelFacts
from kmend.intel.applicability import Applicability, Build, Presence, Reason, judge
from kmend.intel.feeds import CveRecord
from kmend.intel.ranges import read_dyad
from kmend.server.knowledge.fixes import Uploads
from kmend.server.store import Store
from kmend.server.store.tables import applicability, applicability_changes, cves, distro_fixes, feeds, kernel_facts

PORTION = 500
MAX_FACTS = 64 * 1024 * 1024


def judge_builds(store: Store, *, builds: Collection[str] | None = None, only: Collection[str] | None = None) -> int:
    """Judge CVEs for builds whose facts are there; returns how many answers were written.

    An answer that replaces another one holds from the newest import on, which brought it.

    Args:
        builds: build IDs; None for all.
        only: these CVEs; None for all that are known, and all that the distro names.
    """
    with store.read() as connection:
        query = select(kernel_facts.c.build_id)
        found = [row.build_id for row in connection.execute(query) if builds is None or row.build_id in builds]
    return sum(_judge_build(store, build_id, only) for build_id in found)


def record_of(row: Any) -> CveRecord:
    """What the database keeps of a record, as intel has it."""
    return CveRecord(
        row.cve, row.title, read_dyad(row.pairs), tuple(json.loads(row.files)), tuple(json.loads(row.commits)), row.cvss
    )


def build_of(connection: Connection, build_id: str) -> Build | None:
    """A kernel build, with what the distro has mended in it; None if its facts are not there."""
    row = connection.execute(select(kernel_facts).where(kernel_facts.c.build_id == build_id)).first()
    if row is None:
        return None
    uploads = Uploads(connection)
    place = uploads.place(row.package)
    table = distro_fixes.c
    here = table.branch == uploads.changelog(row.package)
    before = connection.execute(select(table.cve, table.stable).where(here, table.place <= place)).all()
    later = select(table.cve).where(here, table.place > place, table.stable != "")
    own = {row.cve for row in before if not row.stable}
    fixed = {row.cve for row in before}
    again = (fixed & set(connection.execute(later).scalars())) - own
    content = zlib.decompressobj().decompress(row.facts, MAX_FACTS)
    facts = decode(KernelFacts, content, max_bytes=MAX_FACTS)
    return Build(row.package, frozenset(fixed), facts, frozenset(again))


def kept(row: Any) -> Applicability:
    """An answer that was written before."""
    return Applicability(
        row.cve, row.affected, Reason(row.reason), Presence(row.presence), tuple(json.loads(row.objects)),
        tuple(json.loads(row.evidence)), row.in_c, row.complete,
    )  # fmt: skip


def prune_answers(connection: Connection, now: int, *, days: int) -> int:
    """Forget answers that were replaced more than so many days ago; returns how many."""
    old = applicability_changes.c.until < now - days * 86_400
    return connection.execute(delete(applicability_changes).where(old)).rowcount


def _judge_build(store: Store, build_id: str, only: Collection[str] | None) -> int:
    with store.read() as connection:
        build = build_of(connection, build_id)
        if build is None:
            return 0
        before = connection.execute(
            select(kernel_facts.c.judged_at).where(kernel_facts.c.build_id == build_id)
        ).scalar()
        at = _newest_import(connection)
        rows = {row.cve: row for row in connection.execute(select(cves)) if only is None or row.cve in only}
        # Without a changelog that speaks of it, what the others name is not known of it.
        branch = Uploads(connection).changelog(build.package)
        query = select(distro_fixes.c.cve)
        here = query.where(distro_fixes.c.branch == branch) if branch else query
        # What was said of a CVE that nobody names any more is not known any more, either.
        said = select(applicability.c.cve).where(applicability.c.build_id == build_id)
        named = {*connection.execute(here).scalars(), *connection.execute(said).scalars()}
    others = named - rows.keys() if only is None else named & set(only) - rows.keys()
    found = [
        *(_judged(row, build) for row in rows.values()),
        *(judge(cve, None, build) for cve in sorted(others)),
    ]
    for first in range(0, len(found), PORTION):
        portion = found[first : first + PORTION]
        fresh = {item.cve for item in portion if item.cve not in rows or _is_new(rows[item.cve], before)}
        store.transact(functools.partial(_replace, build_id=build_id, found=portion, fresh=fresh, at=at))
    if only is None:
        store.transact(functools.partial(_judged_all, build_id=build_id, at=at))
    return sum(item.reason is not Reason.RELEASE for item in found)


def _judged(row: Any, build: Build) -> Applicability:
    if row.rejected or not row.pairs:
        return judge(row.cve, None, build, rejected=row.rejected)
    return judge(row.cve, record_of(row), build)


def _is_new(row: Any, judged_at: int | None) -> bool:
    """Whether a CVE was not there yet when all were judged for a build: then that nothing is kept of it says nothing."""
    return judged_at is None or row.first_seen_at is None or row.first_seen_at > judged_at


def _newest_import(connection: Connection) -> int:
    newest = (connection.execute(select(func.max(table.c.imported_at))).scalar() for table in (feeds, kernel_facts))
    return max(at or 0 for at in newest)


def _judged_all(connection: Connection, build_id: str, at: int) -> None:
    connection.execute(update(kernel_facts).where(kernel_facts.c.build_id == build_id).values(judged_at=at))


def _replace(
    connection: Connection, build_id: str, found: Sequence[Applicability], fresh: Collection[str], at: int
) -> None:
    """Put new answers in place of old ones, in one transaction: whoever reads meanwhile, or kills us, finds one or the other.

    Args:
        fresh: CVEs of which there was no answer; of others, of which none is kept, it was that their release does not have them.
    """
    names = [item.cve for item in found]
    table = applicability.c
    _note_changes(connection, build_id, found, fresh, at)
    connection.execute(delete(applicability).where(table.build_id == build_id, table.cve.in_(names)))
    # Most are no matter for this build, since its release never had them: nothing is kept of these.
    rows = [_row(build_id, item) for item in found if item.reason is not Reason.RELEASE]
    if rows:
        connection.execute(insert(applicability), rows)


def _note_changes(
    connection: Connection, build_id: str, found: Sequence[Applicability], fresh: Collection[str], at: int
) -> None:
    """Write down the answers that are replaced by others."""
    names = [item.cve for item in found]
    own = applicability.c.build_id == build_id, applicability.c.cve.in_(names)
    before = {row.cve: row for row in connection.execute(select(applicability).where(*own))}
    rows = []
    for item in found:
        kept_row = before.get(item.cve)
        if kept_row is None and item.cve in fresh:
            continue
        old = _told(kept_row) if kept_row is not None else _RELEASE
        if old != {name: value for name, value in _row(build_id, item).items() if name in old}:
            complete = kept_row is not None and kept_row.complete
            rows.append({"build_id": build_id, "cve": item.cve, "until": at, "complete": complete, **old})
    table = applicability_changes.c
    # What is judged twice after one import has changed once: what held before it is there already.
    told = select(table.cve).where(table.build_id == build_id, table.until == at, table.cve.in_(names))
    there = set(connection.execute(told).scalars())
    rows = [row for row in rows if row["cve"] not in there]
    if rows:
        connection.execute(insert(applicability_changes), rows)


_RELEASE = {
    "affected": False, "reason": Reason.RELEASE.value, "presence": Presence.UNKNOWN.value, "objects": "[]",
}  # fmt: skip
"""The answer that is not kept."""


def _told(row: Any) -> dict[str, object]:
    return {name: getattr(row, name) for name in _RELEASE}


def _row(build_id: str, item: Applicability) -> dict[str, object]:
    return {
        "build_id": build_id,
        "cve": item.cve,
        "affected": item.affected,
        "reason": item.reason.value,
        "presence": item.presence.value,
        "objects": json.dumps(item.objects),
        "evidence": json.dumps(item.evidence),
        "in_c": item.in_c,
        "complete": item.complete,
    }
