"""The kernel CNA's tree (`vulns.git`): every CVE of Linux, the releases that it is in, the files that its fix changes.

What a release has is taken from the `.dyad` file. The record's own CPE block is never looked at: it is a flat list of ranges that
forgets branches, and flags seven thousand CVEs of a patched 6.1 that are none.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kmend.core.errors import KmendError, MalformedError
from kmend.intel.feeds.archives import MAX_FILE, files_of_archive, files_of_folder
from kmend.intel.feeds.aside import Aside, is_cve
from kmend.intel.ranges import Pair, read_dyad

MAX_RECORDS = 500_000
MAX_TITLE = 500
_NAME = re.compile(r"(?:.*/)?cve/(published|rejected)/\d{4}/(CVE-\d{4}-\d{4,19})(?:\.([a-z0-9]+))?")
_WANTED = {"json", "dyad", "sha1", "cvss"}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_VECTOR = re.compile(r"CVSS:[0-9.]+/[A-Za-z:/.]{5,200}")


@dataclass(frozen=True, slots=True)
class CveRecord:
    """A CVE that the CNA has published.

    Attributes:
        title: the fix's subject line.
        pairs: see `kmend.intel.ranges`.
        files: what the mainline fix changes, by mainline's paths; empty if the record does not say.
        commits: mainline commits that mend it.
        cvss: the CNA's vector, a worst case; empty where it decided to give none.
        published_at: when it was, in seconds since 1970-01-01 UTC; None if the record does not say, as those of `vulns.git`.
    """

    cve: str
    title: str
    pairs: tuple[Pair, ...]
    files: tuple[str, ...]
    commits: tuple[str, ...]
    cvss: str = ""
    published_at: int | None = None


@dataclass(frozen=True, slots=True)
class Cna:
    """The whole tree.

    Attributes:
        records: CVE -> what is known of it.
        rejected: IDs that were taken back.
        aside: what cannot be read; it is neither in `records` nor in `rejected`.
    """

    records: dict[str, CveRecord]
    rejected: frozenset[str]
    aside: tuple[Aside, ...]


def wants(name: str) -> bool:
    """Whether a file of the tree, by its name, says anything that is read."""
    match = _NAME.fullmatch(name)
    return match is not None and (match[1] == "rejected" or match[3] in _WANTED)


def cve_of(name: str) -> str | None:
    """The CVE that a file of the tree is of; None for files of other things."""
    match = _NAME.fullmatch(name)
    return match[2] if match is not None else None


def read_folder(folder: Path) -> Cna:
    """Read a checkout.

    Raises:
        MalformedError: there is no such tree there.
        SystemProblemError: it cannot be read.
    """
    if not (folder / "cve").is_dir():
        raise MalformedError(f"{folder} is no tree of the kernel CNA", hint="it has a folder cve/published")
    return read_tree(files_of_folder(folder, wants), str(folder))


def read_archive(path: Path) -> Cna:
    """Read a tar archive of the tree, packed or not.

    Raises:
        MalformedError: it is no such archive, or holds too much.
        SystemProblemError: it cannot be read.
    """
    return read_tree(files_of_archive(path, wants), str(path))


def read_tree(files: Iterable[tuple[str, bytes]], where: str, *, part: bool = False) -> Cna:
    """Read files of the tree, from wherever they come.

    Args:
        files: by their names in the tree; others among them are passed over.
        where: for messages.
        part: these are only some CVEs, perhaps none, each with all its files.

    Raises:
        MalformedError: it is no tree of the CNA's.
    """
    parts: dict[str, dict[str, bytes]] = {}
    rejected: set[str] = set()
    for name, content in files:
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        state, cve, kind = match.groups()
        if state == "rejected":
            rejected.add(cve)
        elif kind in _WANTED:
            parts.setdefault(cve, {})[kind] = content
        if len(parts) > MAX_RECORDS:
            raise MalformedError(f"{where} holds more than {MAX_RECORDS} CVEs")
    if not parts and not rejected and not part:
        raise MalformedError(f"{where} is no tree of the kernel CNA", hint="it has a folder cve/published")
    records: dict[str, CveRecord] = {}
    aside: list[Aside] = []
    for cve, kinds in sorted(parts.items()):
        if cve in rejected:
            continue  # a checkout in the middle of a move
        try:
            records[cve] = _record(cve, kinds)
        except KmendError as problem:
            aside.append(Aside(cve, problem.message))
    return Cna(records, frozenset(rejected), tuple(aside))


def _record(cve: str, kinds: dict[str, bytes]) -> CveRecord:
    for kind, content in kinds.items():
        if len(content) > MAX_FILE:
            raise MalformedError(f".{kind} is longer than {MAX_FILE} bytes")
    if "dyad" not in kinds:
        raise MalformedError("there is no .dyad")
    if "json" not in kinds:
        raise MalformedError("there is no .json")
    title, files, published = _of_json(cve, kinds["json"])
    commits = tuple(word for word in _text(kinds.get("sha1", b"")).split() if _COMMIT.fullmatch(word))
    vector = _VECTOR.search(_text(kinds.get("cvss", b"")).split("\n", 1)[0])
    pairs = read_dyad(_text(kinds["dyad"]))
    return CveRecord(cve, title, pairs, files, commits, vector[0] if vector else "", published)


def _of_json(cve: str, content: bytes) -> tuple[str, tuple[str, ...], int | None]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as problem:
        raise MalformedError(f".json cannot be read: {problem}") from None
    found = _at(_at(document, "containers"), "cna")
    known = _at(_at(document, "cveMetadata"), "cveID") or _at(_at(document, "cveMetadata"), "cveId")
    if not is_cve(known) or known != cve:
        raise MalformedError(f".json is of {str(known)[:40]!r}")
    title = _at(found, "title")
    files: dict[str, None] = {}
    affected = _at(found, "affected")
    for product in affected if isinstance(affected, list) else []:
        names = _at(product, "programFiles")
        if names is None:
            continue
        # Half of the files would be another statement: that nothing of the CVE was compiled, perhaps.
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise MalformedError(".json names a file that is no text")
        files.update(dict.fromkeys(_line(name) for name in names))
    published = _moment(_at(_at(document, "cveMetadata"), "datePublished"))
    return (_line(title[:MAX_TITLE]) if isinstance(title, str) else "", tuple(files), published)


def _line(text: str) -> str:
    """One line that can be printed: databases refuse NUL and halves of surrogate pairs, people's terminals obey the others."""
    spaced = " ".join(text.split())
    return "".join(letter if letter.isprintable() else "?" for letter in spaced)


def _moment(text: object) -> int | None:
    """A time of a CVE record, which is in UTC where it names no zone; None if it is none, or of another century."""
    if not isinstance(text, str) or len(text) > 40:
        return None
    try:
        found = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    zoned = found if found.tzinfo is not None else found.replace(tzinfo=datetime.timezone.utc)
    return int(zoned.timestamp()) if 1999 <= zoned.year < 2100 else None


def _at(document: object, name: str) -> object:
    return document.get(name) if isinstance(document, dict) else None


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="replace")
