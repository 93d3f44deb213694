"""How the network is to be used: one value, which the agent's configuration makes and the transport obeys."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Network:
    """Proxies, certificates and limits. Paths are of files that are read when they are first needed.

    Attributes:
        proxy: URL of a proxy for everything; empty takes the environment's (`https_proxy` and the like), `none` goes direct.
        no_proxy: hosts that are reached directly, as in the environment's NO_PROXY: names with all names below them,
            addresses, networks (CIDR), each with `:port` if wanted, or `*`. They count in addition to the environment's.
        proxy_credentials: path of a file with `user:password` for the proxy, so that a URL need not hold it.
        ca_file: path of PEM certificates to trust besides the system's, or instead of them if `system_ca` is false.
        client_certificate: path of a PEM certificate that this host shows; with `client_key` if that is another file.
        connect: limit for a connection to stand, in seconds.
        read: limit between two pieces of an answer, in seconds.
        total: limit for one file, repeated attempts included, in seconds; every `min_rate` bytes give one second more.
        min_rate: bytes a second; whoever is slower for long is cut off.
        attempts: how often one file is asked for before giving up.
    """

    proxy: str = ""
    no_proxy: tuple[str, ...] = ()
    proxy_credentials: str = ""
    ca_file: str = ""
    system_ca: bool = True
    client_certificate: str = ""
    client_key: str = ""
    connect: float = 10
    read: float = 30
    total: float = 120
    min_rate: int = 4096
    attempts: int = 4
