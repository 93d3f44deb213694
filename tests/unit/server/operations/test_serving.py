"""A server process over real connections: TLS, limits, metrics, its end; and the command line as its client."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from tests.unit.server.hosts.machines import Machine
from tests.unit.server.operations.running import PATIENCE, Running

from kmend.core.document import decode, encode
from kmend.core.errors import KmendError
from kmend.core.wire import Enrolled, NewsRequest, Purpose, signed_bytes
from kmend.server.main import cli


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = Running(tmp_path_factory.mktemp("running"))
    yield made
    made.close()


def connected(running: Running) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(running.authority))
    plain = socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE)
    return context.wrap_socket(plain, server_hostname="localhost")


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def surroundings(running: Running, token: str) -> dict[str, str]:
    return {
        "KMEND_SERVER_URL": running.url,
        "KMEND_SERVER_PIN": running.made.pin,
        "KMEND_SERVER_TOKEN": token,
        "HOME": str(running.folder),
    }


def command(running: Running, *words: str, token: str | None = None) -> Done:
    """A command, in this process."""
    given = surroundings(running, running.made.token if token is None else token)
    found = CliRunner().invoke(cli, list(words), env=given, standalone_mode=False)
    if isinstance(found.exception, KmendError):
        return Done(found.exception.exit_status, found.stdout, found.exception.diagnosis())
    if isinstance(found.exception, click.ClickException):
        return Done(found.exception.exit_code, found.stdout, found.exception.format_message())
    if found.exception is not None:
        raise found.exception
    return Done(0, found.stdout, found.stderr)


def program(running: Running, *words: str, token: str, pin: str | None = None) -> Done:
    """The same as a program of its own."""
    given = {**os.environ, **surroundings(running, token), "KMEND_SERVER_PIN": running.made.pin if pin is None else pin}
    line = [sys.executable, "-m", "kmend.server", *words]
    done = subprocess.run(line, env=given, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def told(running: Running, *words: str) -> Any:
    done = command(running, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_is_alive_ready_and_shows_whom_hosts_pin(running: Running) -> None:
    assert running.get("/healthz").json() == {"status": "alive"}
    assert running.get("/readyz").json()["ready"] is True
    assert running.get("/v1/authority").data == running.authority.read_bytes()
    assert running.get("/repository/metadata/timestamp.json").status == 404


def test_tls_below_1_2_and_plain_http_are_not_spoken(running: Running) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(running.authority)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as plain,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        old.wrap_socket(plain, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"200" not in plain.recv(1000)


def test_metrics_are_for_this_machine_and_not_for_what_a_proxy_hands_on(running: Running) -> None:
    text = running.get("/metrics").data.decode()
    assert "kmend_server_requests_total" in text
    assert running.get("/metrics", x_forwarded_for="192.0.2.1").status == 401
    assert running.get("/metrics", forwarded="for=192.0.2.1").status == 401


def test_every_answer_carries_the_number_by_which_the_log_knows_it(running: Running) -> None:
    given = running.get("/api/v1/me", x_request_id="from-a-proxy-1")
    assert (given.status, given.headers["x-request-id"]) == (401, "from-a-proxy-1")
    made = running.get("/api/v1/me", x_request_id="bad one")
    assert len(made.headers["x-request-id"]) == 16
    wanted, logged = {"from-a-proxy-1", made.headers["x-request-id"]}, set[str]()
    for _ in range(200):  # the line is written after the answer
        logged = {json.loads(line).get("request", "") for line in running.log().splitlines() if line.endswith("}")}
        if wanted <= logged:
            break
        time.sleep(0.05)
    assert wanted <= logged
    assert running.made.token not in running.log()


def test_a_head_without_end_is_cut(running: Running) -> None:
    with connected(running) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(OSError):
            for _ in range(40):
                sock.sendall(b"X-Filler: " + b"a" * 4000 + b"\r\n")
                time.sleep(0.005)
        with contextlib.suppress(OSError):
            assert sock.recv(100) == b""
    assert 'problem="head-too-large"' in running.get("/metrics").data.decode()


@pytest.mark.parametrize("path", ["/v1/check-in", "/api/v1/tokens"])
def test_a_body_without_end_is_refused(running: Running, path: str) -> None:
    with connected(running) as sock:
        authorization = f"Authorization: Bearer {running.made.token}\r\nContent-Type: application/json\r\n"
        sock.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n{authorization}Transfer-Encoding: chunked\r\n\r\n".encode())
        answer = b""
        with contextlib.suppress(OSError):
            for _ in range(400):
                sock.sendall(b"8000\r\n" + b"[" * 0x8000 + b"\r\n")
        with contextlib.suppress(OSError):
            answer = sock.recv(1000)
    assert b" 413 " in answer or answer == b""
    assert running.get("/healthz").status == 200


def test_garbage_is_answered_with_400_and_the_server_goes_on(running: Running) -> None:
    for garbage in (
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        with connected(running) as sock:
            sock.sendall(garbage)
            with contextlib.suppress(OSError):
                assert not sock.recv(1000).startswith(b"HTTP/1.1 2")
    assert running.get("/healthz").status == 200


def test_the_command_line_is_a_client(running: Running) -> None:
    assert told(running, "status")["hosts"] == 0
    assert told(running, "rings", "set", "canary", "--position", "1")["name"] == "canary"
    assert [ring["name"] for ring in told(running, "rings", "list")] == ["canary", "default"]
    assert "canary" in command(running, "rings", "list").stdout
    key = told(running, "keys", "create", "--ring", "canary", "--uses", "2", "--tag", "dc=a", "--network", "10.0.0.0/8")
    assert key["key"]["max_uses"] == 2
    assert told(running, "keys", "list")[0]["id"] == key["key"]["id"]
    assert command(running, "keys", "revoke", key["key"]["id"]).returncode == 0
    plan = running.folder / "plan.toml"
    plan.write_text('[[stages]]\nring = "canary"\nat_once = 1\n[[stages]]\nring = "default"\n')
    assert told(running, "plans", "put", "usual", str(plan))["plan"]["stages"][0]["at_once"] == 1
    assert [item["name"] for item in told(running, "plans", "list")] == ["usual"]
    token = told(running, "tokens", "create", "eyes", "--role", "viewer", "--expires", "1d")
    assert command(running, "rings", "set", "x", token=token["secret"]).returncode == 2
    channel = told(running, "channels", "create", "email", "ops@example.org", "--event", "rollout.halted")["channel"][
        "id"
    ]
    assert command(running, "channels", "test", channel).returncode == 0
    assert command(running, "channels", "remove", channel).returncode == 0
    for words in (("rollouts", "list"), ("levels",), ("recalls",), ("hosts", "list")):
        assert told(running, *words) == []
        assert command(running, *words).stdout == "none\n"
    assert command(running, "hosts", "list", "--count").stdout == "0\n"
    assert command(running, "hosts", "list", "--format", "csv").stdout.startswith("id,name,ring")
    export = running.folder / "audit.ndjson"
    assert command(running, "audit", "export", "-o", str(export)).returncode == 0
    head = command(running, "audit", "head").stdout.strip()
    assert command(running, "audit", "verify", str(export), "--known", head).returncode == 0
    export.write_bytes(export.read_bytes().replace(b"canary", b"dynary", 1))
    done = command(running, "audit", "verify", str(export))
    assert done.returncode != 0
    assert "was changed" in done.stderr


def test_what_the_server_refuses_is_told_as_it_says_it(running: Running) -> None:
    done = program(running, "hosts", "show", "ab" * 16, "--json", token=running.made.token)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["kind"] == "not-found"
    done = program(running, "status", "--json", token="kmend_token_" + "a" * 52)
    assert (done.returncode, json.loads(done.stdout)["error"]["kind"]) == (2, "unauthenticated")
    assert "a" * 52 not in done.stdout + done.stderr
    assert command(running, "rollouts", "create", "x", "--plan", "p", "--newest").returncode == 2
    assert command(running, "hosts", "list", "--seen-within", "soon").returncode == 2


def test_another_server_than_the_pinned_one_gets_no_token(running: Running) -> None:
    done = program(running, "status", token="secret", pin="00" * 32)
    assert done.returncode == 2
    assert "is not the pinned server" in done.stderr
    done = program(running, "status", token="secret", pin="")
    assert done.returncode == 1
    assert "not trusted" in done.stderr


def enrolled(running: Running) -> tuple[Machine, str]:
    key = told(running, "keys", "create", "--ring", "default")["secret"]
    machine = Machine.new(f"h{os.urandom(4).hex()}")
    _, body, signature = machine.enrol_with(key)
    answer = running.pool.request("POST", f"{running.url}/v1/enrol", body=body, headers={"Kmend-Signature": signature})
    assert answer.status == 200, answer.data
    found = decode(Enrolled, answer.data)
    machine.id = found.host
    return machine, found.server


def test_sigterm_lets_waiting_hosts_go_and_ends_in_order(tmp_path: Path) -> None:
    made = Running(tmp_path)
    try:
        machine, server = enrolled(made)
        body = encode(NewsRequest(machine.id, "0.0", int(time.time()), 300))
        signature = machine.key.sign(signed_bytes(Purpose.NEWS, server, body)).hex()
        headers = {"Kmend-Host": machine.id, "Kmend-Signature": signature}
        answers: list[int] = []

        def wait() -> None:
            answers.append(
                made.pool.request("POST", f"{made.url}/v1/news", body=body, headers=headers, retries=False).status
            )

        waiting = threading.Thread(target=wait)
        waiting.start()
        deadline = time.monotonic() + PATIENCE
        while "kmend_server_held_requests 1.0" not in made.get("/metrics").data.decode():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert made.end(signal.SIGTERM) == 0
        waiting.join(PATIENCE)
        assert answers == [200]
    finally:
        made.close()


def test_several_processes_share_a_port_and_one_that_dies_is_started_again(tmp_path: Path) -> None:
    made = Running(tmp_path, "--processes", "2")
    try:
        assert made.get("/healthz").status == 200
        found = subprocess.run(["pgrep", "-P", str(made.process.pid)], capture_output=True, text=True, check=True)
        children = [int(word) for word in found.stdout.split()]
        assert len(children) == 2
        os.kill(children[0], signal.SIGKILL)
        for _ in range(8):
            made.pool.clear()
            assert made.get("/healthz").status == 200
        assert made.end(signal.SIGTERM) == 0
        assert "it is started again" in made.log()
    finally:
        made.close()


def test_it_ends_by_itself_when_told_and_refuses_a_port_that_is_taken(tmp_path: Path) -> None:
    made = Running(tmp_path, "--stop-after", "0.5")
    try:
        assert made.process.wait(PATIENCE) == 0
    finally:
        made.close()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = [sys.executable, "-m", "kmend.server", "run", "--config", str(made.config), "--port", port]
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert "cannot listen on" in done.stderr
