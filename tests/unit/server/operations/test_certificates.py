"""The certificate is shown anew under running handshakes; it used to be loaded into the context that they were reading."""

from __future__ import annotations

import datetime
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.trust.loopback import Loopback, reply, serving

from kmend.server.operations import authority
from kmend.server.operations.certificates import ServedCertificate
from kmend.server.operations.errors import OperationError

NOW = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    authority.make_authority(tmp_path, "kmend.example", now=NOW)
    authority.issue(tmp_path, ("localhost", "127.0.0.1"), now=NOW)
    return tmp_path


@pytest.fixture
def served(folder: Path) -> ServedCertificate:
    return ServedCertificate(folder / "server.pem", folder / "server.key")


@pytest.fixture
def listening(served: ServedCertificate) -> Iterator[Loopback]:
    with serving(lambda request: reply(200, b"{}"), served.context) as server:
        yield server


def shown(folder: Path, server: Loopback, name: str | None = "localhost") -> int:
    """The serial number of the certificate that a strict client is shown; a client that names no host if `name` is None."""
    context = ssl.create_default_context(cafile=str(folder / "authority.pem"))
    context.check_hostname = name is not None
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        certificate = connection.getpeercert()
    assert certificate is not None
    return int(str(certificate["serialNumber"]), 16)


def serial(folder: Path) -> int:
    return authority.read_certificate(folder / "server.pem").serial_number


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", None])
def test_a_certificate_that_was_issued_anew_is_shown(
    folder: Path, served: ServedCertificate, listening: Loopback, name: str | None
) -> None:
    first = serial(folder)
    assert shown(folder, listening, name) == first
    assert not served.show_anew()
    authority.issue(folder, ("localhost", "127.0.0.1"), now=NOW)
    assert serial(folder) != first
    assert served.show_anew()
    assert shown(folder, listening, name) == serial(folder)
    authority.issue(folder, ("localhost", "127.0.0.1"), now=NOW)
    assert served.show_anew()
    assert shown(folder, listening, name) == serial(folder)


def test_half_a_renewal_changes_nothing(folder: Path, served: ServedCertificate, listening: Loopback) -> None:
    first = serial(folder)
    kept = folder / "old.key"
    shutil.copy(folder / "server.key", kept)
    authority.issue(folder, ("localhost", "127.0.0.1"), now=NOW)
    new = (folder / "server.key").read_bytes()
    shutil.copy(kept, folder / "server.key")
    for _ in range(2):
        with pytest.raises(OperationError, match="MISMATCH"):
            served.show_anew()
    assert shown(folder, listening) == first
    (folder / "server.key").unlink()
    with pytest.raises(OperationError, match=r"server\.key"):
        served.show_anew()
    assert shown(folder, listening) == first
    (folder / "server.key").write_bytes(new)
    assert served.show_anew()
    assert shown(folder, listening) == serial(folder)


def test_handshakes_go_on_while_it_changes_all_the_time(
    folder: Path, served: ServedCertificate, listening: Loopback
) -> None:
    end, problems = threading.Event(), []

    def shake() -> None:
        while not end.is_set():
            try:
                shown(folder, listening)
            except OSError as problem:
                problems.append(problem)
                return

    threads = [threading.Thread(target=shake) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(60):
            authority.issue(folder, ("localhost", "127.0.0.1"), now=NOW)
            assert served.show_anew()
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert problems == []
