"""What deadlines and the ranking ask of a CVE, from what the feeds have brought."""

from __future__ import annotations

from sqlalchemy import Connection, select

from kmend.intel.deadlines import Signals
from kmend.intel.severity import base_score
from kmend.server.knowledge import signals_of
from kmend.server.store.tables import cve_signals, cves


def of_cves(connection: Connection, cve: str = "") -> dict[str, Signals]:
    """CVE -> its signals, but for where it stands; one of which nobody says anything is missing.

    Args:
        cve: only this one.
    """
    scores, rows = select(cves.c.cve, cves.c.cvss).where(cves.c.cvss != ""), select(cve_signals)
    if cve:
        scores, rows = scores.where(cves.c.cve == cve), rows.where(cve_signals.c.cve == cve)
    severity = {row.cve: base_score(row.cvss) for row in connection.execute(scores)}
    known = {row.cve: row for row in connection.execute(rows)}
    return {name: signals_of(known.get(name), severity.get(name)) for name in severity.keys() | known.keys()}
