"""Which package of the distro's mends a CVE first, and since when there is that package; changelog by changelog."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from kmend.intel.uploads import changelog_of, place_of
from kmend.server.store.tables import distro_fixes, distro_uploads, hosts, kernel_builds, kernel_facts


@dataclass(frozen=True, slots=True)
class FirstFix:
    """The first package that has a CVE mended.

    Attributes:
        at: since when there is that package: its upload, by the changelog's own word, or when this server first read of it.
        named_at: when this server first read that it mends the CVE.
        place: of its upload in the changelog.
    """

    package: str
    at: int
    named_at: int
    place: int


class Uploads:
    """Every upload that the imported changelogs tell of."""

    def __init__(self, connection: Connection) -> None:
        table = distro_uploads.c
        self._places: dict[str, dict[str, int]] = {}
        for row in connection.execute(select(table.branch, table.package, table.place)):
            self._places.setdefault(row.branch, {})[row.package] = row.place

    def changelog(self, package: str) -> str:
        """The branch whose changelog speaks of a package; empty if that was not imported."""
        return changelog_of(package, self._places)

    def place(self, package: str) -> int:
        """Where a package stands in its changelog; 0 for before everything, or if that was not imported."""
        return place_of(package, self._places.get(self.changelog(package), {}))


class Fixes:
    """What the changelogs say of CVEs: of one, or of all.

    Args:
        cve: the only one that is asked of; empty for all.
    """

    def __init__(self, connection: Connection, cve: str = "") -> None:
        self.uploads = Uploads(connection)
        self._branches: dict[str, str] = {}
        self._found: dict[tuple[str, str], FirstFix] = {}
        table = distro_fixes.c
        columns = (table.branch, table.cve, table.package, table.seen_at, table.uploaded_at, table.place)
        query = select(*columns).order_by(table.place.desc())
        for row in connection.execute(query.where(table.cve == cve) if cve else query):
            known = [at for at in (row.uploaded_at, row.seen_at) if at is not None]
            found = FirstFix(row.package, min(known, default=0), row.seen_at or 0, row.place)
            self._found[row.branch, row.cve] = found

    def of(self, package: str, cve: str) -> FirstFix | None:
        """The first package that has a CVE mended, by the changelog that speaks of `package`; None if none has."""
        if package not in self._branches:
            self._branches[package] = self.uploads.changelog(package)
        return self._found.get((self._branches[package], cve))

    def is_in(self, package: str, cve: str) -> bool:
        """Whether a package has a CVE mended; False if that is not known."""
        fix = self.of(package, cve) if package else None
        return fix is not None and self.uploads.place(package) >= fix.place

    def first_named(self) -> dict[str, int]:
        """CVE -> when this server first read that a package mends it."""
        found: dict[str, int] = {}
        for (_, cve), fix in self._found.items():
            found[cve] = min(fix.named_at, found.get(cve, fix.named_at))
        return found


def package_of(connection: Connection, build_id: str) -> str:
    """The package that a kernel build is of; where nobody has looked into it, its release, which tells the branch."""
    sources = (
        (kernel_facts.c.package, kernel_facts.c.build_id),
        (kernel_builds.c.release, kernel_builds.c.build_id),
        (hosts.c.release, hosts.c.build_id),
    )
    for column, key in sources:
        found: str | None = connection.execute(select(column).where(key == build_id).limit(1)).scalar()
        if found:
            return found
    return ""
