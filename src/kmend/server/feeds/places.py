"""Where a feed is fetched from, as it is written in the configuration.

The operator writes it, in a file that only root and the server can change, and may well mean a mirror in the own network; so what
keeps webhooks to the public internet (`notices.guard`) does not apply. What is fetched is read as that feed and shown to nobody
as it came. Bytes that nobody has signed come by TLS alone, except from this machine.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kmend.core.errors import MalformedError
from kmend.trust.addresses import shown

FEEDS = ("cna", "debian", "kev", "epss", "ssvc", "bod")
"""In the order in which one is of use to the next."""
CHANGELOG = "debian"
_OTHER = re.compile(r"debian-(?:2\.6\.\d{1,3}|\d{1,3}\.\d{1,3})")
_TREES = ("cna", "ssvc")
_MAX = 2000


class Kind(enum.Enum):
    """How it is got."""

    PACKAGES = "packages"
    """By the machine's package client."""
    PATH = "path"
    URL = "url"
    REPOSITORY = "repository"
    """A git repository that the server keeps a copy of."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is.

    Attributes:
        where: a path, or a URL; empty for the package client.
    """

    kind: Kind
    where: str = ""

    @property
    def path(self) -> Path:
        """As a path; for `PATH` alone."""
        return Path(self.where)

    def __str__(self) -> str:
        if self.kind is Kind.PACKAGES:
            return "the package client"
        return self.where if self.kind is Kind.PATH else shown(self.where)


def is_changelog(feed: str) -> bool:
    """Whether a feed is a changelog of Debian's kernel: `debian`, or that of one more branch, such as `debian-6.12`."""
    return feed == CHANGELOG or _OTHER.fullmatch(feed) is not None


def kind_of(feed: str) -> str:
    """The one of `FEEDS` that a feed is read as."""
    return CHANGELOG if is_changelog(feed) else feed


def place_of(feed: str, text: str) -> Place:
    """Read what is configured for a feed.

    Raises:
        MalformedError: a feed cannot come from there.
    """
    if feed == CHANGELOG and text == "apt":
        return Place(Kind.PACKAGES)
    if not text or len(text) > _MAX or not text.isprintable():
        raise MalformedError(f"{feed} is neither a path nor a URL")
    if text.startswith("/"):
        return Place(Kind.PATH, text)
    bare = text.removeprefix("git+")
    try:
        parts = urlsplit(bare)
        _ = parts.port
    except ValueError:
        raise MalformedError(f"{feed}: {shown(bare)} is not a URL") from None
    local = parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/")
    if not local and not (parts.scheme in ("https", "http") and parts.hostname):
        choices = 'a path, an https URL, or "apt"' if feed == CHANGELOG else "a path or an https URL"
        raise MalformedError(f"{feed} must be {choices}, not {shown(bare)[:80]!r}")
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise MalformedError(
            f"{feed}: {shown(bare)} is without TLS, which only this machine may be asked", hint="https"
        )
    if text != bare or parts.path.rstrip("/").endswith(".git"):
        if feed not in _TREES:
            raise MalformedError(f"{feed} does not come as a git repository")
        return Place(Kind.REPOSITORY, bare)
    return Place(Kind.PATH, unquote(parts.path)) if local else Place(Kind.URL, bare)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
