"""An S3-compatible store in a hundred lines, on loopback: it checks signatures, keeps objects in memory, and lists by pages."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

from kmend.server.repository.sigv4 import Credentials, Request, authorization

PAGE = 3


@dataclass
class Imitation:
    """The store.

    Attributes:
        objects: key -> content.
        puts: keys, in the order in which they came.
        failures: statuses that the next requests get instead of an answer.
        denied: requests whose signature was wrong.
    """

    credentials: Credentials
    bucket: str
    region: str = "us-east-1"
    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    puts: list[str] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    denied: int = 0


@contextlib.contextmanager
def running(store: Imitation) -> Iterator[Imitation]:
    """Serve `store` until the block ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            pass

        def _go(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if store.failures:
                self._answer(store.failures.pop(0))
            elif not self._is_signed(body):
                store.denied += 1
                self._answer(403)
            else:
                self._act(body)

        do_GET = do_HEAD = do_PUT = _go  # noqa: N815 - the base's names

        def _is_signed(self, body: bytes) -> bool:
            given = self.headers.get("Authorization", "")
            names = given.partition("SignedHeaders=")[2].partition(",")[0].split(";")
            parts = urlsplit(self.path)
            payload = hashlib.sha256(body).hexdigest()
            request = Request(
                self.command,
                unquote(parts.path),
                dict(parse_qsl(parts.query, keep_blank_values=True)),
                {name: self.headers.get(name, "") for name in names},
                payload,
            )
            moment = self.headers.get("x-amz-date", "")
            expected = authorization(request, store.credentials, region=store.region, moment=moment)
            return given == expected and self.headers.get("x-amz-content-sha256") == payload and "host" in names

        def _act(self, body: bytes) -> None:
            parts = urlsplit(self.path)
            key = unquote(parts.path).removeprefix(f"/{store.bucket}").removeprefix("/")
            if self.command == "PUT":
                store.objects[key] = body
                store.puts.append(key)
                self._answer(200)
            elif not key:
                self._list(dict(parse_qsl(parts.query)))
            elif key not in store.objects:
                self._answer(404)
            else:
                self._give(store.objects[key])

        def _give(self, content: bytes) -> None:
            etag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
            headers = {"ETag": etag, "Last-Modified": formatdate(1_700_000_000, usegmt=True)}
            if self.headers.get("If-Match", etag) != etag:
                self._answer(412)
                return
            span = self.headers.get("Range", "").removeprefix("bytes=")
            if span:
                first, _, last = span.partition("-")
                headers["Content-Range"] = f"bytes {span}/{len(content)}"
                self._answer(206, content[int(first) : int(last) + 1], headers)
            else:
                self._answer(200, content, headers)

        def _list(self, query: dict[str, str]) -> None:
            keys = sorted(key for key in store.objects if key.startswith(query.get("prefix", "")))
            begin = int(query.get("continuation-token", "0"))
            items = "".join(
                f"<Contents><Key>{escape(key)}</Key><Size>{len(store.objects[key])}</Size></Contents>"
                for key in keys[begin : begin + PAGE]
            )
            more = begin + PAGE < len(keys)
            token = f"<NextContinuationToken>{begin + PAGE}</NextContinuationToken>" if more else ""
            text = (
                '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                f"<IsTruncated>{str(more).lower()}</IsTruncated>{items}{token}</ListBucketResult>"
            )
            self._answer(200, text.encode())

        def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    store.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
