"""What a review of the host side found, in the server's operation: connections, leases, certificates, duties."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from sqlalchemy import Connection, func, select
from tests.unit.server.conftest import NOW
from tests.unit.server.hosts.machines import enrolled, judge

from kmend.core import durable
from kmend.core.errors import SystemProblemError
from kmend.server import notices
from kmend.server.config import ServerConfig
from kmend.server.hosts import refusals
from kmend.server.operations import authority, metrics, serving
from kmend.server.operations.certificates import ServedCertificate
from kmend.server.operations.clockwork import LEASE_SECONDS, Clockwork, Duty
from kmend.server.operations.duties import Duties
from kmend.server.operations.errors import CertificateFileError
from kmend.server.operations.protocol import BoundedProtocol
from kmend.server.repository import Mirror
from kmend.server.store import Store, tables

YEAR = 365 * 86_400
LARGE = 8_000_000
TODAY = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
DAYS = datetime.timedelta(days=1)

# Connections


class Quick(BoundedProtocol):
    arrival_seconds = 1.0
    reading_seconds = 0.5


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers `/large` with much, anything else when the request has come, `/held` never."""
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/held":
        await asyncio.sleep(3600)
    body = b"x" * LARGE if scope["path"] == "/large" else b"good"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for begin in range(0, len(body), 256 * 1024):
        piece = body[begin : begin + 256 * 1024]
        await send({"type": "http.response.body", "body": piece, "more_body": begin + len(piece) < len(body)})


@dataclass(frozen=True)
class Listening:
    """A server with this protocol, in this process."""

    port: int
    tls: Path | None

    def connect(self, *, buffer: int = 0) -> socket.socket:
        sock = socket.socket()
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", self.port))
        if self.tls is None:
            return sock
        return ssl.create_default_context(cafile=str(self.tls)).wrap_socket(sock, server_hostname="localhost")


