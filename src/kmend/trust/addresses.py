"""URLs: how they are shown without their secrets, where a redirection may lead, and the login that they hold."""

from __future__ import annotations

import base64
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from kmend.trust.errors import RedirectError

_MAX_SHOWN = 300


def shown(url: str) -> str:
    """A URL for messages and logs: without user, password, query (which may hold a token) and control characters."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a URL that cannot be read"
    clean = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return "".join(letter if letter.isprintable() else "?" for letter in clean[:_MAX_SHOWN])


def redirected(current: str, location: str) -> str:
    """Where a redirection leads.

    Args:
        current: the URL that was asked for.
        location: what the answer's Location says.

    Raises:
        RedirectError: out of TLS, to a file, or to nothing that is a URL.
    """
    try:
        target = urljoin(current, location)
        parts = urlsplit(target)
        _ = parts.port
    except ValueError:
        raise RedirectError(f"{shown(current)}: redirected to something that is not a URL") from None
    if not location or parts.scheme not in ("http", "https") or not parts.hostname:
        raise RedirectError(f"{shown(current)}: redirected to {shown(target)}, which is neither http nor https")
    if current.startswith("https:") and parts.scheme != "https":
        raise RedirectError(
            f"{shown(current)}: redirected from https to {shown(target)}", hint="a repository must not lead out of TLS"
        )
    return target


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port, as far as they are given."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def authorization(url: str) -> dict[str, str]:
    """The header for the user and password in a URL; none if it holds none."""
    parts = urlsplit(url)
    if parts.username is None:
        return {}
    return basic_login(f"{unquote(parts.username)}:{unquote(parts.password or '')}", "Authorization")


def basic_login(credentials: str, header: str) -> dict[str, str]:
    """A header with `user:password` (RFC 7617)."""
    return {header: "Basic " + base64.b64encode(credentials.encode()).decode()}
