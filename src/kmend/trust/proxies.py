"""Which proxy stands before a URL, and which hosts are reached without one.

There is no standard for the environment variables. As curl, wget, Python and Go agree: lower case wins over upper
case, `all_proxy` is for schemes that have none of their own, `HTTP_PROXY` in upper case is not believed in a CGI program
(CVE-2016-5385: there a client sets it with a header `Proxy:`). As in Go, NO_PROXY may hold networks, and a name stands for all
names below it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from kmend.trust.errors import NetworkSettingsError


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy.

    Attributes:
        url: `http` or `https` URL without credentials.
        credentials: `user:password`, empty if it wants none; never to be shown.
    """

    url: str
    credentials: str = ""

    def __repr__(self) -> str:
        return f"Proxy({self.url!r})"


@dataclass(frozen=True, slots=True)
class Proxies:
    """What the configuration and the environment say.

    Attributes:
        by_scheme: `http` and `https` -> proxy.
        exceptions: hosts that are reached directly, in the forms of NO_PROXY.
    """

    by_scheme: Mapping[str, Proxy]
    exceptions: tuple[str, ...] = ()

    def before(self, url: str) -> Proxy | None:
        """The proxy for `url`; None if its host is to be reached directly."""
        parts = urlsplit(url)
        proxy = self.by_scheme.get(parts.scheme)
        if proxy is None or excepted(parts.hostname or "", parts.port or _port(parts.scheme), self.exceptions):
            return None
        return proxy


def read_proxies(
    configured: str, exceptions: tuple[str, ...], credentials: str, environment: Mapping[str, str]
) -> Proxies:
    """The proxies to use.

    Args:
        configured: URL of a proxy, empty to take the environment's, `none` for no proxy at all.
        exceptions: in the forms of NO_PROXY, in addition to the environment's.
        credentials: `user:password` for the proxy, whichever it is; empty if its URL holds them or none are wanted.

    Raises:
        NetworkSettingsError: a URL is not that of a proxy that can be used.
    """
    if configured == "none":
        return Proxies({})
    given = _variable(environment, "no_proxy").split(",")
    everywhere = (*exceptions, *(name.strip() for name in given if name.strip()))
    if configured:
        proxy = _proxy(configured, credentials, "network.proxy")
        return Proxies({"http": proxy, "https": proxy}, everywhere)
    found = {}
    for scheme in ("http", "https"):
        for name in (f"{scheme}_proxy", "all_proxy"):
            if url := _variable(environment, name):
                found[scheme] = _proxy(url, credentials, f"the environment's {name}")
                break
    return Proxies(found, everywhere)


def excepted(host: str, port: int, exceptions: tuple[str, ...]) -> bool:
    """Whether NO_PROXY-like `exceptions` name the host; what is neither a name, an address nor a network matches nothing."""
    host = host.lower().rstrip(".")
    return any(_matches(host, port, item.strip().lower()) for item in exceptions)


def _variable(environment: Mapping[str, str], name: str) -> str:
    if name in environment:
        return environment[name].strip()
    if name == "http_proxy" and "REQUEST_METHOD" in environment:
        return ""
    return environment.get(name.upper(), "").strip()


def _proxy(url: str, credentials: str, source: str) -> Proxy:
    hint = "write http://HOST:PORT, https://HOST:PORT or http://USER:PASSWORD@HOST:PORT"
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise NetworkSettingsError(f"{source} is not the URL of a proxy", hint=hint) from None
    if parts.scheme not in ("http", "https") or not host:
        scheme = parts.scheme if parts.scheme.isalnum() else "?"
        raise NetworkSettingsError(f"{source} is not the URL of an HTTP proxy (its scheme is {scheme})", hint=hint)
    if parts.username is not None and not credentials:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    name = f"[{host}]" if ":" in host else host
    return Proxy(f"{parts.scheme}://{name}:{port or _port(parts.scheme)}", credentials)


def _matches(host: str, port: int, item: str) -> bool:
    if item == "*":
        return True
    try:
        network = ipaddress.ip_network(item.strip("[]"), strict=False)
    except ValueError:
        pass
    else:
        address = _address(host)
        return address is not None and address in network
    name, colon, wanted = item.rpartition(":")
    if colon:
        return wanted == str(port) and bool(name) and name != "*" and _matches(host, port, name)
    name = item.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _port(scheme: str) -> int:
    return 443 if scheme == "https" else 80
