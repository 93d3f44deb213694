"""A server that somebody has taken over, with all its keys: what it can have a host do, and what not.

Its answers are forged here at will; that is all that its keys are good for. The online keys of the repository sign snapshot and
timestamp, and no key on the server signs a level or a recall.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Member, Place
from tests.unit.agent.conftest import publish
from tests.unit.sample_livepatch import BUILD_ID, livepatch
from tests.unit.trust.loopback import Request, reply, serving

from kmend.agent import handover, machine
from kmend.agent.identity import Credentials, Identity
from kmend.core.document import encode
from kmend.core.wire import CHECK_IN_PATH, Answer, Offer
from kmend.trust import hostkey
from kmend.trust.signing import keyfiles

CVES = ("CVE-2026-1001", "CVE-2026-1002", "CVE-2026-1003")
FUNCTIONS = ("unix_ioctl", "tcp_ack", "do_fork")


class Forger:
    """Answers check-ins as somebody wants who has taken over the server."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.offer = Offer(BUILD_ID, 0)
        self.timestamp = ""

    def answer(self, request: Request) -> bytes:
        if request.path == CHECK_IN_PATH:
            return reply(200, encode(self.document()), Content_Type="application/json")
        path = self.repository / request.path.removeprefix("/repository/")
        if not path.is_file():
            return reply(404, b"")
        return reply(200, path.read_bytes(), Content_Type="application/octet-stream")

    def document(self) -> Answer:
        current = (self.repository / "metadata/timestamp.json").read_text()
        return Answer("tag", 60, self.timestamp or current, self.offer)


@pytest.fixture
def forger(tmp_path: Path) -> Forger:
    repository = tmp_path / "repository"
    _publish(tmp_path, repository, 1, 2)
    return Forger(repository)


def _keys(folder: Path) -> Path:
    keys = folder / "keys"
    if not keys.exists():
        now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
        keyfiles.create(keys, keyfiles.KeyPlan(bin_bits=1, module_key_bits=2048), now=now)
    return keys


def _publish(folder: Path, repository: Path, *levels: int) -> None:
    made = [
        livepatch(number, CVES[:number], base=number - 1 or None, functions=FUNCTIONS[:number]) for number in levels
    ]
    publish(repository, _keys(folder), made)