@pytest.fixture(scope="module", params=["plain", "tls"])
def listening(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    folder, context = tmp_path_factory.mktemp("tls"), None
    if request.param == "tls":
        authority.make_authority(folder, "k", now=TODAY)
        authority.issue(folder, ("localhost",), now=TODAY)
        context = ServedCertificate(folder / "server.pem", folder / "server.key").context
    settings = uvicorn.Config(
        app, loop="uvloop", http=Quick, ws="none", lifespan="off", log_config=None, access_log=False,
        timeout_graceful_shutdown=0, ssl_context_factory=(lambda _, __: context) if context is not None else None,
    )  # fmt: skip
    server = uvicorn.Server(settings)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield Listening(listener.getsockname()[1], folder / "authority.pem" if context is not None else None)
    server.should_exit = True
    thread.join(20)
    listener.close()


def cut(problem: str) -> float:
    found: float = metrics.refusals.labels(area="connection", problem=problem)._value.get()
    return found


@contextlib.contextmanager
def is_cut(problem: str) -> Iterator[None]:
    """Within this, a connection is cut for that reason, after some time."""
    before = cut(problem)
    yield
    end = time.monotonic() + 20
    while cut(problem) == before:
        assert time.monotonic() < end, f"nothing was cut as {problem}"
        time.sleep(0.02)


def over(sock: socket.socket) -> bool:
    """Whether the other side has ended the connection."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        return sock.recv(1000) == b""
    return True


def test_trailers_count_as_the_head(listening: Listening) -> None:
    with is_cut("head-too-large"), listening.connect() as sock, contextlib.suppress(OSError):
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        for number in range(200):
            sock.sendall(b"X-%05d: " % number + b"a" * 8000 + b"\r\n")


def test_small_trailers_and_many_small_pieces_are_taken(listening: Listening) -> None:
    with listening.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        sock.sendall(b"".join(b"400\r\n" + b"a" * 0x400 + b"\r\n" for _ in range(50)) + b"0\r\nX-Sum: 1\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "second", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"]
)
def test_a_second_request_waits_for_the_first_ones_answer(listening: Listening, second: bytes) -> None:
    with is_cut("pipelined"), listening.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + second)


def test_no_head_is_gathered_while_another_request_is_under_way(listening: Listening) -> None:
    with is_cut("pipelined"), listening.connect() as sock:
        sock.sendall(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.1)
        sock.sendall(b"GET / HTTP/1.1\r\nX-Filler: a")
        assert over(sock)


def test_a_later_request_must_arrive_in_time_too(listening: Listening) -> None:
    with is_cut("too-slow"), listening.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")
        while not over(sock):
            pass


def test_who_asks_for_much_and_does_not_read_is_cut(listening: Listening) -> None:
    with is_cut("reads-too-slowly"), listening.connect(buffer=4096) as sock:
        sock.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(1.5)


def test_who_reads_slowly_but_reads_gets_everything(listening: Listening) -> None:
    before, received = cut("reads-too-slowly"), 0
    with listening.connect(buffer=4096) as sock:
        sock.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        end = (
            time.monotonic() + 6 * Quick.reading_seconds
        )  # the buffers of the kernel alone hold more than is read meanwhile
        while received < LARGE:
            piece = sock.recv(2048 if time.monotonic() < end else 65536)
            assert piece
            received += len(piece)
            if time.monotonic() < end:
                time.sleep(0.03)
    assert cut("reads-too-slowly") == before


# Leases


def test_a_lease_that_was_taken_while_the_clock_was_ahead_does_not_last(store: Store) -> None:
    duty = Duty("work", lambda now: None, 1)
    killed = Clockwork(store, [duty], lambda: NOW, holder="killed")
    assert killed.turn(duty, NOW + YEAR)
    assert Clockwork(store, [duty], lambda: NOW, holder="next").turn(duty, NOW)


def test_who_asked_while_the_clock_was_ahead_asks_again(store: Store) -> None:
    duty = Duty("work", lambda now: None, 1)
    one, two = (Clockwork(store, [duty], lambda: NOW, holder=name) for name in ("one", "two"))
    assert one.turn(duty, NOW + YEAR)
    assert not two.turn(duty, NOW + YEAR)
    one.stop()  # gives it back
    assert two.turn(duty, NOW)


def test_a_lease_that_is_held_is_not_taken_for_one_of_the_future(store: Store) -> None:
    duty = Duty("work", lambda now: None, 1)
    one, two = (Clockwork(store, [duty], lambda: NOW, holder=name) for name in ("one", "two"))
    assert one.turn(duty, NOW)
    assert not two.turn(duty, NOW - LEASE_SECONDS), "two clocks are never quite alike"


# Hosts that are silent


def test_an_ephemeral_host_outlives_the_servers_absence(store: Store) -> None:
    host, upkeep = _ephemeral(store, 7200)
    later = NOW + 3 * 3600
    upkeep(later)
    (answer,) = judge(store, host.check_in(), now=later + 1)
    assert answer is not refusals.EXPIRED
    begun = later + 1
    for now in range(begun, begun + 7200 + 2 * 900, 60):
        upkeep(now)
    assert _state(store) == "enrolled"
    for now in range(begun + 7200 + 2 * 900, begun + 7200 + 2 * 900 + 120, 60):
        upkeep(now)
    assert _state(store) == "expired"


def test_an_ephemeral_host_outlives_the_databases_absence(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _, upkeep = _ephemeral(store, 7200)
    upkeep(NOW)
    with monkeypatch.context() as away:
        away.setattr(type(store), "transact", _gone)
        for now in range(NOW + 60, NOW + 3 * 3600, 60):
            with pytest.raises(SystemProblemError):
                upkeep(now)
    upkeep(NOW + 3 * 3600)
    assert _state(store) == "enrolled"


def test_an_ephemeral_host_may_be_silent_between_two_check_ins(store: Store) -> None:
    host, upkeep = _ephemeral(store, 60)
    received = host.check_in()
    wait = host.take(judge(store, received)[0], received).next
    for now in range(NOW, NOW + wait + 60, 60):
        upkeep(now)
    assert _state(store) == "enrolled"


def test_people_are_told_of_silent_hosts_although_the_first_try_failed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrolled(store, "h")
    made = Duties(ServerConfig(), store, Mirror(store))
    told: list[str] = []
    post, real = notices.post, made._tend_hosts

    def noted(connection: Connection, event: notices.Event, subject: str, body: str, now: int) -> object:
        told.append(body)
        return post(connection, event, subject, body, now)

    def fails(connection: Connection, now: int) -> int:
        real(connection, now)
        raise SystemProblemError("the disk is full")

    monkeypatch.setattr(notices, "post", noted)
    with monkeypatch.context() as full:
        full.setattr(Duties, "_tend_hosts", lambda self, connection, now: fails(connection, now))
        with pytest.raises(SystemProblemError):
            made._upkeep(NOW + 86_400)
    made._upkeep(NOW + 86_460)
    made._upkeep(NOW + 86_520)
    assert len(told) == 2, "once in vain, once for good"
    made.close()


def _ephemeral(store: Store, seconds: int) -> tuple[Any, Callable[[int], object]]:
    (host,) = enrolled(store, "eph", ephemeral_seconds=seconds)
    return host, {duty.name: duty.work for duty in Duties(ServerConfig(), store, Mirror(store)).all()}["upkeep"]


def _state(store: Store) -> str:
    with store.read() as connection:
        assert connection.execute(select(func.count()).select_from(tables.hosts)).scalar_one() == 1
        state: str = connection.execute(select(tables.hosts.c.state)).scalar_one()
    return state


def _gone(*given: object, **more: object) -> None:
    raise SystemProblemError("the database is away")


# Certificates


def test_a_certificate_of_the_future_is_issued_anew(tmp_path: Path) -> None:
    _tls(tmp_path, TODAY)
    assert authority.renew(tmp_path, now=TODAY + 700 * DAYS)
    assert authority.renew(tmp_path, now=TODAY)
    assert authority.read_certificate(tmp_path / "server.pem").not_valid_before_utc <= TODAY
    assert not authority.renew(tmp_path, now=TODAY)


def test_in_the_authoritys_last_days_no_certificate_is_issued_in_vain(tmp_path: Path) -> None:
    authority.make_authority(tmp_path, "k", now=TODAY - 3620 * DAYS)
    authority.issue(tmp_path, ("localhost",), now=TODAY - 100 * DAYS)
    assert not authority.renew(tmp_path, now=TODAY)


def test_that_the_authority_is_over_is_said(tmp_path: Path) -> None:
    authority.make_authority(tmp_path, "k", now=TODAY - 3651 * DAYS)
    authority.issue(tmp_path, ("localhost",), now=TODAY - 100 * DAYS)
    with pytest.raises(CertificateFileError, match="authority is over"):
        authority.renew(tmp_path, now=TODAY + 2 * DAYS)


def test_a_server_whose_certificate_cannot_be_renewed_yet_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _tls(tmp_path / "tls", TODAY - 339 * DAYS)
    monkeypatch.setattr(durable, "write_durably", _gone)
    config = _config(tmp_path)
    assert isinstance(serving._certificate(config), ServedCertificate)
    assert "cannot be issued anew" in caplog.text


def test_what_somebody_else_renewed_is_shown_although_renewal_fails(
    sqlite: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tls(tmp_path / "tls", TODAY - 339 * DAYS)
    config = _config(tmp_path)
    served = ServedCertificate(config.certificate, config.key)
    before = served._shown
    made = Duties(config, sqlite, Mirror(sqlite), served)
    authority.issue(tmp_path / "tls", ("localhost",), now=TODAY - 339 * DAYS)
    monkeypatch.setattr(durable, "write_durably", _gone)
    with pytest.raises(SystemProblemError):
        made._certificate(int(TODAY.timestamp()))
    assert served._shown is not before
    made.close()


def _tls(folder: Path, now: datetime.datetime) -> None:
    authority.make_authority(folder, "k", now=now)
    authority.issue(folder, ("localhost",), now=now)


def _config(folder: Path) -> ServerConfig:
    config = ServerConfig()
    return replace(config, server=replace(config.server, data=str(folder)))
