"""CISA's catalogue of vulnerabilities that are known to be exploited."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass

from kmend.core.errors import MalformedError
from kmend.intel.feeds.aside import Aside, is_cve

MAX_BYTES = 64 * 1024 * 1024
_HINT = "known_exploited_vulnerabilities.json, as CISA publishes it"


@dataclass(frozen=True, slots=True)
class KevEntry:
    """One entry.

    Attributes:
        added, due: days.
        ransomware: whether it is known to be used for that.
        forensic: whether traces are to be secured before it is mended; None where the catalogue does not say.
    """

    cve: str
    added: datetime.date
    due: datetime.date | None
    ransomware: bool
    forensic: bool | None
    name: str


@dataclass(frozen=True, slots=True)
class Kev:
    """The catalogue.

    Attributes:
        version: its own.
        released: when it was made, seconds since 1970-01-01 UTC; 0 if it does not say.
    """

    version: str
    released: int
    entries: dict[str, KevEntry]
    aside: tuple[Aside, ...]


def read_kev(content: bytes) -> Kev:
    """Read the catalogue as JSON. Members that are not known are ignored.

    Raises:
        MalformedError: it is no catalogue.
    """
    if len(content) > MAX_BYTES:
        raise MalformedError(f"the catalogue is longer than {MAX_BYTES} bytes")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as problem:
        raise MalformedError(f"the catalogue cannot be read: {problem}", hint=_HINT) from None
    rows = document.get("vulnerabilities") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise MalformedError("this is not CISA's catalogue: it has no list of vulnerabilities", hint=_HINT)
    entries: dict[str, KevEntry] = {}
    aside: list[Aside] = []
    for number, row in enumerate(rows):
        try:
            entry = _entry(row)
        except MalformedError as problem:
            name = row.get("cveID") if isinstance(row, dict) else None
            aside.append(Aside(name if is_cve(name) else f"entry {number}", problem.message))
        else:
            entries[entry.cve] = entry
    return Kev(
        str(document.get("catalogVersion", ""))[:40], _moment(document.get("dateReleased")), entries, tuple(aside)
    )


def _entry(row: object) -> KevEntry:
    if not isinstance(row, dict):
        raise MalformedError("it is not an object")
    cve = row.get("cveID")
    if not isinstance(cve, str) or not is_cve(cve):
        raise MalformedError(f"{str(cve)[:40]!r} is not the ID of a CVE")
    added = _day(row.get("dateAdded"))
    if added is None:
        raise MalformedError("dateAdded is not a day")
    due = row.get("dueDate")
    forensic = row.get("forensicTriage")
    return KevEntry(
        cve,
        added,
        _day(due),
        row.get("knownRansomwareCampaignUse") == "Known",
        forensic.strip().lower() == "yes" if isinstance(forensic, str) else None,
        str(row.get("vulnerabilityName", ""))[:300],
    )


def _day(text: object) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _moment(text: object) -> int:
    try:
        # Four digits of a second are more than Python 3.10 reads.
        words = text.rstrip("Z").split(".")[0] if isinstance(text, str) else ""
        return int(datetime.datetime.fromisoformat(words).replace(tzinfo=datetime.timezone.utc).timestamp())
    except ValueError:
        return 0
