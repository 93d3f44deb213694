"""CISA's BOD 26-04: how long a vulnerability may stand, by four questions. CERT/CC publishes the table as CSV."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass

from kmend.core.errors import MalformedError

ROWS = 16
_DAYS = re.compile(r"(\d{1,3}) days")


@dataclass(frozen=True, slots=True)
class BodRow:
    """One row.

    Attributes:
        days: until it must be mended; None: with the next upgrade of the system.
        forensic: traces are to be secured first.
    """

    in_kev: bool
    exposed: bool
    automatable: bool
    total: bool
    days: int | None
    forensic: bool


def read_bod(text: str) -> tuple[BodRow, ...]:
    """Read the table; it must answer each of the sixteen combinations once.

    Raises:
        MalformedError: it does not.
    """
    try:
        rows = list(csv.reader(io.StringIO(text)))
    except csv.Error as problem:
        raise MalformedError(f"this is not the table of BOD 26-04: {problem}") from None
    if len(rows) < 2 or len(rows[0]) != 6 or "KEV" not in rows[0][1]:
        raise MalformedError("this is not the table of BOD 26-04")
    found = tuple(_row(row) for row in rows[1:] if row)
    keys = {(row.in_kev, row.exposed, row.automatable, row.total) for row in found}
    if len(found) != ROWS or len(keys) != ROWS:
        raise MalformedError(
            f"the table answers {len(keys)} combinations with {len(found)} rows, not {ROWS} with {ROWS}"
        )
    return found


def _row(row: list[str]) -> BodRow:
    if len(row) != 6:
        raise MalformedError(f"a row has {len(row)} columns, not 6")
    answers = [{"yes": True, "no": False}.get(word.strip().lower()) for word in row[1:4]]
    impact = {"total": True, "partial": False}.get(row[4].strip().lower())
    outcome = row[5].strip().lower()
    match = _DAYS.search(outcome)
    if None in answers or impact is None or (match is None and "upgrade" not in outcome):
        raise MalformedError(f"row {row[0][:10]} cannot be read: {', '.join(row[1:])[:120]}")
    kev, exposed, automatable = (bool(answer) for answer in answers)
    return BodRow(
        kev, exposed, automatable, impact, int(match[1]) if match is not None else None, "forensic" in outcome
    )
