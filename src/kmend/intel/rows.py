"""An operator's own deadlines, as TOML or JSON, and the JSON in which rows of every kind are kept.

    [[rows]]
    name = "Ours: critical"
    days = 7                      # or hours; neither: with the next upgrade of the system
    clock = "fix available"       # disclosure, fix available, known to be exploited, CISA's due date
    least_severity = 9.0

Every other member of `kmend.intel.deadlines.Row` may stand there, too; one that is not known is refused, so that nobody believes
to have set a condition.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kmend.core.errors import MalformedError
from kmend.intel.deadlines import Clock, Row

MAX_ROWS = 100
MAX_TEXT = 200
MAX_CHARACTERS = 256 * 1024
MAX_HOURS = 10 * 366 * 24
_FLAGS = ("exploited", "working_exploit", "exposed", "automatable", "total", "likely")
_PLAIN_FLAGS = ("unscored", "forensic", "second_hand")
_DAYS = ("valid_from", "valid_to")
_KNOWN = {field.name for field in dataclasses.fields(Row)} | {"days"}


def read_rows(text: str, loads: Callable[[str], object]) -> tuple[Row, ...]:
    """Read a file of rows.

    Args:
        loads: `json.loads` or `tomllib.loads`.

    Raises:
        MalformedError: it is no such file; the message names the row.
    """
    if len(text) > MAX_CHARACTERS:
        raise MalformedError(f"rows are at most {MAX_CHARACTERS} characters")
    try:
        tree = loads(text)
    except (ValueError, RecursionError) as problem:
        raise MalformedError(f"the rows cannot be read: {problem}", hint="TOML with [[rows]], or JSON") from None
    rows = tree.get("rows") if isinstance(tree, dict) else tree
    return rows_from(rows)


def rows_from(rows: object) -> tuple[Row, ...]:
    """Rows from JSON's own types.

    Raises:
        MalformedError: they are none.
    """
    if not isinstance(rows, list) or not 0 < len(rows) <= MAX_ROWS:
        raise MalformedError(f"own deadlines are a list of 1 to {MAX_ROWS} rows", hint="TOML with [[rows]], or JSON")
    return tuple(_row(row, place) for place, row in enumerate(rows, start=1))


def rows_to(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows as JSON's own types; what is as it would be without saying is left out."""
    return [_plain(row) for row in rows]


def encode_rows(rows: Iterable[Row]) -> str:
    """Canonical JSON of rows."""
    return json.dumps(rows_to(rows), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plain(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(Row):
        value = getattr(row, field.name)
        if field.default is not dataclasses.MISSING and value == field.default:
            continue
        if isinstance(value, datetime.date):
            value = value.isoformat()
        found[field.name] = value.value if isinstance(value, Clock) else value
    return found


def _row(row: object, place: int) -> Row:
    where = f"row {place}"
    if not isinstance(row, dict):
        raise MalformedError(f"{where} is no table")
    strange = sorted(str(name) for name in row.keys() - _KNOWN)
    if strange:
        raise MalformedError(
            f"{where}: {strange[0][:40]!r} is not known", hint=f"there are: {', '.join(sorted(_KNOWN))}"
        )
    if not isinstance(row.get("name"), str) or not row["name"]:
        raise MalformedError(f"{where} has no name")
    clock = row.get("clock")
    if not isinstance(clock, str) or clock not in {item.value for item in Clock}:
        raise MalformedError(f"{where}: {str(clock)[:40]!r} is no clock", hint=", ".join(item.value for item in Clock))
    severity = row.get("least_severity", 0.0)
    if isinstance(severity, bool) or not isinstance(severity, (int, float)) or not 0 <= severity <= 10:
        raise MalformedError(f"{where}: least_severity is a number from 0 to 10")
    values: dict[str, Any] = {"hours": _hours(row, where), "clock": Clock(clock), "least_severity": float(severity)}
    for name in ("name", "source"):
        values[name] = _text(row.get(name, ""), f"{where}: {name}")
    for name in (*_FLAGS, *_PLAIN_FLAGS):
        if name in row:
            if not isinstance(row[name], bool) and not (row[name] is None and name in _FLAGS):
                raise MalformedError(f"{where}: {name} is true or false")
            values[name] = row[name]
    for name in _DAYS:
        if name in row:
            values[name] = _day(row[name], f"{where}: {name}")
    found = Row(**values)
    if found.valid_to <= found.valid_from:
        raise MalformedError(f"{where} ends before it begins to hold")
    return found


def _hours(row: Mapping[str, Any], where: str) -> int | None:
    if row.get("days") is not None and row.get("hours") is not None:
        raise MalformedError(f"{where} has days and hours", hint="give one of them")
    number = row.get("hours") if row.get("days") is None else row["days"]
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
        raise MalformedError(f"{where}: days and hours are numbers")
    hours = number * (1 if row.get("days") is None else 24)
    if hours != int(hours) or not 1 <= hours <= MAX_HOURS:
        raise MalformedError(f"{where}: it is a whole number of hours, 1 to {MAX_HOURS}")
    return int(hours)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not (value.isprintable()):
        raise MalformedError(f"{where} is one line of at most {MAX_TEXT} characters")
    return value


def _day(value: object, where: str) -> datetime.date:
    # TOML has days of its own; a moment is none.
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value
    try:
        return datetime.date.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        raise MalformedError(f"{where} is a day, YYYY-MM-DD") from None
