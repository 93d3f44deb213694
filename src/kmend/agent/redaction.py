"""What must not leave a host, taken out of text: secrets that are known by name, and what has the form of one. Pure.

Two nets. What the configuration and the environment hold is known exactly, and is taken out wherever it stands, percent-encoded
or in base64 too. What nobody told us of is recognised by its form: logins and queries of URLs, authorization headers, members
called password or token, private keys.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

MARK = "[redacted]"
HOST = "[host]"
MIN_SECRET = 4
"""Characters; a shorter word would be taken out of everything, and is caught by the forms where it matters."""
MIN_TOKEN = 12
"""Characters of what stands in the place of a URL's user to be taken for a secret by itself."""
MIN_VARIABLE = 6
"""The same for a variable of the environment that is called like a secret."""
_SECRET_NAME = re.compile(r"(?i)(pass(word|wd|phrase)?|secret|token|credential|api_?key|access_?key|private_?key|auth)")
_WORDS = "pass(?:word|wd|phrase)?|secret|token|credentials?|api[_-]?key|access[_-]?key|authorization"
_NAME = rf"[A-Za-z0-9_.-]*(?:{_WORDS})[A-Za-z0-9_.-]*"


@dataclass(frozen=True, slots=True)
class Form:
    """Something that is recognised by its form: a name for the list of what was taken out, the pattern, and what stays."""

    kind: str
    pattern: re.Pattern[str]
    stays: str


FORMS = (
    Form(
        "private key",
        re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL),
        MARK,
    ),
    Form(
        "login in a URL",
        re.compile(r"(?P<a>[A-Za-z][A-Za-z0-9+.-]{0,20}://)[^/\s\"'<>@]*(?:@[^/\s\"'<>@]*)*@"),
        rf"\g<a>{MARK}@",
    ),
    Form(
        "query of a URL",
        re.compile(r"(?P<a>[A-Za-z][A-Za-z0-9+.-]{0,20}://[^\s\"'<>?]*)\?[^\s\"'<>]+"),
        rf"\g<a>?{MARK}",
    ),
    Form(
        "authorization",
        re.compile(r"(?i)\b(?P<a>(?:bearer|basic|digest|negotiate)\s+)[A-Za-z0-9._~+/=-]{6,}"),
        rf"\g<a>{MARK}",
    ),
    Form(
        "named secret",
        re.compile(
            rf"""(?i)(?P<a>\b{_NAME}(?:\\?["'])?\s*[=:]\s*)(?:(?P<q>\\?["'])(?:(?!(?P=q)).)*(?P=q)|(?!\[redacted)[^\s"'\\,;}}\]]+)"""
        ),
        rf"\g<a>\g<q>{MARK}\g<q>",
    ),
    Form("option", re.compile(rf"(?i)(?P<a>(?<!\S)--?{_NAME}\s+)(?!{re.escape(MARK)})[^\s\"',]+"), rf"\g<a>{MARK}"),
    Form("token", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"), MARK),
)


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text without secrets, and how many of each kind were taken out."""

    text: str
    counts: Mapping[str, int]


class Redactor:
    """Takes secrets out of texts.

    Args:
        secrets: that are known exactly.
        hosts: names of this host, to be left out too; none to keep them.
    """

    def __init__(self, secrets: Iterable[str], hosts: Iterable[str] = ()) -> None:
        known = {form for secret in secrets if len(secret) >= MIN_SECRET for form in _spellings(secret)}
        self._known = sorted(known, key=len, reverse=True)  # the longest first, so that no rest of one is left
        names = sorted({name for name in hosts if len(name) >= 2}, key=len, reverse=True)
        self._hosts = (
            re.compile(rf"(?i)(?<![A-Za-z0-9-])(?:{'|'.join(map(re.escape, names))})(?![A-Za-z0-9-])")
            if names
            else None
        )

    def clean(self, text: str) -> Redacted:
        """`text` without what must not leave the host."""
        counts: Counter[str] = Counter()
        for secret in self._known:
            found = text.count(secret)
            if found:
                counts["configured secret"] += found
                text = text.replace(secret, MARK)
        for form in FORMS:
            text, found = form.pattern.subn(form.stays, text)
            counts[form.kind] += found
        if self._hosts is not None:
            text, found = self._hosts.subn(HOST, text)
            counts["host name"] += found
        return Redacted(text, {kind: count for kind, count in sorted(counts.items()) if count})


def of_url(url: str) -> set[str]:
    """User, password and query of a URL, as they stand and as they are meant; a proxy may be written without a scheme."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
    except ValueError:
        return {url}
    found = {part for part in (parts.password, parts.query) if part}
    if parts.password is None and len(parts.username or "") >= MIN_TOKEN:
        found.add(parts.username or "")  # a token in the user's place
    found |= {value for value in (item.partition("=")[2] for item in parts.query.split("&")) if value}
    return found | {unquote(part) for part in found}


def of_environment(environment: Mapping[str, str]) -> set[str]:
    """What an environment holds: logins of proxies, and variables that are called like a secret."""
    found: set[str] = set()
    for name, value in environment.items():
        if name.lower().endswith("_proxy") or "://" in value:
            found |= of_url(value)
        if _SECRET_NAME.search(name) and len(value) >= MIN_VARIABLE:
            found.add(value)
    return found


def _spellings(secret: str) -> set[str]:
    plain = secret.encode()
    encoded = {base64.b64encode(plain).decode().rstrip("="), base64.urlsafe_b64encode(plain).decode().rstrip("=")}
    return {secret, quote(secret, safe=""), *encoded}
