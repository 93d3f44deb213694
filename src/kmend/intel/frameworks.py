"""Rows that come with kmend, by framework. They are data: what changes in a framework becomes another row, with its day.

`docs/compliance.md` says of each where its numbers are from, and which of them nobody here has read in the primary text.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from kmend.core.errors import UsageError
from kmend.intel.deadlines import Clock, Row, rows_of_directive
from kmend.intel.feeds.bod import BodRow
from kmend.intel.feeds.fedramp import CLASSES, RATINGS, Column, FedRamp

_DAY = 24
_MONTH = 30 * _DAY
_date = datetime.date


@dataclass(frozen=True, slots=True)
class Framework:
    """A framework.

    Attributes:
        rows: empty where it names no number, or needs to be told which of its numbers count.
        note: what there is to know besides, for people.
    """

    title: str
    rows: tuple[Row, ...] = ()
    note: str = ""


def _bod(answers: str, days: int | None, forensic: bool = False) -> BodRow:
    kev, exposed, automatable, impact = answers
    return BodRow(kev == "Y", exposed == "Y", automatable == "Y", impact == "T", days, forensic)


# KEV, publicly exposed, automatable, technical impact: the order of CERT/CC's table.
_BOD_26_04 = (
    _bod("NNNP", None), _bod("YNNP", 14), _bod("NYNP", 60), _bod("NNYP", 60),
    _bod("NNNT", None), _bod("YYNP", 14), _bod("YNYP", 14), _bod("NYYP", 14),
    _bod("YNNT", 14), _bod("NYNT", 14), _bod("NNYT", 60), _bod("YYYP", 3),
    _bod("YYNT", 3, True), _bod("YNYT", 3, True), _bod("NYYT", 3), _bod("YYYT", 3, True),
)  # fmt: skip

_FEDRAMP_DAYS = {
    ("a", 5): (4, 8, 32), ("a", 4): (8, 32, 64), ("a", 3): (32, 64, 192), ("a", 2): (96, 160, 192),
    ("b", 5): (4, 8, 32), ("b", 4): (8, 32, 64), ("b", 3): (32, 64, 192), ("b", 2): (96, 160, 192),
    ("c", 5): (2, 4, 16), ("c", 4): (4, 8, 64), ("c", 3): (16, 32, 128), ("c", 2): (48, 128, 192),
    ("d", 5): (0.5, 1, 8), ("d", 4): (2, 8, 32), ("d", 3): (8, 16, 64), ("d", 2): (24, 96, 192),
}  # fmt: skip
FEDRAMP = FedRamp(
    "2026.07.14.01",
    _date(2026, 6, 24),
    {
        (name, rating, column): int(days * _DAY)
        for (name, rating), by_column in _FEDRAMP_DAYS.items()
        for column, days in zip(Column, by_column, strict=True)
    },
    True,
    (),
)
"""As github FedRAMP/rules has it in that version; a newer document may be read in its place."""

FRAMEWORKS: Mapping[str, Framework] = {
    "pci-dss": Framework(
        "PCI DSS 4.0.1",
        (
            Row(
                "PCI DSS 4.0.1, 6.3.3: critical", _MONTH, Clock.FIX, least_severity=9.0, valid_from=_date(2024, 6, 11),
                source="6.3.3", second_hand=True,
            ),
        ),
        "Critical by one's own ranking (6.3.1); others within a time of one's own, which own rows say.",
    ),
    "cisa-bod-26-04": Framework(
        "CISA BOD 26-04", rows_of_directive(_BOD_26_04),
        "Full compliance is due on 2026-12-07. When the clock begins is known second-hand only.",
    ),
    "cisa-bod-22-01": Framework(
        "CISA BOD 22-01",
        (
            Row(
                "CISA BOD 22-01: CISA's due date", 24, Clock.CISA_DUE, exploited=True, valid_from=_date(2021, 11, 3),
                valid_to=_date(2026, 6, 10), source="BOD 22-01", second_hand=True,
            ),
        ),
        "Revoked by BOD 26-04 on 2026-06-10; for reports on the time before.",
    ),
    "cisa-bod-19-02": Framework(
        "CISA BOD 19-02",
        (
            Row(
                "CISA BOD 19-02: critical", 15 * _DAY, Clock.DISCLOSURE, least_severity=9.0, exposed=True,
                valid_from=_date(2019, 4, 29), valid_to=_date(2026, 6, 10), source="BOD 19-02", second_hand=True,
            ),
            Row(
                "CISA BOD 19-02: high", 30 * _DAY, Clock.DISCLOSURE, least_severity=7.0, exposed=True,
                valid_from=_date(2019, 4, 29), valid_to=_date(2026, 6, 10), source="BOD 19-02", second_hand=True,
            ),
        ),
        "Revoked by BOD 26-04 on 2026-06-10; for reports on the time before.",
    ),
    "fedramp": Framework(
        "FedRAMP 2026, VDR-TFR-PVR",
        note="Needs the certification class and the potential agency impact; all of it is SHOULD.",
    ),
    "fedramp-rev5": Framework(
        "FedRAMP Rev5, before the rules of 2026",
        (
            Row("FedRAMP Rev5: high", 30 * _DAY, Clock.DISCLOSURE, least_severity=7.0, source="continuous monitoring"),
            Row("FedRAMP Rev5: moderate", 90 * _DAY, Clock.DISCLOSURE, least_severity=4.0, source="continuous monitoring"),
            Row("FedRAMP Rev5: low", 180 * _DAY, Clock.DISCLOSURE, source="continuous monitoring"),
        ),
    ),
    "cyber-essentials": Framework(
        "UK Cyber Essentials",
        (
            Row(
                "UK Cyber Essentials, A6.4: high and critical", 14 * _DAY, Clock.FIX, least_severity=7.0,
                source="A6.4, A6.5; v3.3", second_hand=True,
            ),
        ),
        "A CVE that nobody has scored counts, by its own words.",
    ),
    "cis": Framework(
        "CIS Controls 8.1",
        (Row("CIS Controls 8.1, 7.3 and 7.7", _MONTH, Clock.FIX, source="7.3, 7.7", second_hand=True),),
    ),
    "essential-eight": Framework(
        "ASD Essential Eight, maturity levels 1 and 2",
        (
            Row(
                "ASD Essential Eight: exploited", 48, Clock.FIX, working_exploit=True, exposed=True,
                source="patch operating systems", second_hand=True,
            ),
            Row(
                "ASD Essential Eight: critical", 48, Clock.FIX, least_severity=9.0, unscored=False, exposed=True,
                source="patch operating systems", second_hand=True,
            ),
            Row(
                "ASD Essential Eight: reachable", 14 * _DAY, Clock.FIX, exposed=True, source="patch operating systems",
                second_hand=True,
            ),
            Row("ASD Essential Eight", _MONTH, Clock.FIX, source="patch operating systems", second_hand=True),
        ),
        "A score that nobody has given is not a vendor's word that it is critical.",
    ),
    "essential-eight-ml3": Framework(
        "ASD Essential Eight, maturity level 3",
        (
            Row(
                "ASD Essential Eight ML3: exploited", 48, Clock.FIX, working_exploit=True,
                source="patch operating systems", second_hand=True,
            ),
            Row(
                "ASD Essential Eight ML3: critical", 48, Clock.FIX, least_severity=9.0, unscored=False,
                source="patch operating systems", second_hand=True,
            ),
            Row(
                "ASD Essential Eight ML3: reachable", 14 * _DAY, Clock.FIX, exposed=True,
                source="patch operating systems", second_hand=True,
            ),
            Row("ASD Essential Eight ML3", _MONTH, Clock.FIX, source="patch operating systems", second_hand=True),
        ),
    ),
    "hipaa": Framework(
        "HIPAA, 45 CFR 164.308(a)(1)(ii)(B)",
        note="It names no number: risk is to be reduced to a reasonable level. The proposal of January 2025 is not in force.",
    ),
    "iso-27001": Framework("ISO/IEC 27001:2022, A.8.8", note="It names no number; one's own is audited."),
    "nis2": Framework("NIS2, Regulation (EU) 2024/2690, 6.6 and 6.10", note="In reasonable time; it names no number."),
    "nist-800-53": Framework("NIST SP 800-53, SI-2", note="Within a time that the organisation defines."),
    "soc2": Framework("SOC 2, CC7.1 and CC8.1", note="It names no number; one's own is sampled over the period."),
}  # fmt: skip


def rows_of(framework: str, *, certification: str = "", impact: int = 0, rules: FedRamp = FEDRAMP) -> tuple[Row, ...]:
    """The rows of a framework that comes with kmend.

    Args:
        certification: FedRAMP's class, `a` to `d`.
        impact: FedRAMP's potential agency impact, 1 to 5.

    Raises:
        UsageError: there is no such framework, it names no number, or FedRAMP's class and impact are missing.
    """
    found = FRAMEWORKS.get(framework)
    if found is None:
        raise UsageError(f"there is no framework {framework[:40]!r}", hint=f"there are: {', '.join(FRAMEWORKS)}, own")
    if framework == "fedramp":
        return rows_of_fedramp(rules, certification.lower(), impact)
    if certification or impact:
        raise UsageError(f"{found.title} asks for no class and no impact", hint="these are FedRAMP's")
    if not found.rows:
        raise UsageError(f"{found.title} has no deadline: {found.note}", hint="give rows of your own, as framework own")
    return found.rows


def rows_of_fedramp(rules: FedRamp, certification: str, impact: int) -> tuple[Row, ...]:
    """FedRAMP's rows for one class and one potential agency impact, and the one for what CISA lists.

    Raises:
        UsageError: there is no such class or impact, or the rules give no number for it.
    """
    if certification not in CLASSES or impact not in RATINGS:
        raise UsageError(
            "FedRAMP needs the certification class and the potential agency impact",
            hint=f"a class of {', '.join(CLASSES)}; an impact of {RATINGS[0]} to {RATINGS[-1]}",
        )
    valid_from = rules.since or _date.min
    found = []
    for column in Column:
        hours = rules.hours.get((certification, impact, column))
        if hours is not None:
            found.append(
                Row(
                    f"FedRAMP VDR-TFR-PVR, class {certification.upper()}, N{impact}", hours, Clock.DISCLOSURE,
                    exposed={Column.REACHABLE: True, Column.LIKELY: False}.get(column), likely=column is not Column.UNLIKELY,
                    valid_from=valid_from, source=f"FedRAMP/rules {rules.version}, VDR-TFR-PVR",
                )
            )  # fmt: skip
    if rules.kev:
        found.append(
            Row(
                "FedRAMP VDR-TFR-KEV: CISA's due date", 24, Clock.CISA_DUE, exploited=True, valid_from=valid_from,
                source=f"FedRAMP/rules {rules.version}, VDR-TFR-KEV",
            )
        )  # fmt: skip
    if not found:
        raise UsageError(f"FedRAMP's rules give no number for class {certification.upper()}, N{impact}")
    return tuple(found)
