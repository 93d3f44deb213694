"""What deadlines and the ranking ask of a CVE, from what the feeds have brought."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from kmend.intel.deadlines import Exploitation, Signals
from kmend.intel.severity import base_score
from kmend.server.store.tables import cve_signals, cves

_YES = {"yes": True, "no": False, "total": True, "partial": False}


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
    return {name: _signals(known.get(name), severity.get(name)) for name in severity.keys() | known.keys()}


def _signals(row: Any, severity: float | None) -> Signals:
    if row is None:
        return Signals(severity=severity)
    # A database that no import of SSVC has been made for has no columns for it.
    told = row._mapping
    word = told.get("ssvc_exploitation")
    return Signals(
        kev_added=row.kev_added,
        kev_due=row.kev_due,
        severity=severity,
        automatable=_YES.get(told.get("ssvc_automatable") or ""),
        total=_YES.get(told.get("ssvc_impact") or ""),
        exploitation=Exploitation(word) if word in {item.value for item in Exploitation} else None,
        percentile=row.percentile,
        ransomware=bool(row.ransomware),
        forensic=bool(row.forensic),
    )
