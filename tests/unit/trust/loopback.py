"""A server on loopback that does exactly what a test wants, down to the bytes and the pauses between them."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

RESET = "reset"
CLOSE = "close"
Step = bytes | float | str | Callable[[socket.socket], None]
"""Bytes to send, seconds to wait, RESET or CLOSE, or something to do with the connection."""
Script = Callable[["Request"], Iterable[Step] | bytes]


@dataclass(frozen=True, slots=True)
class Request:
    """What came, header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass(slots=True)
class Loopback:
    """A running server.

    Attributes:
        requests: what came so far.
        received: bytes that came, of all requests.
        sent: bytes that were sent.
        connections: how many were accepted.
    """

    url: str
    port: int
    requests: list[Request] = field(default_factory=list)
    received: int = 0
    sent: int = 0
    connections: int = 0

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


def reply(status: int, body: bytes = b"", **headers: str) -> bytes:
    """A whole HTTP answer; underscores in header names become hyphens. Its length is that of the body if none is given."""
    lines = [f"HTTP/1.1 {status} Status"]
    if status != 304 and "Content_Length" not in headers:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextlib.contextmanager
def serving(script: Script, context: ssl.SSLContext | None = None) -> Iterator[Loopback]:
    """Run a server that answers every request by `script`."""
    listener = socket.create_server(("127.0.0.1", 0))
    scheme = "https" if context else "http"
    port = listener.getsockname()[1]
    server = Loopback(f"{scheme}://127.0.0.1:{port}", port)
    stop = threading.Event()

    def connection(plain: socket.socket) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            plain.settimeout(10)
            sock = context.wrap_socket(plain, server_side=True) if context else plain
            with sock:
                while _exchange(sock, server, script, stop):
                    pass

    def accepting() -> None:
        while not stop.is_set():
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            server.connections += 1
            threading.Thread(target=connection, args=(plain,), daemon=True).start()

    thread = threading.Thread(target=accepting, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        stop.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def _exchange(sock: socket.socket, server: Loopback, script: Script, stop: threading.Event) -> bool:
    head = b""
    while b"\r\n\r\n" not in head:
        piece = sock.recv(65536)
        if not piece:
            return False
        head += piece
        server.received += len(piece)
    head, _, body = head.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    while len(body) < length:
        piece = sock.recv(65536)
        if not piece:
            return False
        body += piece
        server.received += len(piece)
    request = Request(method, path, headers, body[:length])
    server.requests.append(request)
    steps = script(request)
    for step in [steps] if isinstance(steps, bytes) else steps:
        if stop.is_set():
            return False
        if isinstance(step, bytes):
            sock.sendall(step)
            server.sent += len(step)
        elif isinstance(step, float):
            time.sleep(step)
        elif callable(step):
            step(sock)
            return False
        else:
            if step == RESET:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
    return True


def tunnel(port: int) -> Callable[[socket.socket], None]:
    """A step that carries bytes between the connection and a port on loopback until either side ends."""

    def carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def step(sock: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as far:
            back = threading.Thread(target=carry, args=(far, sock), daemon=True)
            back.start()
            carry(sock, far)
            back.join(10)

    return step


def folder(path: Path, *, ranges: bool = True, validators: bool = True, date: float | None = None) -> Script:
    """Answers as a good web server does for a folder: ETag, Last-Modified, conditional requests, ranges.

    Args:
        date: what it takes for the present, in seconds since 1970-01-01 UTC; None is the clock's.
    """

    def script(request: Request) -> bytes:
        now = email.utils.formatdate(time.time() if date is None else date, usegmt=True)
        common = {"Server": "loopback", "Date": now}
        try:
            content = (path / request.path.lstrip("/")).read_bytes()
        except OSError:
            return reply(404, b"not found\n", **common, Content_Type="text/plain")
        if validators:
            etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            stamp = email.utils.formatdate((path / request.path.lstrip("/")).stat().st_mtime, usegmt=True)
            common |= {"ETag": etag, "Last-Modified": stamp}
            if request.headers.get("if-none-match") == etag:
                return reply(304, b"", **common)
        begin = request.headers.get("range", "").removeprefix("bytes=").removesuffix("-")
        if ranges and begin and request.headers.get("if-range") in (common.get("ETag"), common.get("Last-Modified")):
            start, size = int(begin), len(content)
            if start >= size:
                return reply(416, b"", **common, Content_Range=f"bytes */{size}")
            return reply(206, content[start:], **common, Content_Range=f"bytes {start}-{size - 1}/{size}")
        return reply(200, content, **common, Content_Type="application/octet-stream")

    return script
