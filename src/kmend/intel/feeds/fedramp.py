"""FedRAMP's rules, as github FedRAMP/rules publishes them for machines: how soon a vulnerability must be less than it is.

Only what `VDR-TFR-PVR` (Mitigation and Remediation Expectations) says by certification class is read, and whether `VDR-TFR-KEV`
is there. Classes, ratings and columns that are not known are set aside with a message; other members are ignored.
"""

from __future__ import annotations

import datetime
import enum
import json
from dataclasses import dataclass

from kmend.core.errors import MalformedError
from kmend.intel.feeds.aside import Aside

MAX_BYTES = 64 * 1024 * 1024
MAX_HOURS = 10 * 366 * 24
TIMEFRAMES, KEV = "VDR-TFR-PVR", "VDR-TFR-KEV"
CLASSES = ("a", "b", "c", "d")
RATINGS = (1, 2, 3, 4, 5)
_HINT = "the JSON document of github FedRAMP/rules"
_UNITS = {"hours": 1, "days": 24, "weeks": 168}


class Column(str, enum.Enum):
    """Which vulnerabilities, as the document names them."""

    REACHABLE = "irv_lev"
    """Reachable from the internet, and likely exploitable."""
    LIKELY = "nirv_lev"
    """Not reachable from there, and likely exploitable."""
    UNLIKELY = "nlev"
    """Not likely exploitable."""


@dataclass(frozen=True, slots=True)
class FedRamp:
    """What is read.

    Attributes:
        version: the document's own.
        since: the first day of which `VDR-TFR-PVR` says that something of it changed; None if it does not say.
        hours: (class, potential agency impact, column) -> hours. A combination that is missing has no number: N1 has none.
        kev: known exploited ones are wanted by CISA's due date, even if fully mitigated.
    """

    version: str
    since: datetime.date | None
    hours: dict[tuple[str, int, Column], int]
    kev: bool
    aside: tuple[Aside, ...]


def read_fedramp(content: bytes) -> FedRamp:
    """Read the rules.

    Raises:
        MalformedError: they are not FedRAMP's, or hold no timeframe that can be read.
    """
    if len(content) > MAX_BYTES:
        raise MalformedError(f"the rules are longer than {MAX_BYTES} bytes")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as problem:
        raise MalformedError(f"the rules cannot be read: {problem}", hint=_HINT) from None
    groups = _members(_at(document, "FRR", "VDR", "data"))
    rules: dict[str, object] = {}
    for of_type in groups.values():
        for of_theme in _members(of_type).values():
            for name, rule in _members(of_theme).items():
                rules.setdefault(name, rule)
    if TIMEFRAMES not in rules:
        raise MalformedError(f"these are not FedRAMP's rules: there is no {TIMEFRAMES} in them", hint=_HINT)
    hours: dict[tuple[str, int, Column], int] = {}
    aside: list[Aside] = []
    for name, of_class in _members(_at(rules[TIMEFRAMES], "varies_by_class")).items():
        if name not in CLASSES:
            aside.append(Aside(f"class {name[:20]}", "it is not a class that is known"))
            continue
        for rating, columns in _members(_at(of_class, "pain_timeframes")).items():
            _read_rating(name, rating, _members(columns), hours, aside)
    if not hours:
        raise MalformedError(f"{TIMEFRAMES} holds no timeframe that can be read", hint=_HINT)
    version = _at(document, "info", "version")
    return FedRamp(
        version[:40] if isinstance(version, str) else "", _since(rules[TIMEFRAMES]), hours, KEV in rules, tuple(aside)
    )


def _read_rating(
    name: str,
    rating: str,
    columns: dict[str, object],
    hours: dict[tuple[str, int, Column], int],
    aside: list[Aside],
) -> None:
    where = f"class {name}, N{rating[:10]}"
    if rating not in {str(number) for number in RATINGS}:
        aside.append(Aside(where, "it is not a rating that is known"))
        return
    for word, frame in columns.items():
        try:
            column = Column(word)
        except ValueError:
            aside.append(Aside(f"{where}, {word[:20]}", "it is not a column that is known"))
            continue
        number, unit = _at(frame, "timeframe_num"), _at(frame, "timeframe_type")
        factor = _UNITS.get(unit, 0) if isinstance(unit, str) else 0
        if type(number) is not int or not 0 < number * factor <= MAX_HOURS:
            aside.append(Aside(f"{where}, {word}", f"{str(number)[:20]} {str(unit)[:20]} is no length of time"))
            continue
        hours[name, int(rating), column] = number * factor


def _since(rule: object) -> datetime.date | None:
    told = _at(rule, "updated")
    days = []
    for item in told if isinstance(told, list) else ():
        text = _at(item, "date")
        try:
            days.append(datetime.date.fromisoformat(text if isinstance(text, str) else ""))
        except ValueError:
            continue
    return min(days, default=None)


def _at(tree: object, *names: str) -> object:
    for name in names:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def _members(tree: object) -> dict[str, object]:
    return tree if isinstance(tree, dict) else {}
