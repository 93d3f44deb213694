"""Getting to know a server by the digest of its authority, over TLS that nobody has verified yet."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import pytest
from tests.unit.trust.authority import Authority
from tests.unit.trust.loopback import Request, reply, serving

from kmend.trust.errors import CertificateError, MismatchError, TrustError
from kmend.trust.network import Network
from kmend.trust.pinning import fetch_authority
from kmend.trust.transport import Transport


def pin_of(text: str) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).hexdigest()


def context_of(authority: Authority, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.issue(name))
    return context


def test_the_pinned_authority_is_taken_and_verifies_the_server_from_then_on(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    text = authority.file().read_text()
    with serving(lambda request: reply(200, text.encode()), context_of(authority, "127.0.0.1")) as server:
        url = f"https://127.0.0.1:{server.port}/v1/authority"
        assert fetch_authority(url, pin_of(text)) == text
        (tmp_path / "kept.pem").write_text(text)
        network = Network(ca_file=str(tmp_path / "kept.pem"), system_ca=False, attempts=1)
        assert Transport(network).get(url, 10_000).content == text.encode()


def test_another_authority_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    authority, other = Authority(tmp_path), Authority(tmp_path / "other")
    wanted = pin_of(authority.file().read_text())
    forged = other.file().read_bytes()
    seen: list[Request] = []

    def script(request: Request) -> bytes:
        seen.append(request)
        return reply(200, forged)

    with serving(script, context_of(other, "127.0.0.1")) as server:
        url = f"https://127.0.0.1:{server.port}/v1/authority"
        with pytest.raises(MismatchError, match="not the pinned one"):
            fetch_authority(url, wanted)
        assert len(seen) == 1
        with pytest.raises(CertificateError):  # and whoever shows its certificate is not believed elsewhere
            Transport(Network(ca_file=str(authority.file()), system_ca=False, attempts=1)).get(url, 10_000)


@pytest.mark.parametrize("attempt", range(6))
def test_a_second_certificate_behind_the_pinned_one_is_not_let_in(tmp_path: Path, attempt: int) -> None:
    (tmp_path / "other").mkdir()
    pinned, evil = (Authority(folder).file().read_text() for folder in (tmp_path, tmp_path / "other"))
    with serving(lambda request: reply(200, (pinned + evil).encode())) as server:
        url = f"http://127.0.0.1:{server.port}/v1/authority"
        try:  # base64 that is read leniently ends at its padding, which not every certificate has
            assert fetch_authority(url, pin_of(pinned)) == pinned
        except MismatchError:
            assert "=" not in pinned


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate(body: bytes) -> None:
    with serving(lambda request: reply(200, body)) as server, pytest.raises(TrustError):
        fetch_authority(f"http://127.0.0.1:{server.port}/v1/authority", "0" * 64)


def test_too_large_is_not_taken() -> None:
    with serving(lambda request: reply(200, b"x" * 100_000)) as server, pytest.raises(TrustError):
        fetch_authority(f"http://127.0.0.1:{server.port}/v1/authority", "0" * 64)


@pytest.mark.parametrize("pin", ["", "00", "0" * 63, "G" * 64, "0" * 65])
def test_what_is_no_pin_asks_nobody(pin: str) -> None:
    with pytest.raises(CertificateError, match="64 hexadecimal digits"):
        fetch_authority("https://127.0.0.1:9/v1/authority", pin)
