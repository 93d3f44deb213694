"""FIRST's forecast of which CVEs will be exploited within thirty days."""

from __future__ import annotations

import csv
import datetime
import io
import re
from dataclasses import dataclass

from kmend.core.errors import MalformedError
from kmend.intel.feeds.aside import Aside, is_cve

MAX_CHARACTERS = 256 * 1024 * 1024
_HINT = "epss_scores-YYYY-MM-DD.csv, unpacked"
_MODEL = re.compile(r"#model_version:([^,\s]{1,40})(?:,score_date:(\d{4}-\d{2}-\d{2}))?")


@dataclass(frozen=True, slots=True)
class Epss:
    """A day's scores.

    Attributes:
        model: its version; a new one moves all scores, which is no news of any CVE. Empty if the file does not say.
        date: YYYY-MM-DD; empty likewise.
        scores: CVE -> probability and percentile, both from 0 to 1.
    """

    model: str
    date: str
    scores: dict[str, tuple[float, float]]
    aside: tuple[Aside, ...]

    @property
    def at(self) -> int | None:
        """When that day began, in seconds since 1970-01-01 UTC; None if the file does not say."""
        try:
            day = datetime.date.fromisoformat(self.date)
        except ValueError:
            return None
        return int(datetime.datetime.combine(day, datetime.time(), datetime.timezone.utc).timestamp())


def read_epss(text: str) -> Epss:
    """Read the daily file: a comment with the model, a header, a line for each CVE.

    Raises:
        MalformedError: it is none.
    """
    if len(text) > MAX_CHARACTERS:
        raise MalformedError(f"the scores are longer than {MAX_CHARACTERS} characters")
    model, date = "", ""
    if text.startswith("#"):
        first, _, text = text.partition("\n")
        match = _MODEL.match(first)
        model, date = (match[1], match[2] or "") if match is not None else ("", "")
    try:
        rows = list(csv.reader(io.StringIO(text)))
    except csv.Error as problem:
        raise MalformedError(f"these are not FIRST's scores: {problem}", hint=_HINT) from None
    if not rows or rows[0][:3] != ["cve", "epss", "percentile"]:
        raise MalformedError("these are not FIRST's scores: the header is not cve,epss,percentile", hint=_HINT)
    scores: dict[str, tuple[float, float]] = {}
    aside: list[Aside] = []
    for row in rows[1:]:
        if not row:
            continue
        try:
            score, percentile = float(row[1]), float(row[2])
        except (IndexError, ValueError):
            aside.append(Aside(row[0][:40], "its numbers cannot be read"))
            continue
        if not is_cve(row[0]) or not 0 <= score <= 1 or not 0 <= percentile <= 1:
            aside.append(Aside(row[0][:40], "it is no CVE, or a number is not between 0 and 1"))
            continue
        scores[row[0]] = (score, percentile)
    return Epss(model, date, scores, tuple(aside))
