"""What a client makes of a repository that is lost, old, changed, or hostile."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.unit.sample_livepatch import BUILD_ID, OTHER_BUILD_ID, livepatch, write_build
from tests.unit.trust.conftest import NOW, publisher

from kmend.core.manifest import Levels, sha256_hex
from kmend.trust import layout
from kmend.trust.client import Repository, open_repository
from kmend.trust.errors import (
    BrokenMetadataError,
    ClockError,
    ExpiredError,
    MismatchError,
    MissingError,
    RollbackError,
    RootError,
    SignatureError,
    SlowError,
    TooLargeError,
    TrustError,
    UnreachableError,
)
from kmend.trust.network import Network
from kmend.trust.signing import keyfiles
from kmend.trust.signing.keyfiles import KeyPlan
from kmend.trust.signing.publishing import read_build
from kmend.trust.transport import Transport


@contextmanager
def served(folder: Path, handler: type[BaseHTTPRequestHandler] | None = None) -> Iterator[str]:
    """Serve a folder on loopback; its URL."""

    class Quiet(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, directory=str(folder), **kwargs)  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), handler or Quiet)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def client(url: str, keys: Path, state: Path, transport: Transport | None = None) -> Iterator[Repository]:
    """Open a repository with the root of `keys`."""
    bootstrap = (keys / "root.json").read_bytes()
    with open_repository(url, bootstrap=bootstrap, state=state, transport=transport) as repository:
        yield repository


@pytest.fixture
def repository(tmp_path: Path, original: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(original, tmp_path / "repository")
    return tmp_path / "repository"


def levels_of(repository: Path, keys: Path, state: Path) -> Levels:
    with client(repository.as_uri(), keys, state) as opened:
        levels = opened.levels(BUILD_ID)
    assert levels is not None
    return levels


@pytest.mark.parametrize("over", ["file", "http"])
def test_everything_can_be_fetched(repository: Path, keys: Path, tmp_path: Path, over: str) -> None:
    with served(repository) as http:
        url = http if over == "http" else repository.as_uri()
        with client(url, keys, tmp_path / "state") as opened:
            levels = opened.levels(BUILD_ID)
            assert levels is not None
            (record,) = levels.levels
            manifest = opened.manifest(BUILD_ID, record)
            assert manifest.cves == ("CVE-2026-2001",)
            assert sha256_hex(opened.module(record)) == manifest.module.sha256
            assert opened.signature(manifest.module.sha256)[:1] == b"\x30"
            assert opened.signature(manifest.module.sha256, "acme") == b""
            assert opened.levels(OTHER_BUILD_ID) is None
            assert opened.freshness.expires > time.time()


def test_nothing_new_costs_two_small_requests(repository: Path, keys: Path, tmp_path: Path) -> None:
    levels_of(repository, keys, tmp_path / "state")
    transport = Transport()
    with client(repository.as_uri(), keys, tmp_path / "state", transport) as opened:
        assert opened.levels(BUILD_ID) is not None
    assert transport.received == (repository / "metadata/timestamp.json").stat().st_size


def test_verification_needs_no_cryptography_package(repository: Path, keys: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from pathlib import Path\n"
        "from kmend.trust.client import open_repository\n"
        f"with open_repository({repository.as_uri()!r}, bootstrap=Path({str(keys / 'root.json')!r}).read_bytes(),"
        f" state=Path({str(tmp_path / 'state')!r})) as repository:\n"
        f"    print(len(repository.levels({BUILD_ID!r}).levels))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr


@pytest.mark.parametrize("name", ["metadata/timestamp.json", "metadata/1.snapshot.json", "metadata/1.targets.json"])
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("flip", TrustError),
        ("empty", TrustError),
        ("garbage", TrustError),
        ("gone", MissingError),
        ("huge", TooLargeError),
    ],
)
def test_changed_metadata(
    repository: Path, keys: Path, tmp_path: Path, name: str, change: str, error: type[TrustError]
) -> None:
    path = repository / name
    content = path.read_bytes()
    if change == "flip":
        position = content.index(b'"expires"') + 14
        path.write_bytes(content[:position] + b"9" + content[position + 1 :])
    elif change == "empty":
        path.write_bytes(b"")
    elif change == "garbage":
        path.write_bytes(b"[" * len(content))
    elif change == "gone":
        path.unlink()
    else:
        path.write_bytes(content + b" " * 6_000_000)
    with pytest.raises(error):
        levels_of(repository, keys, tmp_path / "state")


def test_metadata_signed_by_a_stranger(repository: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    keyfiles.create(stranger, KeyPlan(bin_bits=2, module_key_bits=2048), now=NOW)
    with pytest.raises(SignatureError, match="not signed by the keys"):
        levels_of(repository, stranger, tmp_path / "state")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 100_000, b" " * 600_000])
def test_unusable_root(repository: Path, tmp_path: Path, content: bytes) -> None:
    with (
        pytest.raises(RootError),
        open_repository(repository.as_uri(), bootstrap=content, state=tmp_path / "state"),
    ):
        raise AssertionError


def test_expired_repository(tmp_path: Path, keys: Path) -> None:
    long_ago = NOW - datetime.timedelta(days=8)
    build = write_build(tmp_path / "build", *livepatch(1, ["CVE-2026-2001"]))
    publisher(tmp_path / "old", keys, now=long_ago).publish([read_build(build)])
    with pytest.raises(ExpiredError, match=r"timestamp\.json is expired"):
        levels_of(tmp_path / "old", keys, tmp_path / "state")


def test_expired_repository_whose_server_disagrees_about_the_time(tmp_path: Path, keys: Path) -> None:
    long_ago = NOW - datetime.timedelta(days=8)
    build = write_build(tmp_path / "build", *livepatch(1, ["CVE-2026-2001"]))
    publisher(tmp_path / "old", keys, now=long_ago).publish([read_build(build)])
    transport = Transport()
    transport.server_time = long_ago
    with (
        pytest.raises(ClockError, match="the server's clock says"),
        client((tmp_path / "old").as_uri(), keys, tmp_path / "state", transport),
    ):
        raise AssertionError


def test_clock_that_is_behind_is_found_out(repository: Path, keys: Path, tmp_path: Path) -> None:
    publisher(repository, keys, now=NOW + datetime.timedelta(days=2)).refresh()
    with pytest.raises(ClockError, match="this host's clock says"):
        levels_of(repository, keys, tmp_path / "state")


def test_older_repository_is_a_rollback(repository: Path, keys: Path, tmp_path: Path) -> None:
    shutil.copytree(repository, tmp_path / "older")
    publisher(repository, keys).refresh()
    levels_of(repository, keys, tmp_path / "state")
    with pytest.raises(RollbackError, match="older"):
        levels_of(tmp_path / "older", keys, tmp_path / "state")


def test_rollback_is_noticed_even_if_an_update_broke_off(repository: Path, keys: Path, tmp_path: Path) -> None:
    """What was verified before a failure is remembered."""
    shutil.copytree(repository, tmp_path / "older")
    publisher(repository, keys).refresh()
    (repository / "metadata/2.snapshot.json").unlink()
    with pytest.raises(MissingError):
        levels_of(repository, keys, tmp_path / "state")
    with pytest.raises(RollbackError):
        levels_of(tmp_path / "older", keys, tmp_path / "state")


@pytest.mark.parametrize(
    "name", ["timestamp.json", "snapshot.json", "targets.json", "root.json", "root_history/1.root.json"]
)
@pytest.mark.parametrize("content", [b"", b"\0" * 4096])
def test_torn_cache_is_fetched_again(repository: Path, keys: Path, tmp_path: Path, name: str, content: bytes) -> None:
    levels_of(repository, keys, tmp_path / "state")
    (tmp_path / "state/metadata" / name).write_bytes(content)
    assert len(levels_of(repository, keys, tmp_path / "state").levels) == 1


def test_root_is_followed_to_newer_versions(repository: Path, keys: Path, tmp_path: Path) -> None:
    publisher(repository, keys).renew()
    with client(repository.as_uri(), keys, tmp_path / "state") as opened:
        assert opened.freshness.root_version == 2


def test_levels_that_are_not_what_their_metadata_says(repository: Path, keys: Path, tmp_path: Path) -> None:
    (path,) = repository.glob("targets/kernels/*/*.levels.json")
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"published":1', b'"published":2'))
    with pytest.raises(MismatchError):
        levels_of(repository, keys, tmp_path / "state")


@pytest.mark.parametrize("change", ["flip", "short", "long"])
def test_changed_file(repository: Path, keys: Path, tmp_path: Path, change: str) -> None:
    (record,) = levels_of(repository, keys, tmp_path / "state").levels
    path = repository / layout.file_path(record.module.sha256)
    content = path.read_bytes()
    changed = {"flip": b"\0" + content[1:], "short": content[:-1], "long": content + b"more"}[change]
    path.write_bytes(changed)
    with (
        client(repository.as_uri(), keys, tmp_path / "state") as opened,
        pytest.raises((MismatchError, TooLargeError)),
    ):
        opened.module(record)


def test_manifest_of_another_kernel_is_refused(repository: Path, keys: Path, tmp_path: Path) -> None:
    (record,) = levels_of(repository, keys, tmp_path / "state").levels
    with (
        client(repository.as_uri(), keys, tmp_path / "state") as opened,
        pytest.raises(MismatchError, match="is for kernel build"),
    ):
        opened.manifest(OTHER_BUILD_ID, record)


def test_nobody_listens(keys: Path, tmp_path: Path) -> None:
    with served(tmp_path) as url:
        pass
    with (
        pytest.raises(UnreachableError),
        client(url, keys, tmp_path / "state", Transport(Network(connect=1, attempts=2))),
    ):
        raise AssertionError


def test_no_repository_there(keys: Path, tmp_path: Path) -> None:
    with (
        served(tmp_path) as url,
        pytest.raises(MissingError, match="404"),
        client(url, keys, tmp_path / "state"),
    ):
        raise AssertionError


class _Trickle(BaseHTTPRequestHandler):
    """Answers a few bytes, then nothing."""

    def do_GET(self) -> None:
        if "root" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", "10000")
        self.end_headers()
        self.wfile.write(b"{")
        self.wfile.flush()
        time.sleep(2)

    def log_message(self, *args: object) -> None:
        pass


class _Failing(BaseHTTPRequestHandler):
    """Answers 500 to everything."""

    def do_GET(self) -> None:
        self.send_error(500)

    def log_message(self, *args: object) -> None:
        pass


def test_server_that_trickles_is_slow(keys: Path, tmp_path: Path) -> None:
    transport = Transport(Network(read=0.2, attempts=1))
    with (
        served(tmp_path, _Trickle) as url,
        pytest.raises(SlowError),
        client(url, keys, tmp_path / "state", transport),
    ):
        raise AssertionError


def test_server_that_fails(keys: Path, tmp_path: Path) -> None:
    with (
        served(tmp_path, _Failing) as url,
        pytest.raises(UnreachableError, match="500"),
        client(url, keys, tmp_path / "state"),
    ):
        raise AssertionError


def test_other_schemes_are_refused(keys: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="only http"), client("ftp://127.0.0.1/x", keys, tmp_path / "state"):
        raise AssertionError


def test_fifo_in_a_files_place_does_not_hang(repository: Path, keys: Path, tmp_path: Path) -> None:
    import os

    path = repository / "metadata/timestamp.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UnreachableError, match="not a regular file"):
        levels_of(repository, keys, tmp_path / "state")


def test_broken_metadata_is_told_apart(repository: Path, keys: Path, tmp_path: Path) -> None:
    (repository / "metadata/timestamp.json").write_bytes(b"{}")
    with pytest.raises(BrokenMetadataError):
        levels_of(repository, keys, tmp_path / "state")
