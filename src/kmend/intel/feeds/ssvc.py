"""CISA's assessments by SSVC (vulnrichment): whether a CVE is exploited, whether that can be automated, and what it gives.

They stand in CVE records, in the container of an authorised publisher (`containers.adp[].metrics[].other`, of type `ssvc`), as a
list of objects of one member each. The members are spelt `Technical Impact` there and `technicalImpact` elsewhere; both are read.
A record without an assessment is no broken one.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kmend.core.errors import MalformedError
from kmend.intel.feeds.archives import MAX_FILE, files_of_archive, files_of_folder
from kmend.intel.feeds.aside import Aside, is_cve

EXPLOITATION = frozenset({"none", "poc", "active"})
AUTOMATABLE = frozenset({"no", "yes"})
IMPACT = frozenset({"partial", "total"})
MAX_RECORDS = 1_000_000
_NAME = re.compile(r"(CVE-\d{4}-\d{4,19})\.json")
_KEYS = {"exploitation": EXPLOITATION, "automatable": AUTOMATABLE, "technicalimpact": IMPACT}
_SPELT = {"public poc": "poc", "publicpoc": "poc", "proof of concept": "poc"}


@dataclass(frozen=True, slots=True)
class Decision:
    """What CISA says of a CVE; a member is empty where it says nothing.

    Attributes:
        exploitation: `none`, `poc` or `active`.
        automatable: `no` or `yes`.
        impact: `partial` or `total`.
        at: when it was said, as it stands in the record; empty likewise.
    """

    exploitation: str
    automatable: str
    impact: str
    at: str = ""


@dataclass(frozen=True, slots=True)
class Ssvc:
    """Assessments.

    Attributes:
        decisions: CVE -> what is said of it.
        read: records that could be read, those without an assessment too.
    """

    decisions: dict[str, Decision]
    read: int
    aside: tuple[Aside, ...]


def wants(name: str) -> bool:
    """Whether a file, by its name, is a CVE record."""
    return cve_of(name) is not None


def cve_of(name: str) -> str | None:
    """The CVE that a file is the record of; None for files of other things."""
    match = _NAME.fullmatch(posixpath.basename(name))
    return match[1] if match is not None else None


def read_place(path: Path) -> Ssvc:
    """Read a folder or an archive of CVE records.

    Raises:
        MalformedError: there are none, or too many.
        SystemProblemError: it cannot be read.
    """
    return read_records(files_of_folder(path, wants) if path.is_dir() else files_of_archive(path, wants), str(path))


def read_records(files: Iterable[tuple[str, bytes]], where: str, *, part: bool = False) -> Ssvc:
    """Read CVE records, from wherever they come.

    Args:
        part: these are only some, perhaps none.

    Raises:
        MalformedError: there are none at all, or too many.
    """
    decisions: dict[str, Decision] = {}
    aside: list[Aside] = []
    count = 0
    for name, content in files:
        cve = cve_of(name)
        if cve is None:
            continue
        count += 1
        if count > MAX_RECORDS:
            raise MalformedError(f"{where} holds more than {MAX_RECORDS} records")
        try:
            decision = _decision(cve, content)
        except MalformedError as problem:
            aside.append(Aside(cve, problem.message))
        else:
            if decision is not None:
                decisions[cve] = decision
    if count == 0 and not part:
        raise MalformedError(f"{where} holds no CVE records", hint="a tree or an archive of vulnrichment does")
    return Ssvc(decisions, count - len(aside), tuple(aside))


def _decision(cve: str, content: bytes) -> Decision | None:
    if len(content) > MAX_FILE:
        raise MalformedError(f"it is longer than {MAX_FILE} bytes")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as problem:
        raise MalformedError(f"it cannot be read: {str(problem)[:200]}") from None
    known = _at(_at(document, "cveMetadata"), "cveId") or _at(_at(document, "cveMetadata"), "cveID")
    if not is_cve(known) or known != cve:
        raise MalformedError(f"it is of {str(known)[:40]!r}")
    found: list[Decision] = []
    for container in _list(_at(_at(document, "containers"), "adp")):
        for metric in _list(_at(container, "metrics")):
            other = _at(metric, "other")
            if _at(other, "type") == "ssvc":
                found.append(_read(_at(other, "content")))
    return max(found, key=lambda item: item.at, default=None)


def _read(content: object) -> Decision:
    options = _at(content, "options")
    if not isinstance(options, list):
        raise MalformedError("its assessment has no options")
    said: dict[str, str] = {}
    for option in options:
        if not isinstance(option, dict):
            raise MalformedError("an option of its assessment is not an object")
        for key, value in option.items():
            name = re.sub(r"[^a-z]", "", key.lower())
            if name not in _KEYS:
                continue  # a question that is asked since
            word = value.strip().lower() if isinstance(value, str) else ""
            word = _SPELT.get(word, word)
            if word not in _KEYS[name]:
                raise MalformedError(f"its {key[:40]} is {str(value)[:40]!r}, none of {', '.join(sorted(_KEYS[name]))}")
            if said.setdefault(name, word) != word:
                raise MalformedError(f"its {key[:40]} is said to be {said[name]} and {word}")
    if not said:
        raise MalformedError("its assessment answers none of the questions")
    at = _at(content, "timestamp")
    return Decision(
        said.get("exploitation", ""), said.get("automatable", ""), said.get("technicalimpact", ""),
        at[:40] if isinstance(at, str) else "",
    )  # fmt: skip


def _at(document: object, name: str) -> object:
    return document.get(name) if isinstance(document, dict) else None


def _list(found: object) -> list[object]:
    return found if isinstance(found, list) else []