@pytest.fixture
def host(tmp_path: Path, forger: Forger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Member]:
    """A host that the taken-over server leads; it has been offered nothing yet."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    with serving(forger.answer) as server:
        member = Member(tmp_path / "hosts", Place(server.url, tmp_path / "keys/root.json"), "web-1")
        folder = member.paths.config / "agent.toml.d"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "20-server.toml").write_text(f'[server]\nurl = "{server.url}"\nnews = false\n')
        _be_enrolled(member, server.url)
        yield member


def _be_enrolled(host: Member, url: str) -> None:
    identity = Identity("a" * 32, "5e" * 16, url, machine.digest(host.paths))
    Credentials(host.paths).keep(identity, hostkey.make_seed())


def _levels(host: Member) -> list[str]:
    return [name.split("_")[1] for name in host.kernel.active()]


def _steady(host: Member, forger: Forger, level: int) -> None:
    """The host runs a level, and has come through its soak."""
    forger.offer = Offer(BUILD_ID, level)
    host.look()
    host.soak()
    assert _levels(host) == [str(level)]
    assert json.loads((host.paths.run / "state.json").read_text())["state"] == "steady"


def test_it_can_offer_what_is_signed(host: Member, forger: Forger) -> None:
    _steady(host, forger, 1)
    _steady(host, forger, 2)


def test_code_that_is_not_signed_is_not_loaded(host: Member, forger: Forger) -> None:
    """The module in the repository is another one, and so is the manifest; only the offline keys could sign that."""
    for path in (forger.repository / "files").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            path.write_bytes(content.replace(b"unix_ioctl", b"evil_ioctl"))
    forger.offer = Offer(BUILD_ID, 1)
    host.look()
    assert _levels(host) == []
    assert handover.read_fetch(host.paths).kind != ""  # type: ignore[union-attr]


def test_a_level_that_does_not_exist_is_nothing(host: Member, forger: Forger) -> None:
    forger.offer = Offer(BUILD_ID, 7)
    host.look()
    assert _levels(host) == []
    forger.offer = Offer("0" * 40, 2)
    host.look()
    assert _levels(host) == []


@pytest.mark.parametrize(("level", "back"), [(1, 0), (0, 0), (1, 2), (0, 2)])
def test_a_steady_host_is_neither_lowered_nor_unpatched(host: Member, forger: Forger, level: int, back: int) -> None:
    _steady(host, forger, 2)
    forger.offer = Offer(BUILD_ID, level, back)
    for _ in range(3):
        host.look()
    assert _levels(host) == ["2"]
    # Not even if the service is taken over too, and asks the loader itself.
    number = handover.next_number(host.paths)
    handover.write_request(host.paths, handover.Request(number, update=False, back=2))
    host.load()
    assert _levels(host) == ["2"]
    assert "not being tried here" in handover.read_handled(host.paths).message  # type: ignore[union-attr]


def test_a_host_that_soaks_goes_back_only_if_its_policy_lets_it(host: Member, forger: Forger) -> None:
    _steady(host, forger, 1)
    (host.paths.config / "agent.toml.d/40.toml").write_text('[policy]\nserver_return = "refuse"\n')
    host.service._configure()
    forger.offer = Offer(BUILD_ID, 2)
    host.look()
    forger.offer = Offer(BUILD_ID, 2, back=2)
    host.look()
    assert _levels(host) == ["2"]
    (host.paths.config / "agent.toml.d/40.toml").unlink()
    host.service._configure()
    host.look()
    assert _levels(host) == ["1"]
    entries = json.loads((host.paths.state / "quarantine.json").read_text())["entries"]
    assert [(entry["level"], entry["cause"]) for entry in entries] == [(2, "returned")]
    forger.offer = Offer(BUILD_ID, 2)
    host.look()
    assert _levels(host) == ["1"], "it does not go there again by itself"


def test_an_old_timestamp_freezes_nobody(host: Member, forger: Forger, tmp_path: Path) -> None:
    """The server names a timestamp from before; the host has seen a newer one, says so, and looks for itself."""
    old = (forger.repository / "metadata/timestamp.json").read_text()
    _steady(host, forger, 1)
    _publish(tmp_path, forger.repository, 3)
    host.look()
    forger.timestamp = old
    forger.offer = Offer(BUILD_ID, 3)
    host.look()
    assert _levels(host) == ["3"], "what the repository itself has is what counts"


def test_a_repository_that_is_led_back_is_noticed(host: Member, forger: Forger, tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(forger.repository, before)
    _publish(tmp_path, forger.repository, 3)
    _steady(host, forger, 3)
    shutil.rmtree(forger.repository)
    before.rename(forger.repository)
    host.look()
    assert handover.read_fetch(host.paths).kind == "repository-rollback"  # type: ignore[union-attr]
    assert _levels(host) == ["3"]


@pytest.mark.parametrize(
    "forge",
    [
        lambda answer: b"",
        lambda answer: b"\xff" * 100,
        lambda answer: b"[" * 50_000,
        lambda answer: encode(answer)[:-5],
        lambda answer: encode(dataclasses.replace(answer, timestamp="x" * 60_000)),
        lambda answer: b"{" + b" " * 100_000 + b"}",
        lambda answer: encode(answer).replace(b'"next":60', b'"next":-1'),
        lambda answer: encode(answer).replace(b'"level":0', b'"level":"1; rm -rf /"'),
        lambda answer: encode(answer).replace(b'"reason":""', b'"reason":"\\u001b[2J"'),
    ],
)
def test_whatever_it_answers_the_host_goes_on(
    host: Member, forger: Forger, forge: Callable[[Answer], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    _steady(host, forger, 1)
    honest = forger.answer

    def forged(request: Request) -> bytes:
        if request.path != CHECK_IN_PATH:
            return honest(request)
        return reply(200, forge(dataclasses.replace(forger.document(), offer=Offer(BUILD_ID, 0))))

    monkeypatch.setattr(forger, "answer", forged)
    with serving(forged) as server:
        _be_enrolled(host, server.url)
        drop_in = host.paths.config / "agent.toml.d/20-server.toml"
        drop_in.write_text(f'[server]\nurl = "{server.url}"\nnews = false\n')
        host.service._configure()
        assert host.look() >= 1
    assert _levels(host) == ["1"]
