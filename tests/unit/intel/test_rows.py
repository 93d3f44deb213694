"""An operator's own rows, and how rows are kept."""

from __future__ import annotations

import datetime
import json

import pytest
import tomllib
from hypothesis import given
from hypothesis import strategies as st

from kmend.core.errors import MalformedError
from kmend.intel.deadlines import Clock, Row
from kmend.intel.frameworks import FRAMEWORKS
from kmend.intel.rows import encode_rows, read_rows, rows_from, rows_to

OWN = """
[[rows]]
name = "Ours: critical"
days = 7
clock = "fix available"
least_severity = 9
valid_from = 2026-01-01

[[rows]]
name = "Ours: exploited"
hours = 24
clock = "known to be exploited"
exploited = true
forensic = true
valid_to = "2027-01-01"

[[rows]]
name = "Ours: the rest"
clock = "disclosure"
"""


def test_own_rows_are_read() -> None:
    first, second, third = read_rows(OWN, tomllib.loads)
    assert first == Row("Ours: critical", 168, Clock.FIX, least_severity=9.0, valid_from=datetime.date(2026, 1, 1))
    assert (second.exploited, second.forensic, second.valid_to) == (True, True, datetime.date(2027, 1, 1))
    assert (third.hours, third.condition) == (None, "every CVE")
    as_json = json.dumps({"rows": rows_to([first, second, third])})
    assert read_rows(as_json, json.loads) == (first, second, third)


@given(st.lists(st.sampled_from([row for item in FRAMEWORKS.values() for row in item.rows]), min_size=1, max_size=20))
def test_rows_are_kept_as_they_are(rows: list[Row]) -> None:
    assert rows_from(json.loads(encode_rows(rows))) == tuple(rows)


def broken(**members: object) -> dict[str, object]:
    return {"name": "x", "clock": "disclosure", "days": 1, **members}


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ({}, "1 to 100 rows"),
        ([], "1 to 100 rows"),
        ([broken()] * 101, "1 to 100 rows"),
        (["x"], "row 1 is no table"),
        ([broken(), broken(severity=9)], "row 2: 'severity' is not known"),
        ([broken(name="")], "row 1 has no name"),
        ([broken(name="a\nb")], "row 1: name is one line"),
        ([broken(clock="sometime")], "'sometime' is no clock"),
        ([broken(clock=["x"])], "is no clock"),
        ([broken(hours=3)], "days and hours"),
        ([broken(days=-1)], "whole number of hours"),
        ([broken(days=0.3)], "whole number of hours"),
        ([broken(days=float("nan"))], "are numbers"),
        ([broken(days=10**30)], "whole number of hours"),
        ([broken(days=True)], "are numbers"),
        ([broken(least_severity=11)], "0 to 10"),
        ([broken(exposed="yes")], "exposed is true or false"),
        ([broken(forensic=None)], "forensic is true or false"),
        ([broken(valid_from="soon")], "is a day"),
        ([broken(valid_from="2026-02-01", valid_to="2026-02-01")], "ends before it begins"),
    ],
)
def test_a_row_that_is_wrong_is_named(rows: object, what: str) -> None:
    with pytest.raises(MalformedError, match=what):
        rows_from(rows)


def test_a_file_that_is_none() -> None:
    with pytest.raises(MalformedError, match="cannot be read"):
        read_rows("rows = [", tomllib.loads)
    with pytest.raises(MalformedError, match="characters"):
        read_rows("#" * 300_000, tomllib.loads)
