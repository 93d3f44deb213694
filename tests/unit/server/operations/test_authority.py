"""The server's certificates: such as strict clients take, renewed under the same pin."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from tests.unit.trust.loopback import reply, serving

from kmend.core.errors import KmendError
from kmend.server.operations import authority
from kmend.trust.network import Network
from kmend.trust.transport import Transport

NOW = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    authority.make_authority(tmp_path, "kmend.example", now=NOW)
    authority.issue(tmp_path, ("kmend.example", "localhost", "127.0.0.1", "::1"), now=NOW)
    return tmp_path


def pin(folder: Path) -> str:
    return authority.pin_of(authority.read_certificate(folder / "authority.pem"))


def test_a_host_that_knows_the_authority_reaches_the_server(folder: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    transport = Transport(Network(ca_file=str(folder / "authority.pem"), system_ca=False), environment={})
    with serving(lambda request: reply(200, b"{}"), context) as server:
        assert transport.get(f"{server.url}/x.json", 10).content == b"{}"
    transport.close()


def test_it_is_what_openssls_strict_checks_want(folder: Path) -> None:
    strict = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    strict.load_verify_locations(folder / "authority.pem")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem", folder / "server.key")
    one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = strict.wrap_bio(one, two, server_hostname="kmend.example")
    served = server.wrap_bio(two, one, server_side=True)
    for _ in range(4):
        for side in (client, served):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.getpeercert() is not None
    certificate = authority.read_certificate(folder / "authority.pem")
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)


def test_renewal_keeps_names_and_pin(folder: Path) -> None:
    before, names = pin(folder), authority.names_of(authority.read_certificate(folder / "server.pem"))
    first = (folder / "server.pem").read_bytes()
    assert not authority.renew(folder, now=NOW)
    assert authority.renew(folder, now=NOW + datetime.timedelta(days=340))
    assert (folder / "server.pem").read_bytes() != first
    assert authority.names_of(authority.read_certificate(folder / "server.pem")) == names
    assert authority.fits(folder / "server.pem", folder / "server.key")
    authority.make_authority(folder, "another", now=NOW)
    assert pin(folder) == before


def test_halves_of_two_pairs_are_issued_again(folder: Path) -> None:
    key = (folder / "server.key").read_bytes()
    authority.issue(folder, ("kmend.example",), now=NOW)
    (folder / "server.key").write_bytes(key)
    assert not authority.fits(folder / "server.pem", folder / "server.key")
    assert authority.renew(folder, now=NOW)
    assert authority.fits(folder / "server.pem", folder / "server.key")


@pytest.mark.parametrize("name", ["", "a b", "a..b", "-" * 70, "é.example", "a/b", "x" * 300])
def test_what_cannot_be_a_name_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(KmendError):
        authority.issue(folder, (name,), now=NOW)


def test_what_is_no_certificate_is_told(folder: Path) -> None:
    (folder / "server.pem").write_text("nothing")
    with pytest.raises(KmendError, match="holds no certificate"):
        authority.renew(folder, now=NOW)
