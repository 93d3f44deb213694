"""TLS: whom a host believes, and what it says when it does not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.unit.trust.authority import Authority
from tests.unit.trust.loopback import CLOSE, Script, reply, serving

from kmend.trust import clockcheck
from kmend.trust.certificates import EXPIRED, NOT_YET_VALID, make_context
from kmend.trust.errors import (
    CertificateError,
    ClockError,
    NetworkSettingsError,
    RedirectError,
    SlowError,
    UnreachableError,
)
from kmend.trust.network import Network
from kmend.trust.transport import Transport

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def answering(_: object) -> bytes:
    return reply(200, b"here")


def network(authority: Authority, *, client: str = "") -> Network:
    return Network(
        ca_file=str(authority.file()),
        system_ca=False,
        connect=2,
        read=2,
        total=5,
        attempts=2,
        client_certificate=client,
    )


def get(url: str, network: Network) -> bytes:
    return Transport(network, environment={}, sleep=lambda _: None).get(f"{url}/a", 100).content


def test_own_authority(authority: Authority) -> None:
    with serving(answering, authority.server(HOST)) as server:
        assert get(server.url, network(authority)) == b"here"


def test_stranger_is_not_believed(authority: Authority) -> None:
    with serving(answering, authority.server(HOST)) as server, pytest.raises(CertificateError) as caught:
        get(server.url, Network(connect=2, read=2))
    assert "is not trusted" in caught.value.message
    assert "ca_file" in caught.value.hint
    assert server.connections == 1


def test_other_name(authority: Authority) -> None:
    with (
        serving(answering, authority.server("other.example")) as server,
        pytest.raises(CertificateError, match="for another name"),
    ):
        get(server.url, network(authority))


@pytest.mark.parametrize(("begins", "ends", "code"), [(-9, -2, EXPIRED), (2, 9, NOT_YET_VALID)])
def test_certificate_out_of_its_time(authority: Authority, begins: int, ends: int, code: int) -> None:
    context = authority.server(HOST, begins=begins, ends=ends)
    with serving(answering, context) as server, pytest.raises(CertificateError) as caught:
        get(server.url, network(authority))
    problem, now = caught.value, time.time()
    assert problem.verify_code == code
    # The host has verified something that was signed a year later than its clock says: the clock is to blame, for certain.
    proven = clockcheck.certificate(problem, now=now, signed=int(now + 365.25 * 86_400))
    assert isinstance(proven, ClockError)
    assert "1 year behind" in proven.message
    likely = clockcheck.certificate(problem, now=now, signed=None)
    assert isinstance(likely, ClockError) == (code == NOT_YET_VALID)
    assert "clock" in likely.diagnosis()


def test_client_certificate(authority: Authority) -> None:
    with serving(answering, authority.server(HOST, wants_client=True)) as server:
        assert get(server.url, network(authority, client=str(authority.issue("host.example")))) == b"here"
        with pytest.raises(UnreachableError):
            get(server.url, network(authority))


def test_no_redirect_out_of_tls(authority: Authority) -> None:
    with serving(answering) as plain:

        def script(_: object) -> bytes:
            return reply(302, Location=f"{plain.url}/b")

        with serving(script, authority.server(HOST)) as server, pytest.raises(RedirectError, match="from https"):
            get(server.url, network(authority))
    assert plain.requests == []


def test_slow_over_tls(authority: Authority) -> None:
    def script(_: object) -> list[bytes | float]:
        pieces: list[bytes | float] = [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"]
        for _number in range(100):
            pieces += [b"x", 0.05]
        return pieces

    quick = Network(ca_file=str(authority.file()), system_ca=False, connect=2, read=2, total=0.4)
    begun = time.monotonic()
    typed: Script = script
    with serving(typed, authority.server(HOST)) as server, pytest.raises(SlowError):
        get(server.url, quick)
    assert time.monotonic() - begun < 3


def test_server_that_speaks_no_tls() -> None:
    with serving(lambda _: [CLOSE]) as server, pytest.raises(UnreachableError):
        get(server.url.replace("http:", "https:"), Network(connect=1, read=0.3, total=2, attempts=1))


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_unusable_files_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NetworkSettingsError, match=r"network\.ca_file .*x\.pem"):
        make_context(Network(ca_file=str(path)))
    with pytest.raises(NetworkSettingsError, match=r"network\.client_certificate .*x\.pem"):
        make_context(Network(client_certificate=str(path)))
