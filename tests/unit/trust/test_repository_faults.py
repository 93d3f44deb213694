"""The repository behind a server or a clock that is wrong: a clear error, and nothing of what was verified is lost."""

from __future__ import annotations

import datetime
import errno
import os
import shutil
import time
import types
from collections.abc import Iterable
from pathlib import Path

import pytest
import tuf.ngclient._internal.trusted_metadata_set as trusted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.sample_livepatch import BUILD_ID, livepatch, write_build
from tests.unit.trust.conftest import NOW, publisher
from tests.unit.trust.loopback import CLOSE, Loopback, Request, Script, Step, folder, reply, serving

from kmend.core import durable
from kmend.core.errors import SystemProblemError
from kmend.core.manifest import FileRecord, Levels, sha256_hex
from kmend.trust import layout
from kmend.trust.client import fetch_file, open_repository
from kmend.trust.errors import (
    BrokenMetadataError,
    ClockError,
    ExpiredError,
    InterceptedError,
    MismatchError,
    MissingError,
    MixedError,
    RollbackError,
    SlowError,
    TrustError,
    UnreachableError,
)
from kmend.trust.network import Network
from kmend.trust.partials import SMALLEST, Partials
from kmend.trust.signing.publishing import read_build
from kmend.trust.transport import Transport

DAY = datetime.timedelta(days=1)
QUICK = Network(connect=2, read=2, total=5, attempts=2)


class Host:
    """A host that checks; it keeps its connections between checks as a running agent does."""

    def __init__(self, keys: Path, state: Path) -> None:
        self._bootstrap = (keys / "root.json").read_bytes()
        self.state = state
        self.transport = Transport(QUICK, environment={}, sleep=lambda _: None)

    def check(self, url: str) -> Levels:
        with open_repository(url, bootstrap=self._bootstrap, state=self.state, transport=self.transport) as opened:
            levels = opened.levels(BUILD_ID)
        assert levels is not None
        return levels

    def module(self, url: str) -> bytes:
        with open_repository(url, bootstrap=self._bootstrap, state=self.state, transport=self.transport) as opened:
            levels = opened.levels(BUILD_ID)
            assert levels is not None
            return opened.module(levels.levels[-1])

    def kept(self) -> dict[str, bytes]:
        metadata = self.state / "metadata"
        return {str(path.relative_to(metadata)): path.read_bytes() for path in metadata.rglob("*.json")}


@pytest.fixture
def repository(tmp_path: Path, original: Path) -> Path:
    shutil.copytree(original, tmp_path / "repository")
    return tmp_path / "repository"


@pytest.fixture
def host(keys: Path, tmp_path: Path) -> Iterable[Host]:
    made = Host(keys, tmp_path / "state")
    yield made
    made.transport.close()


def at(monkeypatch: pytest.MonkeyPatch, moment: datetime.datetime) -> None:
    """Let the client's clock, and python-tuf's, stand at `moment`."""

    class Stopped(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Stopped:
            return cls.fromtimestamp(moment.timestamp(), tz)

    module = types.ModuleType("datetime")
    vars(module).update(vars(datetime), datetime=Stopped)
    monkeypatch.setattr(trusted, "datetime", module)
    monkeypatch.setattr("kmend.trust.client.time", _Time(moment.timestamp()))


class _Time:
    def __init__(self, now: float) -> None:
        self._now = now

    def time(self) -> float:
        return self._now


# Nothing new


def test_nothing_new_is_one_small_request(repository: Path, host: Host) -> None:
    with serving(folder(repository)) as server:
        first = host.check(server.url)
        before = (len(server.requests), server.received, server.sent)
        notes = (host.state / "conditions.json").stat().st_mtime_ns
        for _ in range(3):
            assert host.check(server.url) == first
        assert server.paths[before[0] :] == ["/metadata/timestamp.json"] * 3
        assert (server.received - before[1] + server.sent - before[2]) / 3 < 1000
        assert server.connections == 1
        assert (host.state / "conditions.json").stat().st_mtime_ns == notes


def test_nothing_new_from_a_server_that_knows_no_conditions(repository: Path, host: Host) -> None:
    with serving(folder(repository, validators=False)) as server:
        host.check(server.url)
        before = len(server.requests)
        host.check(server.url)
        assert server.paths[before:] == ["/metadata/timestamp.json"]


def test_new_root_is_found_within_a_day(
    repository: Path, keys: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, NOW)
    with serving(folder(repository)) as server:
        host.check(server.url)
        before = len(server.requests)
        at(monkeypatch, NOW + DAY + datetime.timedelta(minutes=2))
        host.check(server.url)
        assert server.paths[before:] == ["/metadata/2.root.json", "/metadata/timestamp.json"]
        before = len(server.requests)
        # A clock that was set back proves nothing about when a root was looked for.
        at(monkeypatch, NOW - datetime.timedelta(minutes=30))
        host.check(server.url)
        assert server.paths[before:] == ["/metadata/2.root.json", "/metadata/timestamp.json"]


def test_with_a_new_publication_the_root_is_looked_for_at_once(repository: Path, keys: Path, host: Host) -> None:
    with serving(folder(repository)) as server:
        host.check(server.url)
        before = len(server.requests)
        publisher(repository, keys).renew()
        publisher(repository, keys).refresh()
        host.check(server.url)
        asked = server.paths[before:]
        assert asked[:3] == ["/metadata/timestamp.json", "/metadata/2.root.json", "/metadata/3.root.json"]
        assert asked.count("/metadata/timestamp.json") == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 5000, b"x" * 10_000])
