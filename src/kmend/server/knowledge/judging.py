"""What CVEs mean for kernel builds, computed once for each build and kept: hosts share builds."""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from kmend.core.document import decode
from kmend.core.facts import KernelFacts
from kmend.intel.applicability import Applicability, Build, Presence, Reason, judge
from kmend.intel.feeds import CveRecord
from kmend.intel.ranges import read_dyad
from kmend.server.store import Store
from kmend.server.store.tables import applicability, cves, distro_fixes, kernel_facts

PORTION = 500
MAX_FACTS = 64 * 1024 * 1024


def judge_builds(store: Store, *, builds: Collection[str] | None = None, only: Collection[str] | None = None) -> int:
    """Judge CVEs for builds whose facts are there; returns how many answers were written.

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
    place = connection.execute(
        select(func.max(distro_fixes.c.place)).where(distro_fixes.c.package == row.package)
    ).scalar()
    table = distro_fixes.c
    before = connection.execute(select(table.cve, table.stable).where(table.place <= (place or 0))).all()
    later = select(table.cve).where(table.place > (place or 0), table.stable != "")
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


def _judge_build(store: Store, build_id: str, only: Collection[str] | None) -> int:
    with store.read() as connection:
        build = build_of(connection, build_id)
        if build is None:
            return 0
        rows = {row.cve: row for row in connection.execute(select(cves)) if only is None or row.cve in only}
        named = set(connection.execute(select(distro_fixes.c.cve)).scalars())
    others = named - rows.keys() if only is None else named & set(only) - rows.keys()
    found = [
        *(_judged(row, build) for row in rows.values()),
        *(judge(cve, None, build) for cve in sorted(others)),
    ]
    for first in range(0, len(found), PORTION):
        portion = found[first : first + PORTION]
        store.transact(functools.partial(_replace, build_id=build_id, found=portion))
    return sum(item.reason is not Reason.RELEASE for item in found)


def _judged(row: Any, build: Build) -> Applicability:
    if row.rejected or not row.pairs:
        return judge(row.cve, None, build, rejected=row.rejected)
    return judge(row.cve, record_of(row), build)


def _replace(connection: Connection, build_id: str, found: Sequence[Applicability]) -> None:
    """Put new answers in place of old ones, in one transaction: whoever reads meanwhile, or kills us, finds one or the other."""
    names = [item.cve for item in found]
    table = applicability.c
    connection.execute(delete(applicability).where(table.build_id == build_id, table.cve.in_(names)))
    # Most are no matter for this build, since its release never had them: nothing is kept of these.
    rows = [_row(build_id, item) for item in found if item.reason is not Reason.RELEASE]
    if rows:
        connection.execute(insert(applicability), rows)


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
