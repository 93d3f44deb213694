"""Which package of the distro's mends a CVE first, and since when there is that package."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from kmend.server.store.tables import distro_fixes


@dataclass(frozen=True, slots=True)
class FirstFix:
    """The first package that has a CVE mended.

    Attributes:
        at: since when there is that package: its upload, by the changelog's own word, or when this server first read of it.
        named_at: when this server first read that it mends the CVE.
    """

    package: str
    at: int
    named_at: int


def first_fixes(connection: Connection, cve: str = "") -> dict[str, FirstFix]:
    """CVE -> the first package that has it mended; of one CVE, or of all."""
    table = distro_fixes.c
    query = select(table.cve, table.package, table.seen_at, table.uploaded_at).order_by(table.place.desc())
    if cve:
        query = query.where(table.cve == cve)
    found = {}
    for row in connection.execute(query):
        known = [at for at in (row.uploaded_at, row.seen_at) if at is not None]
        found[row.cve] = FirstFix(row.package, min(known, default=0), row.seen_at or 0)
    return found