def test_damaged_note_costs_a_request_only(repository: Path, host: Host, content: bytes) -> None:
    with serving(folder(repository)) as server:
        host.check(server.url)
        (host.state / "conditions.json").write_bytes(content)
        before = len(server.requests)
        host.check(server.url)
        assert server.paths[before:] == ["/metadata/2.root.json", "/metadata/timestamp.json"]


def test_note_is_of_one_repository(repository: Path, host: Host) -> None:
    with serving(folder(repository)) as one, serving(folder(repository)) as other:
        host.check(one.url)
        host.check(other.url)
        assert other.paths[0] == "/metadata/2.root.json"
        assert "if-none-match" not in other.requests[1].headers


def test_server_that_says_unchanged_of_everything(repository: Path, host: Host) -> None:
    """It gains nothing: unasked for, the answer is an error, and what is kept expires as ever."""
    with serving(lambda _: reply(304)) as server, pytest.raises(UnreachableError, match="304"):
        host.check(server.url)


def test_unchanged_does_not_outlive_the_expiry(repository: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(folder(repository)) as server:
        host.check(server.url)
        at(monkeypatch, NOW + 7 * DAY + datetime.timedelta(minutes=30))
        monkeypatch.setattr("kmend.trust.clockcheck.TOLERANCE_SECONDS", 10 * 86_400.0)
        with pytest.raises(ExpiredError, match="is expired"):
            host.check(server.url)


# Clocks


@pytest.mark.parametrize("days", [365, 3650])
def test_clock_that_is_ahead(repository: Path, host: Host, monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    with serving(folder(repository)) as server:
        host.check(server.url)
        before = host.kept()
        at(monkeypatch, NOW + days * DAY)
        years = "1 year" if days == 365 else "10 years"
        with pytest.raises(ClockError, match=f"which is {years} ahead of the server's"):
            host.check(server.url)
        assert host.kept() == before
        monkeypatch.undo()
        host.check(server.url)


@pytest.mark.parametrize(
    ("moment", "words"),
    [(NOW - 365 * DAY, "1 year behind"), (datetime.datetime(1970, 1, 1, 0, 5, tzinfo=datetime.timezone.utc), "years behind")],
)  # fmt: skip
@pytest.mark.parametrize("over", ["http", "file"])
def test_clock_that_is_behind(
    repository: Path, host: Host, monkeypatch: pytest.MonkeyPatch, moment: datetime.datetime, words: str, over: str
) -> None:
    with serving(folder(repository)) as server:
        url = server.url if over == "http" else repository.as_uri()
        at(monkeypatch, moment)
        with pytest.raises(ClockError, match=words):
            host.check(url)
        monkeypatch.undo()
        host.check(url)


def test_date_of_the_server_makes_nothing_acceptable(tmp_path: Path, keys: Path, host: Host) -> None:
    """What has expired stays refused, however old the server says the day is."""
    build = write_build(tmp_path / "build", *livepatch(1, ["CVE-2026-2001"]))
    long_ago = NOW - 20 * DAY
    publisher(tmp_path / "old", keys, now=long_ago).publish([read_build(build)])
    with (
        serving(folder(tmp_path / "old", date=long_ago.timestamp())) as server,
        pytest.raises(ClockError, match="20 days"),
    ):
        host.check(server.url)


def test_wrong_date_of_the_server_is_only_remarked(
    repository: Path, host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(folder(repository, date=time.time() + 400 * 86_400)) as server:
        host.check(server.url)
    assert "behind the server's" in caplog.text
    with serving(folder(repository)) as server:
        host.check(server.url)


# Repositories that are not what they were


def test_frozen_repository(tmp_path: Path, keys: Path, host: Host) -> None:
    build = write_build(tmp_path / "build", *livepatch(1, ["CVE-2026-2001"]))
    publisher(tmp_path / "old", keys, now=NOW - 8 * DAY).publish([read_build(build)])
    with serving(folder(tmp_path / "old")) as server, pytest.raises(ExpiredError) as caught:
        host.check(server.url)
    assert "frozen" in caught.value.hint


def test_rolled_back_repository(repository: Path, keys: Path, tmp_path: Path, host: Host) -> None:
    shutil.copytree(repository, tmp_path / "older")
    publisher(repository, keys).refresh()
    with serving(folder(repository)) as new, serving(folder(tmp_path / "older")) as old:
        levels = host.check(new.url)
        before = host.kept()
        with pytest.raises(RollbackError, match="older than this host has seen"):
            host.check(old.url)
        assert host.kept() == before
        assert host.check(new.url) == levels


def test_mixed_repository(repository: Path, keys: Path, tmp_path: Path, host: Host) -> None:
    """A mirror that was copied while something was published: the new names, the old content."""
    shutil.copytree(repository, tmp_path / "mixed")
    publisher(repository, keys).refresh()
    shutil.copy(repository / "metadata/timestamp.json", tmp_path / "mixed/metadata/timestamp.json")
    with serving(folder(tmp_path / "mixed")) as server, serving(folder(repository)) as good:
        with pytest.raises(MissingError, match=r"2\.snapshot\.json"):
            host.check(server.url)
        shutil.copy(repository / "metadata/1.snapshot.json", tmp_path / "mixed/metadata/2.snapshot.json")
        with pytest.raises((MixedError, MismatchError)) as caught:
            host.check(server.url)
        assert "timestamp.json last" in caught.value.hint
        host.check(good.url)


def failing(repository: Path, name: str, steps: Iterable[Step] | bytes) -> Script:
    """A good server, but for files whose names hold `name`."""
    good = folder(repository)
    kept = steps if isinstance(steps, bytes) else list(steps)
    return lambda request: kept if name in request.path else good(request)


PAGE = reply(200, b"<html>please log in</html>" + b" " * 5000, Content_Type="text/html")
NAMES = ("root.json", "timestamp.json", "snapshot.json", "targets.json", "levels.json", "/files/")
FAULTS: dict[str, tuple[type[TrustError], ...]] = {
    "cut": (UnreachableError,),
    "silent": (SlowError,),
    "page": (InterceptedError,),
    "garbage": (BrokenMetadataError, MismatchError),
    "empty": (BrokenMetadataError, MismatchError),
    "failing": (UnreachableError,),
}
CELLS = [
    *((name, "page") for name in NAMES),
    *((NAMES[(index + shift) % 6], what) for index, what in enumerate(FAULTS) if what != "page" for shift in (0, 3)),
]


@pytest.mark.parametrize(("name", "what"), CELLS)
def test_faults_on_the_way_lose_nothing(repository: Path, keys: Path, tmp_path: Path, name: str, what: str) -> None:
    errors = FAULTS[what]
    host = Host(keys, tmp_path / "state")
    host.transport = Transport(Network(connect=2, read=0.1, total=5, attempts=2), environment={}, sleep=lambda _: None)
    steps: dict[str, Iterable[Step] | bytes] = {
        "cut": [reply(200, b"{", Content_Length="50"), CLOSE],
        "silent": [0.3, CLOSE],
        "page": PAGE,
        "garbage": reply(200, b"\xff" + os.urandom(99)),  # not a page: that begins with "<"
        "empty": reply(200, b""),
        "failing": reply(500),
    }
    with serving(folder(repository)) as good, serving(failing(repository, name, steps[what])) as bad:
        with pytest.raises(errors):
            host.module(bad.url)
        module = host.module(good.url)
        before = host.kept()
        publisher(repository, keys).refresh()
        with pytest.raises(errors):
            _everything(host, bad.url)
        after = host.kept()
        assert set(after) >= set(before)
        assert host.module(good.url) == module
    host.transport.close()


def _everything(host: Host, url: str) -> None:
    """Ask for all files anew, of what is verified already too."""
    shutil.rmtree(host.state / "levels", ignore_errors=True)
    for name in ("snapshot", "targets"):
        (host.state / f"metadata/{name}.json").write_bytes(b"")
    host.module(url)


# Disk full


def test_disk_full_while_downloading(repository: Path, keys: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(folder(repository)) as server:
        levels = host.check(server.url)
        before = host.kept()
        publisher(repository, keys).refresh()

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("kmend.core.durable.os.fsync", full)
        with pytest.raises(SystemProblemError, match="No space left"):
            host.check(server.url)
        assert host.kept() == before
        assert not list(host.state.rglob(".*.json.*"))
        monkeypatch.undo()
        assert host.check(server.url) == levels
        assert host.kept() != before


# Files


CONTENT = os.urandom(5 * SMALLEST)
RECORD = FileRecord(sha256_hex(CONTENT), len(CONTENT))
TOTAL = f"/{len(CONTENT)}"


def whole(start: int = 0, *, end: int = len(CONTENT), content: bytes = CONTENT) -> list[Step]:
    head = {"ETag": '"e"', "Content_Length": str(len(CONTENT) - start)}
    if start:
        head["Content_Range"] = f"bytes {start}-{len(CONTENT) - 1}{TOTAL}"
    answer = reply(206 if start else 200, content[start:end], **head)
    return [answer] if end == len(CONTENT) else [answer, CLOSE]


def start_of(request: Request) -> int:
    return int(request.headers.get("range", "bytes=0-")[6:-1])


def fetch(server: Loopback, partials: Partials | None) -> bytes:
    transport = Transport(Network(connect=2, read=2, total=5, attempts=1), environment={}, sleep=lambda _: None)
    try:
        return fetch_file(server.url, RECORD, transport, limit=10**7, partials=partials)
    finally:
        transport.close()


def test_download_is_continued_by_the_next_process(tmp_path: Path) -> None:
    partials = Partials(tmp_path / "partial")
    with serving(lambda request: whole(start_of(request), end=2 * SMALLEST)) as server, pytest.raises(UnreachableError):
        fetch(server, partials)
    with serving(lambda request: whole(start_of(request))) as server:
        assert fetch(server, partials) == CONTENT
        assert start_of(server.requests[0]) == 2 * SMALLEST
        assert server.requests[0].headers["if-range"] == '"e"'
        assert server.requests[0].path == f"/{layout.file_path(RECORD.sha256)}"
    assert list((tmp_path / "partial").iterdir()) == []


@pytest.mark.parametrize("damage", ["content", "cut", "line", "long", "other"])
def test_damaged_beginning_is_noticed_by_the_digest(tmp_path: Path, damage: str) -> None:
    partials = Partials(tmp_path / "partial")
    with serving(lambda request: whole(start_of(request), end=2 * SMALLEST)) as server, pytest.raises(UnreachableError):
        fetch(server, partials)
    (path,) = (tmp_path / "partial").iterdir()
    kept = path.read_bytes()
    path.write_bytes(
        {
            "content": kept[:-1] + bytes([kept[-1] ^ 1]),
            "cut": kept[:-100],
            "line": kept[4:],
            "long": kept + bytes(len(CONTENT)),
            "other": b'"e"\n' + bytes(2 * SMALLEST),
        }[damage]
    )
    with serving(lambda request: whole(start_of(request))) as server:
        assert fetch(server, partials) == CONTENT
        assert len(server.requests) <= 2


def test_wrong_file_is_named_and_not_kept(tmp_path: Path) -> None:
    partials = Partials(tmp_path / "partial")
    with serving(lambda request: whole(content=bytes(len(CONTENT)))) as server, pytest.raises(MismatchError):
        fetch(server, partials)
    assert not (tmp_path / "partial").exists()


def test_full_disk_does_not_keep_a_download_from_failing_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SystemProblemError("No space left on device")

    monkeypatch.setattr(durable, "write_durably", full)
    with serving(lambda request: whole(end=2 * SMALLEST)) as server, pytest.raises(UnreachableError, match="cut short"):
        fetch(server, Partials(tmp_path / "partial"))


MOVES = st.lists(st.tuples(st.sampled_from(["honest", "ignores", "corrupts", "shifts", "416"]), st.integers(1, 5 * SMALLEST)),
                 max_size=5)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=MOVES)
def test_whatever_a_server_does_the_file_is_right_or_an_error(
    moves: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    partials = Partials(tmp_path_factory.mktemp("moves") / "partial")
    pending = list(moves)

    def script(request: Request) -> Iterable[Step]:
        if not pending:
            return whole(start_of(request))
        move, end = pending.pop(0)
        start = start_of(request)
        if move == "416" and start:
            return [reply(416)]
        if move == "ignores":
            start = 0
        if move == "shifts" and start:
            return whole(max(1, start - 1), end=end)
        return whole(start, end=max(end, start), content=bytes(len(CONTENT)) if move == "corrupts" else CONTENT)

    with serving(script) as server:
        for _ in range(len(moves) + 2):
            try:
                content = fetch(server, partials)
            except TrustError:
                continue
            assert content == CONTENT
            break
        else:
            raise AssertionError("a good server was there, and the file was not fetched")
