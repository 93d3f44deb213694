"""The agent and a server that was made anew, or goes: the authority that it keeps, and the request that is held."""

# ruff: noqa: F401, F811 - a fixture of a neighbour

from __future__ import annotations

import datetime
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.agent.conftest import keys, machine, published
from tests.unit.agent.director import KEY, Director
from tests.unit.agent.test_led import Fleet, fleet
from tests.unit.trust.loopback import CLOSE, Request, Step, reply, serving

from kmend.agent import enrolling, link, waiting
from kmend.agent.configfiles import read_config
from kmend.agent.identity import Credentials
from kmend.agent.led import Led
from kmend.core.wire import NEWS_PATH
from kmend.server.operations import authority
from kmend.server.operations.certificates import ServedCertificate

MOST_THREADS = 2
NOW = datetime.datetime.now(datetime.timezone.utc)


# A server that was made anew, and TLS


class Secure:
    """A director with TLS, whose certificate is that of one authority or another; a connection for each request."""

    def __init__(self, folder: Path, director: Director) -> None:
        self.folder = folder
        self.director = director
        (folder / "live").mkdir()
        self.pins = {}
        for name in "ab":
            authority.make_authority(folder / name, name, now=NOW)
            authority.issue(folder / name, ("localhost",), now=NOW)
            self.pins[name] = authority.pin_of(authority.read_certificate(folder / name / "authority.pem"))
        self._copy("a")
        self.served = ServedCertificate(folder / "live/server.pem", folder / "live/server.key")

    def become(self, name: str) -> None:
        self._copy(name)
        assert self.served.show_anew()

    def answer(self, request: Request) -> list[Step]:
        if request.method == "GET":
            return [reply(200, (self.folder / "live/authority.pem").read_bytes()), CLOSE]
        headers = {name.title(): value for name, value in request.headers.items()}
        status, content = self.director.answer(request.path, headers, request.body)
        return [reply(status, content), CLOSE]

    def _copy(self, name: str) -> None:
        self.name = name
        for file in ("server.pem", "server.key", "authority.pem"):
            shutil.copy(self.folder / name / file, self.folder / "live" / file)


@pytest.fixture
def secure(fleet: Fleet, tmp_path: Path) -> Iterator[Secure]:
    made = Secure(tmp_path, fleet.director)
    with serving(made.answer, made.served.context) as server:
        fleet.url = f"https://localhost:{server.port}"
        yield made


def at(fleet: Fleet, later: float, act: Callable[[], object]) -> None:
    """Have something happen while the service rests."""
    moment, sleep = fleet.clock.uptime() + later, fleet.clock.sleep
    due = [act]

    def rest(seconds: float) -> None:
        if due and fleet.clock.uptime() >= moment:
            due.pop()()
        sleep(seconds)

    fleet.clock.sleep = rest  # type: ignore[method-assign]


def test_a_service_at_work_takes_the_authority_of_a_server_that_was_made_anew(
    fleet: Fleet,
    secure: Secure,
) -> None:
    fleet.director.next = 60
    assert fleet.enrol("--pin", secure.pins["a"]) == 0
    old = Credentials(fleet.machine.paths).identity()
    seen: list[int] = []

    def made_anew() -> None:
        fleet.director.rows.clear()
        seen.append(fleet.check_ins)
        secure.become("b")
        assert fleet.enrol("--pin", secure.pins["b"], "--again") == 0
        os.kill(os.getpid(), signal.SIGHUP)  # as systemd does, when kmend enrol has it reload the service

    at(fleet, 300, made_anew)
    fleet.run(900)
    assert seen[0] >= 4
    assert fleet.check_ins >= seen[0] + 5, "it is heard at the new one"
    (row,) = fleet.director.rows.values()
    assert row.state is not None
    new = Credentials(fleet.machine.paths).identity()
    assert old is not None
    assert new is not None
    assert new.url == old.url
    assert fleet.machine.json("status")["conditions"][0]["code"] == "not-offered"


