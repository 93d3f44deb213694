"""Debian's changelog of the kernel: which CVEs each upload closes, by the title of the change.

A change is an item of an entry; its title may run over several lines, begins with architectures in brackets where it is not for
all, and ends with its CVEs in parentheses. The changelog names the CVEs that were known when it was written or edited later; what
it does not name may be mended all the same.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Iterator
from dataclasses import dataclass

from kmend.core.errors import MalformedError

MAX_CHARACTERS = 200 * 1024 * 1024
_ENTRY = re.compile(r"(?P<source>linux(?:-[a-z0-9.]+)?) \((?P<version>[^)\s]{1,64})\) [^;]*; ")
_ITEM = re.compile(r"  +[-*+] ")
_STABLE = re.compile(r"/ChangeLog-(\d+\.\d+(?:\.\d+)?)\b")
_CVE = re.compile(r"CVE-\d{4}-\d{4,19}")
_CVES = re.compile(r"\s*\((?:CVE-\d{4}-\d{4,19}[\s,;]*)+\)")
_TAGS = re.compile(r"(?:\[[^\]]{1,40}\]\s*)+")


@dataclass(frozen=True, slots=True)
class DebianFix:
    """A change that closes a CVE.

    Attributes:
        title: without architectures and CVEs.
        stable: the stable update that brought it; empty if it is Debian's own.
    """

    cve: str
    title: str
    stable: str


@dataclass(frozen=True, slots=True)
class DebianRelease:
    """An upload, newest first in the changelog.

    Attributes:
        version: of the source package.
        date: as it stands in the changelog.
    """

    version: str
    date: str
    fixes: tuple[DebianFix, ...]

    @property
    def uploaded_at(self) -> int | None:
        """The date in seconds since 1970-01-01 UTC; None if it cannot be read."""
        try:
            found = email.utils.parsedate_to_datetime(self.date[:100])
        except (ValueError, IndexError, OverflowError):
            return None
        return int(found.timestamp()) if 1993 <= found.year < 2100 else None


def read_changelog(text: str) -> tuple[DebianRelease, ...]:
    """Every upload that a changelog tells of, newest first.

    Raises:
        MalformedError: it is not a kernel's changelog.
    """
    if len(text) > MAX_CHARACTERS:
        raise MalformedError(f"the changelog is longer than {MAX_CHARACTERS} characters")
    found: list[DebianRelease] = []
    version, date = "", ""
    lines: list[str] = []
    for line in text.split("\n"):
        match = _ENTRY.match(line)
        if match is not None:
            if version:
                found.append(DebianRelease(version, date, tuple(_fixes(lines))))
            version, date, lines = match["version"], "", []
        elif line.startswith(" -- "):
            date = line.rpartition(">")[2].strip()
        else:
            lines.append(line)
    if version:
        found.append(DebianRelease(version, date, tuple(_fixes(lines))))
    if not found:
        raise MalformedError(
            "this is not the changelog of a Debian kernel", hint="of the source package linux, unpacked"
        )
    return tuple(found)


def _fixes(lines: list[str]) -> Iterator[DebianFix]:
    """The fixes of one entry; a CVE that several changes name is told once, with the first."""
    told: set[str] = set()
    stable = ""
    for item in _items(lines):
        update = _STABLE.search(item)
        if update is not None:
            stable = update[1]
        elif item.startswith("* "):
            stable = ""
        names = [name for name in _CVE.findall(item) if name not in told]
        if names:
            told.update(names)
            title = _TAGS.sub("", _CVES.sub("", item.removeprefix("* ")), count=1).strip()
            yield from (DebianFix(name, title[:500], stable) for name in names)


def _items(lines: list[str]) -> Iterator[str]:
    """Each item on one line; those of the first rank begin with `* `."""
    words: list[str] = []
    for line in lines:
        match = _ITEM.match(line)
        if _STABLE.search(line):
            if words:
                yield " ".join(words)
            words = []
            yield line.strip()
        elif match is not None:
            if words:
                yield " ".join(words)
            words = [line.strip() if line.startswith("  * ") else line[match.end() :].strip()]
        elif not line.strip():
            if words:
                yield " ".join(words)
            words = []
        elif words:
            words.append(line.strip())
    if words:
        yield " ".join(words)
