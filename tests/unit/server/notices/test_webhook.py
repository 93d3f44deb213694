"""Webhooks over real connections: signed, to the address that was judged, no further."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
from pathlib import Path

import pytest
from tests.unit.trust.authority import Authority
from tests.unit.trust.loopback import Request, Step, reply, serving

from kmend.server.notices import webhook
from kmend.server.notices.errors import DeliveryError, ForbiddenTargetError
from kmend.server.notices.guard import Rules
from kmend.trust.network import Network

HERE = Rules(("127.0.0.0/8",), http=True)
BODY = b'{"event":"channel.test"}'
SECRET = "kmend_hook_of_a_test"


def send(
    url: str, *, rules: Rules = HERE, seconds: float = 5, network: Network | None = None, name: str = "127.0.0.1"
) -> None:
    webhook.send(url, SECRET, 7, BODY, now=1000, rules=rules, seconds=seconds, network=network,
                 resolve=lambda host, port: [name])  # fmt: skip


def test_it_is_one_signed_post() -> None:
    def script(request: Request) -> bytes:
        return reply(204)

    with serving(script) as server:
        send(f"{server.url}/hook?x=1")
        request = server.requests[0]
    assert (request.method, request.path) == ("POST", "/hook?x=1")
    expected = hmac.new(SECRET.encode(), b"1000." + BODY, hashlib.sha256).hexdigest()
    assert request.headers["kmend-webhook-signature"] == f"t=1000,v1={expected}"
    assert request.headers["kmend-webhook-id"] == "7"
    assert request.headers["content-length"] == str(len(BODY))
    assert json.loads(BODY)["event"] == "channel.test"


def test_a_name_that_changes_its_mind_gains_nothing() -> None:
    """The connection goes to the address that was judged, though the name would lead here by now."""
    asked = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["93.184.216.34"] if len(asked) > 1 else ["127.0.0.1"]

    with serving(lambda request: reply(200)) as server:
        with pytest.raises(ForbiddenTargetError):
            webhook.send(f"http://rebind.example:{server.port}/", SECRET, 1, BODY, now=1, seconds=2,
                         rules=Rules(http=True), resolve=rebinding)  # fmt: skip
        assert server.connections == 0
        webhook.send(f"http://rebind.example:{server.port}/", SECRET, 1, BODY, now=1, seconds=2, rules=HERE,
                     resolve=lambda host, port: ["127.0.0.1"])  # fmt: skip
        assert server.requests[0].headers["host"] == f"rebind.example:{server.port}"
    assert asked == ["rebind.example"]


def test_no_redirection_is_followed() -> None:
    with serving(lambda request: reply(302, b"", Location="http://127.0.0.1:1/metrics")) as server:
        with pytest.raises(DeliveryError, match="no redirection is followed"):
            send(server.url)
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_what_is_not_taken_is_a_failure(status: int) -> None:
    with serving(lambda request: reply(status)) as server, pytest.raises(DeliveryError, match=f"HTTP {status}"):
        send(server.url)


def test_a_long_answer_is_not_read_to_its_end() -> None:
    def script(request: Request) -> list[Step]:
        return [b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", b"x" * 200_000, 5.0]

    with serving(script) as server:
        send(server.url)


def test_who_answers_byte_by_byte_is_left() -> None:
    def script(request: Request) -> list[Step]:
        return [piece for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100 for piece in (bytes([byte]), 0.05)]

    with serving(script) as server, pytest.raises(DeliveryError):
        send(server.url, seconds=0.5)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(DeliveryError):
        send(f"http://127.0.0.1:{port}/")


def test_tls_is_verified_by_the_urls_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    network = Network(ca_file=str(authority.file()), system_ca=False)
    with serving(lambda request: reply(200), authority.server("hooks.example")) as server:
        send(f"https://hooks.example:{server.port}/", network=network)
        assert len(server.requests) == 1
        with pytest.raises(DeliveryError, match="another name"):
            send(f"https://other.example:{server.port}/", network=network)
        with pytest.raises(DeliveryError, match="not trusted"):
            send(f"https://hooks.example:{server.port}/")
        assert len(server.requests) == 1
