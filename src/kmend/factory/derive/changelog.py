"""What a kernel package's changelog says: the title of the change that closes a CVE, and when a version was made."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Iterator

_ENTRY = re.compile(r"linux(?:-[a-z0-9.]+)? \((?P<version>[^)]+)\) ")
_ITEM = re.compile(r"\s*[-*] ")
_CVES = re.compile(r"\s*\((?:CVE-\d{4}-\d{4,19}(?:,\s*)?)+\)")
_TAGS = re.compile(r"(?:\[[^\]]{1,40}\]\s*)+")


def title_of(changelog: str, cve: str) -> str | None:
    """The title of the newest change that names `cve`, without architecture tags and CVE list; None if there is none."""
    for item in _items(changelog):
        if re.search(rf"\b{re.escape(cve)}\b", item):
            title = _TAGS.sub("", _CVES.sub("", item), count=1).strip()
            return title or None
    return None


def date_of(changelog: str, version: str) -> str | None:
    """The day, as YYYY-MM-DD, on which a version was finished; None if the changelog does not have it."""
    inside = False
    for line in changelog.split("\n"):
        match = _ENTRY.match(line)
        if match is not None:
            inside = match["version"] == version
        elif inside and line.startswith(" -- "):
            parsed = email.utils.parsedate_tz(line.rpartition(">")[2].strip())
            return f"{parsed[0]:04}-{parsed[1]:02}-{parsed[2]:02}" if parsed is not None else None
    return None


def _items(changelog: str) -> Iterator[str]:
    """Each item of the changelog on one line."""
    words: list[str] = []
    for line in changelog.split("\n"):
        if _ITEM.match(line) or not line.startswith("  "):
            if words:
                yield " ".join(words)
            words = [_ITEM.sub("", line, count=1).strip()] if line.startswith("  ") else []
        else:
            words.append(line.strip())
    if words:
        yield " ".join(words)
