"""A server as hosts see it, in memory: it judges as the real one does, and can lie, lose answers and refuse."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from kmend.core.document import decode, encode
from kmend.core.manifest import sha256_hex
from kmend.core.wire import (
    CHECK_IN_PATH,
    ENROL_PATH,
    HOST_HEADER,
    NEWS_PATH,
    SIGNATURE_HEADER,
    SPLIT_PATH,
    Answer,
    CheckIn,
    Enrolled,
    Enrolment,
    ModuleReport,
    News,
    NewsRequest,
    Offer,
    Purpose,
    Refusal,
    Split,
    StateReport,
    signed_bytes,
)

SERVER = "5e" * 16
KEY = "kmend_enrol_a-key"
MAX_RESYNCS = 3


@dataclass
class Row:
    """What the server has of a host."""

    public_key: str
    machine: str
    parent: str = ""
    counter: int = 0
    resyncs: int = 0
    boot_id: str = ""
    former: list[str] = field(default_factory=list)
    report: str = ""
    state: StateReport | None = None
    modules: str = ""
    module_report: ModuleReport | None = None
    decommissioned: bool = False
    offer: Offer | None = None


class Director:
    """The server.

    Attributes:
        timestamp: what it gives as the repository's.
        meddle: is shown each good answer and says what is sent instead; None for nothing.
        received: requests, as (path, headers, body).
        news: what hosts have seen when they have seen everything.
        wants_modules: it is one that knows what a module report is.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.timestamp = ""
        self.next = 900
        self.spread = 0
        self.news = "1.1"
        self.wants_modules = False
        self.meddle: Callable[[str, int, bytes], tuple[int, bytes] | None] | None = None
        self.retry_after = ""
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self._numbers = 0

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Judge one request; status and body."""
        self.received.append((path, headers, body))
        work = {
            ENROL_PATH: self._enrol,
            CHECK_IN_PATH: self._check_in,
            NEWS_PATH: self._news,
            SPLIT_PATH: self._split,
        }[path]
        found = work(body, headers.get(SIGNATURE_HEADER, ""), headers.get(HOST_HEADER, ""))
        status, content = (found.status, encode(found)) if isinstance(found, Refusal) else (200, encode(found))
        meddled = self.meddle(path, status, content) if self.meddle is not None else None
        return meddled or (status, content)

    def offer(self, offer: Offer | None) -> None:
        """Offer the same to every host."""
        for row in self.rows.values():
            row.offer = offer

    def _enrol(self, body: bytes, signature: str, host: str) -> object:
        message = decode(Enrolment, body)
        if host or not verified(message.public_key, signature, Purpose.ENROL, "", body):
            return refusal("signature", 401)
        for known, row in self.rows.items():
            if row.public_key == message.public_key:
                return refusal("enrolment-key", 403) if row.decommissioned else Enrolled(known, SERVER, "default")
        if message.key != KEY:
            return refusal("enrolment-key", 403)
        return Enrolled(self._add(Row(message.public_key, message.facts.machine)), SERVER, "default")

    def _split(self, body: bytes, signature: str, host: str) -> object:
        message = decode(Split, body)
        row = self.rows[host]
        bare = encode(Split(message.host, message.public_key, message.facts))
        if not verified(row.public_key, signature, Purpose.SPLIT, SERVER, body) or not verified(
            message.public_key, message.proof, Purpose.SPLIT, SERVER, bare
        ):
            return refusal("signature", 401)
        for known, other in self.rows.items():
            if other.public_key == message.public_key:
                return Enrolled(known, SERVER, "default")
        return Enrolled(self._add(Row(message.public_key, message.facts.machine, parent=host)), SERVER, "default")

    def _check_in(self, body: bytes, signature: str, host: str) -> object:
        message = decode(CheckIn, body)
        row = self.rows.get(host)
        if row is None:
            return refusal("unknown-host", 403)
        if message.host != host or not verified(row.public_key, signature, Purpose.CHECK_IN, SERVER, body):
            return refusal("signature", 401)
        if row.decommissioned:
            return refusal("decommissioned", 403)
        report = message.state
        if message.boot_id in row.former or (report is not None and report.facts.machine != row.machine):
            return refusal("cloned", 409)
        if message.counter <= row.counter:
            row.resyncs += 1
            return refusal("cloned", 409) if row.resyncs > MAX_RESYNCS else refusal("counter-behind", 409, row.counter)
        if report is not None:
            assert sha256_hex(encode(report)) == message.report
            assert report.boot_id == message.boot_id
            row.report, row.state = message.report, report
        if message.boot_id != row.boot_id:
            row.former = [row.boot_id, *row.former] if row.boot_id else row.former
            row.boot_id, row.resyncs = message.boot_id, 0
        row.counter = message.counter
        if self.wants_modules and (message.module_report is not None or not message.modules):
            row.modules, row.module_report = message.modules, message.module_report
        tag = sha256_hex(encode(row.offer))[:16] if row.offer is not None else ""
        wants_state = report is None and message.report != row.report
        offer = None if tag == message.answer else row.offer
        wants_modules = self.wants_modules and message.modules != row.modules
        wait = 1 if wants_state or wants_modules else self.next
        return Answer(tag, wait, self.timestamp, offer, wants_state, wants_modules)

    def _news(self, body: bytes, signature: str, host: str) -> object:
        row = self.rows.get(decode(NewsRequest, body).host)
        if row is None:
            return refusal("unknown-host", 403)
        if not verified(row.public_key, signature, Purpose.NEWS, SERVER, body):
            return refusal("signature", 401)
        return News(self.news, self.spread)

    def _add(self, row: Row) -> str:
        self._numbers += 1
        host = f"{self._numbers:032x}"
        self.rows[host] = row
        return host


def refusal(word: str, status: int, counter: int = 0) -> Refusal:
    """What the server says instead."""
    return Refusal(f"urn:kmend:problem:{word}", "The request is refused.", status, "for a test", counter)


def verified(public_key: str, signature: str, purpose: Purpose, server: str, body: bytes) -> bool:
    """Whether a signature is that key's."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(
            bytes.fromhex(signature), signed_bytes(purpose, server, body)
        )
    except (InvalidSignature, ValueError):
        return False
    return True


class Listening:
    """A director on the loopback, without TLS."""

    def __init__(self, director: Director) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, content = director.answer(self.path, dict(self.headers), body)
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                if director.retry_after:
                    self.send_header("Retry-After", director.retry_after)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Listening:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
