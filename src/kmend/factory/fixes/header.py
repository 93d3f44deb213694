"""The story at the top of a patch file.

Two forms are read: DEP-3 fields (<https://dep-team.pages.debian.net/deps/dep3/>), and what `git format-patch` writes. Both
may carry `CVE:` tags and kmend's own `Kmend-Allow:` fields.
"""

from __future__ import annotations

import email.errors
import email.header
import re
import unicodedata
from dataclasses import dataclass

from kmend.factory.fixes.errors import FixHeaderError, FixTooLargeError
from kmend.factory.fixes.model import Statement

MAX_HEADER_BYTES = 256 * 1024
MAX_TITLE = 500
"""Longest title, in characters; what is longer is cut, since it is only for people."""
MAX_CVES = 1000
MAX_STATEMENTS = 1000
_FIELD = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9-]{0,63}):(?:[ \t]+(?P<value>.*)|)")
_SUBJECT_TAG = re.compile(r"\[[^\]]*\]\s*")
_CVE = re.compile(r"CVE-[0-9]{4}-[0-9]{4,19}")
_STATEMENT = re.compile(r"(?P<code>[a-z][a-z0-9-]{1,63})\s+(?P<symbol>[A-Za-z0-9_.$]{1,511})\s+--\s+(?P<reason>\S.*)")


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a header; empty where it has none."""

    title: str
    description: str
    cves: tuple[str, ...]
    origin: str
    author: str
    applied_upstream: str
    last_update: str
    bugs: tuple[str, ...]
    statements: tuple[Statement, ...]


def parse_header(content: bytes) -> Header:
    """Read the part of a patch file that comes before the first difference.

    Raises:
        FixTooLargeError: it is longer than any story should be.
        FixHeaderError: it is not UTF-8, holds control characters, or has a field that is not well formed.
    """
    if len(content) > MAX_HEADER_BYTES:
        raise FixTooLargeError(
            f"{len(content)} bytes stand before the first change; at most {MAX_HEADER_BYTES} are read",
            hint="is this a patch file? It must hold a unified difference (diff -u, git diff)",
        )
    fields, text = _split(_decode(content))
    title, description = _story(fields, text)
    return Header(
        title=title[:MAX_TITLE],
        description=description,
        cves=_cves(fields),
        origin=_first(fields, "origin"),
        author=_first(fields, "author") or _first(fields, "from"),
        applied_upstream=_first(fields, "applied-upstream"),
        last_update=_first(fields, "last-update"),
        bugs=tuple(value for name, value in fields if (name == "bug" or name.startswith("bug-")) and value),
        statements=_statements(fields),
    )


def _decode(content: bytes) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise FixHeaderError(
            f"line {line} of the header is not UTF-8",
            hint="convert the file with iconv, or check that it is a patch",
        ) from None
    for number, text_line in enumerate(text.split("\n"), 1):
        if any(unicodedata.category(character) == "Cc" and character != "\t" for character in text_line):
            raise FixHeaderError(f"line {number} of the header holds a control character", hint="remove it")
    return text


def _split(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    """The fields, names in lower case, continuation lines joined; and the lines that belong to no field."""
    fields: list[tuple[str, list[str]]] = []
    free: list[str] = []
    in_field = False
    for number, line in enumerate(text.split("\n")):
        if line.rstrip() == "---":
            break
        if number == 0 and line.startswith("From "):
            continue
        match = _FIELD.fullmatch(line)
        if match is not None:
            fields.append((match["name"].lower(), [match["value"] or ""]))
            in_field = True
        elif in_field and line[:1] in (" ", "\t") and line.strip():
            part = line.strip()
            fields[-1][1].append("" if part == "." else part)
        else:
            in_field = False
            free.append(line)
    return [(name, "\n".join(values).strip()) for name, values in fields], free


def _story(fields: list[tuple[str, str]], free: list[str]) -> tuple[str, str]:
    """Title and description: from Description (DEP-3), else Subject, else the free text."""
    body = "\n".join(line.rstrip() for line in free).strip()
    stated = _first(fields, "description")
    if stated:
        title, _, rest = stated.partition("\n")
        return title.strip(), f"{rest.strip()}\n\n{body}".strip()
    subject = _first(fields, "subject")
    if subject:
        words = " ".join(_unmimed(subject).split())
        while match := _SUBJECT_TAG.match(words):
            words = words[match.end() :]
        return words, body
    title, _, rest = body.partition("\n")
    return title.strip(), rest.strip()


def _unmimed(subject: str) -> str:
    """`git format-patch` writes a subject that is not ASCII as RFC 2047 says."""
    if "=?" not in subject:
        return subject
    try:
        text = str(email.header.make_header(email.header.decode_header(subject)))
    except (ValueError, LookupError, email.errors.MessageError):
        return subject
    return "".join(c for c in text if unicodedata.category(c) != "Cc")


def _first(fields: list[tuple[str, str]], name: str) -> str:
    return next((value for field, value in fields if field == name and value), "")


def _cves(fields: list[tuple[str, str]]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for name, value in fields:
        if name != "cve":
            continue
        for word in re.split(r"[,\s]+", value):
            if word and not _CVE.fullmatch(word):
                raise FixHeaderError(
                    f"the CVE tag holds {word[:40]!r}, which is no CVE identifier",
                    hint="write 'CVE: CVE-2026-52928'; several are separated by commas",
                )
            if word:
                found[word] = None
    if len(found) > MAX_CVES:
        raise FixTooLargeError(f"the header names {len(found)} CVEs; at most {MAX_CVES} are read")
    return tuple(found)


def _statements(fields: list[tuple[str, str]]) -> tuple[Statement, ...]:
    found = []
    for name, value in fields:
        if not name.startswith("kmend-"):
            continue
        match = _STATEMENT.fullmatch(" ".join(value.split())) if name == "kmend-allow" else None
        if match is None:
            raise FixHeaderError(
                f"the field {name}: {value[:80]!r} is not understood",
                hint="write 'Kmend-Allow: <refusal code> <symbol> -- <reason>'",
            )
        found.append(Statement(match["code"], match["symbol"], match["reason"]))
    if len(found) > MAX_STATEMENTS:
        raise FixTooLargeError(f"the header holds {len(found)} statements; at most {MAX_STATEMENTS} are read")
    return tuple(found)