def test_a_line_of_another_server_with_the_same_url_is_not_passed_over(
    fleet: Fleet,
    secure: Secure,
) -> None:
    words = ("enrol", "--server", fleet.url, "--key", KEY, "--pin")
    assert fleet.machine.run(*words, secure.pins["a"]) == 0
    assert fleet.machine.run(*words, secure.pins["a"].upper()) == 0
    assert "nothing was changed" in fleet.machine.out
    assert fleet.machine.run("enrol", "--server", f"{fleet.url}/", "--key", KEY) == 0, "a line without a pin"
    before = fleet.machine.json("enrol")
    kept = (fleet.machine.paths.config / enrolling.CA_FILE).read_bytes()
    fleet.director.rows.clear()
    secure.become("b")
    assert fleet.machine.run(*words, secure.pins["b"]) != 0
    assert "with another server" in fleet.machine.err
    assert "kmend enrol --again" in fleet.machine.err
    assert (fleet.machine.json("enrol"), fleet.director.rows) == (before, {})
    assert (fleet.machine.paths.config / enrolling.CA_FILE).read_bytes() == kept
    assert fleet.machine.run(*words, secure.pins["b"], "--again") == 0
    assert len(fleet.director.rows) == 1
    assert fleet.machine.run(*words, secure.pins["b"]) == 0


def test_an_authority_among_several_counts_as_kept(fleet: Fleet, secure: Secure) -> None:
    words = ("enrol", "--server", fleet.url, "--key", KEY, "--pin")
    assert fleet.machine.run(*words, secure.pins["a"]) == 0
    path = fleet.machine.paths.config / enrolling.CA_FILE
    path.write_bytes((secure.folder / "b/authority.pem").read_bytes() + path.read_bytes())
    assert fleet.machine.run(*words, secure.pins["a"]) == 0
    path.write_bytes(b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    assert fleet.machine.run(*words, secure.pins["a"]) != 0
    assert "Traceback" not in fleet.machine.err


# A request that is held


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "news" and thread.is_alive()]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("tls", [False, True])
def test_who_waits_no_more_ends_the_request_that_is_held(
    fleet: Fleet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tls: bool,
) -> None:
    monkeypatch.setattr(waiting, "PACE_SECONDS", 0.0)
    made = Secure(tmp_path, fleet.director)
    over, held = threading.Event(), threading.Event()

    def answer(request: Request) -> list[Step]:
        if request.path == NEWS_PATH and json.loads(request.body)["seen"]:
            held.set()
            over.wait(60)
        return made.answer(request)[:1]

    woken: list[int] = []
    with serving(answer, made.served.context if tls else None) as server:
        fleet.url = f"{'https' if tls else 'http'}://localhost:{server.port}"
        assert fleet.enrol(*(["--pin", made.pins["a"]] if tls else [])) == 0
        led = Led(fleet.machine.host, lambda message: None, lambda: woken.append(1), draw=lambda: 0.0)
        config = read_config(fleet.machine.paths.config)
        led.hear(config)
        led.wait(config)
        assert held.wait(20)
        assert len(threads()) == 1
        led.close()
        until(lambda: not threads())
        assert woken == []
        over.set()


def test_threads_that_cannot_end_yet_do_not_become_more(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = threading.Event()
    fleet.enrol()
    config = read_config(fleet.machine.paths.config)
    led = Led(fleet.machine.host, lambda message: None, lambda: None, draw=lambda: 0.0)

    def post(*given: object, **more: object) -> object:
        stuck.wait(60)  # as a look-up of a name
        raise link.NotEnrolledError("for a test")

    monkeypatch.setattr(waiting.HeldTransport, "post", post)
    for _ in range(5):
        led.wait(config)
        led.close()
        assert len(threads()) <= MOST_THREADS
    led.wait(config)
    assert len(threads()) == MOST_THREADS
    stuck.set()
    until(lambda: not threads())
    led.wait(config)
    assert len(threads()) == 1, "and then it waits again"
    led.close()
    until(lambda: not threads())
