"""Where a webhook may lead: to the public internet, and to nothing else that nobody has allowed.

Who may make a channel could otherwise have the server ask what only it can reach: its own ports, its network, a cloud's metadata
service (server-side request forgery). A name is resolved once, every address that it has is judged, and the connection goes to
the very address that was judged, so a name that changes its mind in between (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from kmend.server.notices.errors import DeliveryError, ForbiddenTargetError

MAX_URL = 2000
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Sequence[str]]
"""A host's name and a port, to its addresses as text."""

_SERVICES = frozenset({ipaddress.ip_address("168.63.129.16")})
"""Public by their number, and yet a cloud's own: Azure's wire server."""
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        *("224.0.0.0/4", "240.0.0.0/4", "2001::/23", "2001:db8::/32", "3fff::/20"),
    )
)
"""IANA's registries of special-purpose addresses, in our own words; what `ipaddress` knows depends on Python's version."""
_PUBLIC_6 = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
_COMPATIBLE = ipaddress.ip_network("::/96")


@dataclass(frozen=True, slots=True)
class Rules:
    """What is allowed besides the public internet by https.

    Attributes:
        networks: that may be reached although they are not public.
        http: whether a URL may be without TLS.
    """

    networks: tuple[str, ...] = ()
    http: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that was taken apart and whose address was judged.

    Attributes:
        host: as it stands in the URL, for TLS and the Host header.
        address: to connect to.
        path: with the query.
    """

    secure: bool
    host: str
    port: int
    path: str
    address: str


def check_url(url: str, rules: Rules) -> tuple[bool, str, int, str]:
    """Scheme (whether TLS), host, port and path of a webhook's URL; nothing is resolved.

    Raises:
        ForbiddenTargetError: it is none that could be allowed.
    """
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or set(url) & set(' \\<>"{}|^`'):
        raise ForbiddenTargetError("that is not a URL as it may be written", hint="see RFC 3986")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ForbiddenTargetError("that is not a URL", hint="write https://host/path") from None
    if parts.scheme not in (("https", "http") if rules.http else ("https",)):
        raise ForbiddenTargetError(
            "a webhook's URL begins with https://",
            hint="notices.allow_http in the server's configuration allows http too",
        )
    if not _AUTHORITY.fullmatch(parts.netloc) or parts.fragment or not parts.hostname:
        raise ForbiddenTargetError(
            "a webhook's URL has a host, no user or password, and no fragment",
            hint="put a token into the path or the query, where the other side wants it",
        )
    secure = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return secure, parts.hostname.rstrip("."), port if port is not None else (443 if secure else 80), path


def check_written(url: str, rules: Rules) -> None:
    """What a URL shows by itself: its form, and its address if it is written as one. Names are judged when they are used.

    Raises:
        ForbiddenTargetError: it is none that could be allowed.
    """
    _, host, port, _ = check_url(url, rules)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return
    for item in found:
        _check_address(str(item[4][0]), rules)


def aim(url: str, rules: Rules, resolve: Resolve | None = None) -> Target:
    """Take a URL apart, resolve its host, judge every address, and choose the one to connect to.

    Raises:
        ForbiddenTargetError: it leads where it must not.
        DeliveryError: its host is not known.
    """
    secure, host, port, path = check_url(url, rules)
    try:
        found = (resolve or _resolve)(host, port)
    except (OSError, UnicodeError):
        found = ()
    if not found:
        raise DeliveryError(f"the host {host} is not known")
    for text in found:
        _check_address(text, rules)
    return Target(secure, host, port, path, found[0])


def _check_address(text: str, rules: Rules) -> None:
    try:
        address: Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        raise ForbiddenTargetError("the host's address cannot be read") from None
    if any(_is_in(address, network) for network in rules.networks):
        return
    inner = _carried(address)
    if not _is_public(inner):
        raise ForbiddenTargetError(f"the host has the address {address}, which is not a public one")


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address not in _PUBLIC_6:
        return False
    special = any(address.version == network.version and address in network for network in _NOT_PUBLIC)
    return address.is_global and not special and address not in _SERVICES


def _is_in(address: Address, network: str) -> bool:
    wanted = ipaddress.ip_network(network)
    return address.version == wanted.version and address in wanted


def _carried(address: Address) -> Address:
    """The IPv4 address that an IPv6 address carries in itself (mapped, compatible, 6to4, Teredo, NAT64), or the address itself.

    Those of a site's own NAT64 carry what only that site knows; they are judged as the private addresses that they are.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64_LOCAL:
        return ipaddress.IPv6Address("::1")
    if address in _NAT64 or address in _COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _resolve(host: str, port: int) -> Sequence[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(item[4][0]) for item in found))
