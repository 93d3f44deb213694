"""What people are told of what was imported: one notice for each import, however many CVEs it brought.

A CVE that is known to be exploited and stands open in the fleet is a notice of its own, since somebody may want to be woken by
that and by nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from kmend.server.knowledge.answering import of_cve
from kmend.server.knowledge.errors import NotKnownError
from kmend.server.store.tables import applicability, cve_signals, cves, hosts

NAMED = 12
"""CVEs that a notice names; of the others it says how many there are."""
MAX_LOOKED_AT = 500


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell."""

    subject: str
    body: str


@dataclass(frozen=True, slots=True)
class Change:
    """CVEs that an import changed.

    Attributes:
        changed: that were known before, and are known otherwise now.
    """

    added: frozenset[str]
    changed: frozenset[str]
    rejected: frozenset[str]

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to tell."""
        return not (self.added or self.changed or self.rejected)


def since(connection: Connection, moment: int) -> Change:
    """What has changed since a time: for an import that was stopped before it had told of it."""
    rows = connection.execute(
        select(cves.c.cve, cves.c.first_seen_at, cves.c.rejected).where(cves.c.changed_at >= moment)
    ).all()
    rejected = frozenset(row.cve for row in rows if row.rejected)
    added = frozenset(
        row.cve for row in rows if not row.rejected and row.first_seen_at is not None and row.first_seen_at >= moment
    )
    return Change(added, frozenset(row.cve for row in rows) - added - rejected, rejected)


def of_change(connection: Connection, change: Change) -> Notice | None:
    """The digest of an import of the CNA's tree; None if nothing changed."""
    if change.nothing:
        return None
    parts = [f"{len(change.added):,} new CVEs"]
    if change.changed:
        parts.append(f"{len(change.changed):,} changed")
    if change.rejected:
        parts.append(f"{len(change.rejected):,} rejected ({_some(sorted(change.rejected), 3)})")
    body = "; ".join(parts)
    if change.added:
        body += f". {_where(connection, change.added)}"
        listed = sorted(change.added & _listed(connection))
        body += f". Known to be exploited: {_some(listed)}" if listed else ". None is known to be exploited"
    return Notice("CVEs", body)


def of_listed(connection: Connection, names: Iterable[str]) -> Notice | None:
    """That CVEs which stand open in the fleet are known to be exploited; None if none of them stands open."""
    told: list[tuple[int, str]] = []
    chosen = sorted(names, reverse=True)  # the newest first
    for cve in chosen[:MAX_LOOKED_AT]:
        try:
            exposed = sum(group.hosts for group in of_cve(connection, cve) if group.verdict.open)
        except NotKnownError:
            continue
        if exposed:
            told.append((exposed, cve))
    if not told:
        return None
    told.sort(key=lambda item: (-item[0], item[1]))
    words = [f"{cve} ({exposed:,} host{'s' if exposed != 1 else ''})" for exposed, cve in told]
    body = f"CISA lists as exploited, and open on hosts here: {_some(words, 8)}"
    if len(chosen) > MAX_LOOKED_AT:
        body += f"; {len(chosen) - MAX_LOOKED_AT:,} others were not looked at"
    return Notice(told[0][1] if len(told) == 1 else f"{len(told)} CVEs", body)


def exploited(connection: Connection, names: Collection[str]) -> frozenset[str]:
    """Those of some CVEs that CISA lists."""
    return frozenset(names) & _listed(connection)


def _where(connection: Connection, names: Collection[str]) -> str:
    """In how many hosts' kernels CVEs are, or may be."""
    query = (
        select(hosts.c.build_id, func.count().label("number"))
        .where(hosts.c.state == "enrolled", hosts.c.build_id != "")
        .group_by(hosts.c.build_id)
    )
    numbers = {row.build_id: row.number for row in connection.execute(query)}
    table = applicability.c
    standing = table.affected.is_(None) | table.affected.is_(True)
    found = connection.execute(
        select(table.cve, table.build_id, table.affected).where(standing, table.build_id.in_(list(numbers)))
    )
    sure: set[str] = set()
    perhaps: set[str] = set()
    builds: set[str] = set()
    for row in found:
        if row.cve in names:
            (sure if row.affected else perhaps).add(row.cve)
            builds.add(row.build_id)
    if not builds:
        return "None of them is in a kernel that hosts here run, as far as these were looked into"
    reached = sum(numbers[build] for build in builds)
    text = f"{len(sure):,} of them are in kernels that {reached:,} hosts here run"
    maybe = len(perhaps - sure)
    return f"{text}; of {maybe:,} more nobody knows" if maybe else text


def _listed(connection: Connection) -> frozenset[str]:
    return frozenset(
        connection.execute(select(cve_signals.c.cve).where(cve_signals.c.kev_added.is_not(None))).scalars()
    )


def _some(words: Sequence[str], most: int = NAMED) -> str:
    text = ", ".join(words[:most])
    return f"{text} and {len(words) - most:,} more" if len(words) > most else text
