"""The rows that come with kmend, against the data that they were taken from; FedRAMP's document, and what it may become."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from kmend.core.errors import MalformedError, UsageError
from kmend.intel.clocks import Change, clocks
from kmend.intel.deadlines import DAY, Assumptions, Clock, Signals, applying, rows_of_directive
from kmend.intel.feeds import Cna, Column, read_bod, read_fedramp
from kmend.intel.frameworks import FEDRAMP, FRAMEWORKS, rows_of
from kmend.intel.severity import base_score
from kmend.intel.verdicts import Word

START = 1_790_000_000
OPEN = clocks([Change(START, Word.AVAILABLE)], START + 1)


@pytest.fixture(scope="module")
def rules(data: Path) -> bytes:
    return lzma.decompress((data / "fedramp-rules.json.xz").read_bytes())


def test_fedramps_table_is_what_its_document_says(rules: bytes) -> None:
    found = read_fedramp(rules)
    assert found == FEDRAMP
    assert len(found.hours) == 48
    assert found.hours["d", 5, Column.REACHABLE] == 12
    assert found.hours["c", 3, Column.UNLIKELY] == 128 * 24
    assert ("c", 1, Column.REACHABLE) not in found.hours


def test_all_sixteen_rows_of_the_directive(data: Path) -> None:
    table = read_bod((data / "cisa-bod-26-04.csv").read_text())
    assert set(rows_of("cisa-bod-26-04")) == set(rows_of_directive(table))
    assert len(rows_of("cisa-bod-26-04")) == 16
    for row in table:
        signals = Signals(
            kev_added=START if row.in_kev else None, exposed=row.exposed, automatable=row.automatable, total=row.total
        )
        (deadline,) = applying(rows_of("cisa-bod-26-04"), signals, OPEN, START + 1)
        assert deadline.due == (None if row.days is None else START + row.days * DAY)
        assert deadline.forensic is row.forensic


def test_fedramps_rows_for_a_class_and_an_impact() -> None:
    rows = rows_of("fedramp", certification="C", impact=4)
    assert {row.hours for row in rows if row.clock is Clock.DISCLOSURE} == {96, 192, 64 * 24}

    def due(signals: Signals, **assumed: bool) -> float | None:
        first = applying(rows, signals, OPEN, START + 1, Assumptions(**assumed))[0]
        return None if first.due is None else (first.due - START) / DAY

    assert due(Signals()) == 4
    assert due(Signals(exposed=False)) == 8
    assert due(Signals(exposed=False), likely=False) == 64
    assert due(Signals(exposed=False, kev_added=START, kev_due=START + 3 * DAY), likely=False) == 4
    none = rows_of("fedramp", certification="b", impact=1)
    assert [row.clock for row in none] == [Clock.CISA_DUE]


def test_fedramps_document_may_grow(rules: bytes) -> None:
    tree: dict[str, Any] = json.loads(rules)
    tree["new"] = {"member": [1]}
    frames = tree["FRR"]["VDR"]["data"]["all"]["TFR"]["VDR-TFR-PVR"]["varies_by_class"]
    frames["e"] = frames["d"]
    frames["d"]["pain_timeframes"]["6"] = frames["d"]["pain_timeframes"]["5"]
    frames["d"]["pain_timeframes"]["5"]["cloud"] = {"timeframe_num": 1, "timeframe_type": "days"}
    frames["d"]["pain_timeframes"]["4"]["nlev"] = {"timeframe_num": 2, "timeframe_type": "fortnights"}
    frames["c"]["pain_timeframes"]["2"]["nlev"] = {"timeframe_num": True, "timeframe_type": "days"}
    found = read_fedramp(json.dumps(tree).encode())
    assert len(found.hours) == 46
    assert sorted(item.name for item in found.aside) == [
        "class c, N2, nlev", "class d, N4, nlev", "class d, N5, cloud", "class d, N6", "class e",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"FRR": 1}', b'{"FRR": {"VDR": {"data": []}}}', b"\xff", b"[" * 100_000,
     b'{"FRR": {"VDR": {"data": {"all": {"TFR": {"VDR-TFR-PVR": {"varies_by_class": {"a": 1}}}}}}}}'],
)  # fmt: skip
def test_what_is_no_fedramp_document(content: bytes) -> None:
    with pytest.raises(MalformedError) as problem:
        read_fedramp(content)
    assert "github FedRAMP/rules" in problem.value.hint


def test_a_framework_without_numbers_is_refused_with_the_way_out() -> None:
    for name in ("hipaa", "iso-27001", "nis2", "soc2", "nist-800-53"):
        with pytest.raises(UsageError, match="no deadline") as problem:
            rows_of(name)
        assert "own" in problem.value.hint
    with pytest.raises(UsageError, match="no framework"):
        rows_of("pci")
    with pytest.raises(UsageError, match="certification class"):
        rows_of("fedramp")
    with pytest.raises(UsageError, match="asks for no class"):
        rows_of("cis", certification="c", impact=3)


def test_rows_that_are_history_hold_no_more() -> None:
    signals = Signals(kev_added=START, kev_due=START + DAY, severity=9.8)
    for name in ("cisa-bod-22-01", "cisa-bod-19-02"):
        assert applying(rows_of(name), signals, OPEN, START) == ()
        assert applying(rows_of(name), signals, OPEN, 1_770_000_000)


def test_every_row_says_where_it_is_from() -> None:
    for name, framework in FRAMEWORKS.items():
        assert framework.rows or framework.note, name
        for row in framework.rows:
            assert row.source
            assert row.condition


@pytest.mark.parametrize(
    ("vector", "score"),
    [
        # The examples of FIRST's guide, and two of the CNA's own.
        ("CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:N/I:H/A:H", 7.1),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8),
        ("CVSS:3.0/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", 6.1),
        ("CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:C/C:L/I:L/A:N", 6.4),
        ("CVSS:3.1/AV:A/AC:L/PR:N/UI:N/S:C/C:H/I:N/A:H", 9.3),
        ("CVSS:3.1/AV:P/AC:H/PR:H/UI:R/S:U/C:N/I:N/A:N", 0.0),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", 10.0),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H", None),
        ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N", None),
        ("CVSS:3.1/AV:X/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", None),
        ("", None),
    ],
)
def test_base_scores(vector: str, score: float | None) -> None:
    assert base_score(vector) == score


def test_every_vector_of_the_cna_has_the_score_that_research_counted(cna: Cna) -> None:
    scores = [base_score(record.cvss) for record in cna.records.values() if record.cvss]
    assert len(scores) == 5373
    assert None not in scores
    assert sum(score >= 9 for score in scores if score is not None) == 674
    assert sum(7 <= score < 9 for score in scores if score is not None) == 4698
