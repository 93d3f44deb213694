"""The sockets that a server listens on."""

from __future__ import annotations

import resource
import socket
from collections.abc import Sequence

from kmend.core.errors import SystemProblemError
from kmend.server.config import read_address

BACKLOG = 4096


def listen(addresses: Sequence[str], *, port: int | None = None, shared: bool = False) -> list[socket.socket]:
    """Listen on addresses.

    Args:
        port: instead of the ports of the addresses; 0 lets the kernel choose, the same for all of them.
        shared: let other processes listen on the same ports; the kernel spreads connections over them (SO_REUSEPORT).

    Raises:
        SystemProblemError: one cannot be listened on.
    """
    found: list[socket.socket] = []
    try:
        for address in addresses:
            host, own = read_address(address)
            wanted = own if port is None else port
            if wanted == 0 and found:
                wanted = port_of(found[0])
            found.append(_listen(host, wanted, shared=shared))
    except OSError as problem:
        for sock in found:
            sock.close()
        raise SystemProblemError(
            f"cannot listen on {address}: {problem.strerror or problem}",
            hint="another program has that port, or this account may not use it (below 1024)",
        ) from None
    return found


def raise_file_limit() -> None:
    """Let this process have as many connections as it may: each is a descriptor, and the usual limit is that of a shell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def port_of(sock: socket.socket) -> int:
    """The port that a socket is bound to."""
    return int(sock.getsockname()[1])


def shown(sock: socket.socket) -> str:
    """Its address, as it may stand in a URL."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen(host: str, port: int, *, shared: bool) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
    )[0]
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
