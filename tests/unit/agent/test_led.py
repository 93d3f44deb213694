"""A host that a server leads: enrolment, check-ins by the service, offers that the loader obeys, ways back, times."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.agent.conftest import Machine, Published
from tests.unit.agent.director import KEY, Director, Listening
from tests.unit.agent.simulated import SimulatedClock
from tests.unit.agent.test_service import Recorder, levels
from tests.unit.sample_livepatch import BUILD_ID

from kmend.agent import handover, link, loading, machine, offers, schedule
from kmend.agent.config import Config
from kmend.agent.configfiles import read_config
from kmend.agent.handover import Request
from kmend.agent.identity import Credentials
from kmend.agent.led import LEAST_LOOK_SECONDS, Led
from kmend.agent.service import Service
from kmend.agent.session import Session
from kmend.core import durable
from kmend.core.document import decode
from kmend.core.errors import SystemProblemError
from kmend.core.wire import CHECK_IN_PATH, CheckIn, ModuleReport, Offer
from kmend.trust.transport import Transport

NO_NEWS = "[server]\nnews = false\n"


class Concurrent(SimulatedClock):
    """Time of a host on which the loader takes its steps while the service rests; at its end the service is told to stop."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.kernel)
        self.machine = machine
        self.end = 0.0
        self.due: float | None = None

    def sleep(self, seconds: float) -> None:
        end = self.uptime() + seconds
        while (now := self.uptime()) < end:
            super().sleep(min(end - now, max(1.0, self.due - now) if self.due is not None else end - now))
            self.load()
        if self.uptime() >= self.end:
            os.kill(os.getpid(), signal.SIGTERM)

    def load(self) -> None:
        paths = self.machine.paths
        request, handled = handover.read_request(paths), handover.read_handled(paths)
        asked = request is not None and request.number != (handled.number if handled else None)
        if asked or (self.due is not None and self.uptime() >= self.due):
            host = dataclasses.replace(self.machine.host, source=(paths.fetched / "mirror").as_uri())
            problem, self.due = loading._step(host, request if asked else None)
            if asked and request is not None:
                loading._note(host, request.number, problem)


@dataclasses.dataclass
class Fleet:
    """One host, and the server that leads it."""

    machine: Machine
    director: Director
    url: str
    clock: Concurrent

    def enrol(self, *words: str) -> int:
        status = self.machine.run("enrol", "--server", self.url, "--key", KEY, *words)
        self.machine.configure(NO_NEWS, "agent.toml.d/30-test.toml")
        return status

    @property
    def paths(self) -> Path:
        return self.machine.paths.fetched

    def offer(self, level: int, back: int = 0) -> None:
        self.director.offer(Offer(BUILD_ID, level, back, "for a test"))

    def service(self) -> Service:
        return Service(dataclasses.replace(self.machine.host, clock=self.clock), Recorder(), draw=lambda: 0.5)

    def run(self, seconds: float) -> Recorder:
        """The service and, when it is asked, the loader, for so long."""
        self.clock.end = self.clock.uptime() + seconds
        told = Recorder()
        assert Service(dataclasses.replace(self.machine.host, clock=self.clock), told, draw=lambda: 0.5).run() == 0
        return told

    @property
    def check_ins(self) -> int:
        return sum(path == CHECK_IN_PATH for path, _, _ in self.director.received)


@pytest.fixture
def fleet(machine: Machine, published: Published, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)}
    (machine.paths.root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    monkeypatch.setattr("kmend.agent.identity.ACCOUNT", "nobody-of-that-name")
    director = Director()
    director.timestamp = (published.folder / "metadata/timestamp.json").read_text()
    with Listening(director) as listening:
        yield Fleet(machine, director, listening.url, Concurrent(machine))
    for number, handler in before.items():
        signal.signal(number, handler)


def test_enrolment_leaves_a_key_that_nobody_else_reads_and_no_enrolment_key(fleet: Fleet) -> None:
    assert fleet.enrol("--json") == 0
    said = json.loads(fleet.machine.out)
    assert (said["ring"], said["new"], said["host"]) == ("default", True, f"{1:032x}")
    assert stat.S_IMODE((fleet.paths / "host.key").stat().st_mode) == 0o600
    everything = "".join(
        path.read_text("utf-8", "replace") for path in fleet.machine.paths.root.rglob("*") if path.is_file()
    )
    assert KEY not in everything
    assert KEY not in fleet.machine.out + fleet.machine.err
    raw = (fleet.machine.paths.root / "etc/machine-id").read_text().strip()
    assert raw.encode() not in b"".join(body for _, _, body in fleet.director.received)
    # Again: nothing happens, and nothing is sent.
    sent = len(fleet.director.received)
    assert fleet.enrol("--json") == 0
    assert json.loads(fleet.machine.out)["new"] is False
    assert len(fleet.director.received) == sent
    assert fleet.machine.json("enrol")["host"] == said["host"]


def test_again_makes_another_host(fleet: Fleet) -> None:
    fleet.enrol()
    first = Credentials(fleet.machine.paths).identity()
    assert fleet.enrol("--again") == 0
    second = Credentials(fleet.machine.paths).identity()
    assert first is not None
    assert second is not None
    assert first.host != second.host


def test_a_refused_key_is_said_and_leaves_nothing(fleet: Fleet) -> None:
    assert fleet.machine.run("enrol", "--server", fleet.url, "--key", "wrong") != 0
    assert "enrolment-key" in fleet.machine.err
    assert "wrong" not in fleet.machine.err
    assert Credentials(fleet.machine.paths).identity() is None
    assert not (fleet.paths / "coming.key").exists()
    assert not (fleet.machine.paths.config / "agent.toml.d/20-server.toml").exists()


def test_the_key_is_taken_from_file_and_environment(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fleet.machine.run("enrol", "--server", fleet.url) == 2
    assert "no enrolment key" in fleet.machine.err
    monkeypatch.setenv("KMEND_ENROLMENT_KEY", f"{KEY}\n")
    assert fleet.machine.run("enrol", "--server", fleet.url) == 0
    (tmp_path / "key").write_text(KEY + "\n")
    assert fleet.machine.run("enrol", "--server", fleet.url, "--key-file", str(tmp_path / "key"), "--again") == 0
    assert fleet.machine.run("enrol", "--server", fleet.url, "--key-file", str(tmp_path / "none"), "--again") == 2


@pytest.mark.parametrize("url", ["ftp://x", "https://", 'https://a"b', "https://a?b=c", "https://[::1", "x"])
def test_what_is_no_url_of_a_server(fleet: Fleet, url: str) -> None:
    assert fleet.machine.run("enrol", "--server", url, "--key", KEY) == 2
    assert "Traceback" not in fleet.machine.err


def test_nothing_is_loaded_that_the_server_has_not_offered(fleet: Fleet) -> None:
    fleet.enrol()
    fleet.run(3600)
    assert levels(fleet.machine) == []
    document = fleet.machine.json("status", "--exit-code")
    assert (fleet.machine.status, document["summary"]) == (0, "current")
    assert [item["code"] for item in document["conditions"]] == ["not-offered"]
    assert "until the server offers it" in " ".join(fleet.machine.must("status").split())
    fleet.machine.must("update")
    assert levels(fleet.machine) == []
    fleet.machine.must("update", "--level", "1")
    assert levels(fleet.machine) == ["1"], "a person on the host passes over the server"


def test_an_offer_is_loaded_and_told_step_by_step(fleet: Fleet) -> None:
    fleet.enrol()
    fleet.machine.configure("[timing]\nsoak = 30\n", "agent.toml.d/40.toml")
    fleet.offer(2)
    fleet.run(120)
    assert levels(fleet.machine) == ["2"], "the offered one, though 3 is there"
    (row,) = fleet.director.rows.values()
    assert row.state is not None
    assert (row.state.state, row.state.loaded and row.state.loaded.level, row.state.trying) == ("steady", 2, None)
    seen = [json.loads(body).get("state") for path, _, body in fleet.director.received if path == CHECK_IN_PATH]
    told = [(state["state"], (state.get("trying") or {}).get("level")) for state in seen if state]
    assert ("soaking", 2) in told
    assert [item.rules for item in row.state.withheld] == [("server",)]


def test_the_repository_is_not_asked_while_the_server_has_nothing_new(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Config] = []
    real = Service._look

    def look(self: Service, config: Config) -> float:
        looks.append(config)
        return real(self, config)

    monkeypatch.setattr(Service, "_look", look)
    fleet.enrol()
    fleet.run(2 * 3600)
    assert fleet.check_ins > 6
    assert len(looks) <= 2


def test_a_server_that_is_gone_keeps_nobody_from_the_repository(fleet: Fleet) -> None:
    fleet.machine.configure("[timing]\nsoak = 30\n", "agent.toml.d/40.toml")
    fleet.enrol()
    fleet.offer(1)
    fleet.run(120)
    fleet.director.meddle = lambda path, status, content: (0, b"")
    fleet.run(3600)
    assert levels(fleet.machine) == ["1"], "the last offer holds"
    document = fleet.machine.json("status")
    assert document["conditions"][0]["code"] == "check-failed"
    fleet.director.meddle = None
    fleet.run(3600)
    assert "check-failed" not in [item["code"] for item in fleet.machine.json("status")["conditions"]]


def test_a_repository_that_is_gone_delays_no_check_in(fleet: Fleet, published: Published) -> None:
    fleet.enrol()
    fleet.machine.configure('[repository]\nurl = "http://127.0.0.1:9/gone"\n[network]\nattempts = 1\n')
    fleet.director.next = 60
    before = fleet.check_ins
    fleet.run(1200)
    assert fleet.check_ins - before >= 15
    (condition,) = fleet.machine.json("status")["conditions"]
    assert (condition["code"], "the last check failed" in condition["message"]) == ("stale", True)


def test_retry_after_is_waited_for(fleet: Fleet) -> None:
    fleet.enrol()
    fleet.director.meddle = lambda path, status, content: (503, b"")
    fleet.director.retry_after = "1200"
    before = fleet.check_ins
    fleet.run(1200)
    assert fleet.check_ins - before == 1


def test_a_server_cannot_keep_a_host_busy(fleet: Fleet) -> None:
    fleet.enrol()
    fleet.director.next = 1
    before = fleet.check_ins
    fleet.run(600)
    assert fleet.check_ins - before <= 600 / schedule.LEAST_CHECK_IN_SECONDS + 2


def test_a_decommissioned_host_keeps_what_it_runs_and_takes_nothing_new(fleet: Fleet) -> None:
    fleet.machine.configure("[timing]\nsoak = 30\n", "agent.toml.d/40.toml")
    fleet.enrol()
    fleet.offer(1)
    fleet.run(120)
    (row,) = fleet.director.rows.values()
    row.decommissioned = True
    row.offer = Offer(BUILD_ID, 3)
    fleet.run(1800)
    (condition, *_) = fleet.machine.json("status")["conditions"]
    assert "decommissioned" in condition["message"]
    fleet.machine.must("update")
    assert levels(fleet.machine) == ["1"]
    assert offers.read(fleet.machine.paths) is None


def _soaking(fleet: Fleet, *, policy: str = "allow") -> None:
    """Level 1 steady, level 2 being tried."""
    fleet.machine.configure(f'[policy]\nserver_return = "{policy}"\n[timing]\nsoak = 60\n', "agent.toml.d/40.toml")
    fleet.director.next = 30
    fleet.enrol()
    fleet.offer(1)
    fleet.run(130)
    assert fleet.machine.json("status")["state"] == "steady"
    fleet.offer(2)
    fleet.run(50)
    assert levels(fleet.machine) == ["2"]
    assert fleet.machine.json("status")["state"] == "soaking"


def test_a_level_that_is_tried_is_left_when_the_server_says_so(fleet: Fleet) -> None:
    _soaking(fleet)
    fleet.offer(0, back=2)
    fleet.run(120)
    assert levels(fleet.machine) == ["1"]
    (row,) = fleet.director.rows.values()
    assert row.state is not None
    assert ("returned", 2) in [(failure.cause, failure.level) for failure in row.state.failures]
    fleet.offer(2)
    fleet.run(200)
    assert levels(fleet.machine) == ["1"], "it is in quarantine, whatever the server offers now"


def test_policy_may_refuse_the_way_back_and_the_server_hears_of_it(fleet: Fleet) -> None:
    _soaking(fleet, policy="refuse")
    fleet.offer(0, back=2)
    fleet.run(60)
    assert levels(fleet.machine) == ["2"]
    (row,) = fleet.director.rows.values()
    assert row.state is not None
    assert row.state.accepts_return is False
    assert "return-refused" in [remark.kind for remark in row.state.remarks]


def test_a_steady_host_is_not_unpatched_by_its_server(fleet: Fleet) -> None:
    fleet.enrol()
    fleet.director.next = 30
    fleet.machine.configure("[timing]\nsoak = 30\n", "agent.toml.d/40.toml")
    fleet.offer(2)
    fleet.run(120)
    assert fleet.machine.json("status")["state"] == "steady"
    for offer in (Offer(BUILD_ID, 0, back=2), Offer(BUILD_ID, 1), Offer(BUILD_ID, 1, back=2), Offer(BUILD_ID, 0)):
        fleet.director.offer(offer)
        fleet.run(120)
        assert levels(fleet.machine) == ["2"], offer
    fleet.director.offer(Offer(BUILD_ID, 0, back=2))
    fleet.run(60)
    assert "return-refused" in [item["code"] for item in fleet.machine.json("status")["conditions"]]
    # A service that was taken over asks the loader itself: the loader decides for itself.
    handover.write_request(fleet.machine.paths, Request(77, update=False, back=2))
    loading.serve(fleet.machine.host)
    assert levels(fleet.machine) == ["2"]
    handled = handover.read_handled(fleet.machine.paths)
    assert handled is not None
    assert (handled.kind, "not being tried" in handled.message) == ("not-possible", True)


def test_what_lies_where_the_offer_should_be_holds_back(fleet: Fleet, tmp_path: Path) -> None:
    fleet.enrol()
    fleet.run(60)
    path = offers.path(fleet.machine.paths)
    secret = tmp_path / "secret"
    secret.write_text('{"build_id":"' + BUILD_ID + '","level":3}')
    for put in (
        lambda: path.symlink_to(secret),
        lambda: os.mkfifo(path),
        lambda: path.write_bytes(b"[" * 4000),
        lambda: path.write_bytes(b"x" * 10_000),
        lambda: path.mkdir(),
    ):
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        put()
        fleet.machine.must("update")
        assert levels(fleet.machine) == []
    path.rmdir()


def test_an_older_timestamp_is_noticed_and_the_repository_looked_at(fleet: Fleet, published: Published) -> None:
    fleet.enrol()
    fleet.run(60)
    current = json.loads(fleet.director.timestamp)
    current["signed"]["version"] = 1
    mirror = fleet.machine.paths.fetched / "mirror/metadata/timestamp.json"
    newer = json.loads(mirror.read_text())
    assert newer["signed"]["version"] >= 1
    newer["signed"]["version"] += 5
    mirror.write_text(json.dumps(newer))  # as if the repository had gone on
    service = fleet.service()
    service.look()
    assert handover.read_fetch(fleet.machine.paths) is not None
    assert "frozen" in [item["code"] for item in fleet.machine.json("status")["conditions"]]


def test_an_expired_timestamp_of_the_server_does_not_calm_a_host(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.enrol()
    fleet.run(60)
    looks: list[Config] = []

    def look(self: Service, config: Config) -> float:
        looks.append(config)
        return 60.0

    monkeypatch.setattr(Service, "_look", look)
    monkeypatch.setattr("kmend.agent.conversation.expired", lambda content, now: True)
    service = fleet.service()
    service.look()
    fleet.clock.end += 1000
    fleet.clock.sleep(LEAST_LOOK_SECONDS)
    service.look()
    assert len(looks) == 2


def test_a_full_disk_sends_nothing(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.enrol()
    fleet.run(60)
    before = fleet.check_ins
    real = durable.write_durably

    def full(path: Path, content: bytes, **options: object) -> None:
        if path.name == "counter.json":
            raise SystemProblemError(f"cannot write {path}: No space left on device")
        real(path, content, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(durable, "write_durably", full)
    fleet.run(600)
    assert fleet.check_ins == before


def test_a_host_checks_in_soon_after_its_start(fleet: Fleet) -> None:
    fleet.enrol()
    fleet.run(30)
    assert fleet.check_ins >= 1
    fleet.machine.kernel.boot()
    before = fleet.check_ins
    fleet.run(schedule.BOOTED_SECONDS + 1)
    assert fleet.check_ins > before
    (row,) = fleet.director.rows.values()
    assert row.state is not None
    assert row.state.clean_boot is False
    assert row.former != []


def test_a_clean_shutdown_is_reported(fleet: Fleet) -> None:
    fleet.enrol()
    fleet.run(60)
    assert fleet.machine.run("internal", "note-shutdown") == 0, fleet.machine.err
    fleet.machine.kernel.boot()
    fleet.run(60)
    (row,) = fleet.director.rows.values()
    assert row.state is not None
    assert row.state.clean_boot is True


def test_news_wakes_the_service(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    heard, asked = threading.Event(), threading.Event()
    fleet.enrol()
    monkeypatch.setattr("kmend.agent.waiting.PACE_SECONDS", 0.01)
    fleet.director.meddle = lambda path, status, content: asked.set()
    waiter = Led(fleet.machine.host, lambda message: None, heard.set, draw=lambda: 0.0)
    config = read_config(fleet.machine.paths.config)
    waiter.hear(config)
    waiter.wait(config)
    try:
        assert asked.wait(10)
        assert not heard.wait(0.1), "there is no news yet"
        fleet.director.news = "2.1"
        assert heard.wait(10)
    finally:
        waiter.close()


@pytest.mark.parametrize("heard_before", [True, False])
def test_news_between_the_check_in_and_the_first_answer_is_heard(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, heard_before: bool
) -> None:
    heard = threading.Event()
    fleet.enrol()
    monkeypatch.setattr("kmend.agent.waiting.PACE_SECONDS", 0.01)
    waiter = Led(fleet.machine.host, lambda message: None, heard.set, draw=lambda: 0.0)
    config = read_config(fleet.machine.paths.config)
    if not heard_before:
        fleet.director.meddle = lambda path, status, content: (503, b"")
    waiter.hear(config)
    fleet.director.meddle = None
    # Here the host checks in; then there is news.
    fleet.director.news = "2.1"
    waiter.wait(config)
    try:
        assert heard.wait(10)
    finally:
        waiter.close()


def test_the_machine_is_known_by_a_digest_that_only_root_can_make(fleet: Fleet) -> None:
    paths = fleet.machine.paths
    (paths.root / "sys/class/dmi/id").mkdir(parents=True, exist_ok=True)
    one = machine.digest(paths)
    (paths.root / "sys/class/dmi/id/product_uuid").write_text("11111111-2222-3333-4444-555555555555\n")
    assert machine.digest(paths) != one
    machine.note(paths)
    noted = machine.noted(paths)
    assert noted == machine.digest(paths)
    (paths.run / "machine").write_bytes(b"\xff" * 10)
    assert machine.noted(paths) == ""
    (paths.run / "machine").write_bytes(b"0" * 500)
    assert machine.noted(paths) == ""


def test_who_is_not_enrolled_there_sends_nothing(fleet: Fleet) -> None:
    session = Session(fleet.machine.host, read_config(fleet.machine.paths.config), lambda line: None)
    with pytest.raises(link.NotEnrolledError):
        link.Link(fleet.machine.paths, fleet.url, Transport()).check_in(session)
    fleet.enrol()
    with pytest.raises(link.NotEnrolledError):
        link.Link(fleet.machine.paths, "https://another.example", Transport()).check_in(session)
    assert fleet.check_ins == 0


def module_reports(fleet: Fleet) -> list[ModuleReport]:
    sent = [decode(CheckIn, body) for path, _, body in fleet.director.received if path == CHECK_IN_PATH]
    return [message.module_report for message in sent if message.module_report is not None]


def test_the_server_is_told_of_modules_and_of_passing_ones_four_times_a_day(fleet: Fleet) -> None:
    fleet.director.wants_modules = True
    fleet.director.next = 900
    fleet.enrol()
    fleet.run(60)
    assert module_reports(fleet) == [ModuleReport(("ext4",))]
    listed = fleet.machine.paths.proc / "modules"
    for number in range(8):
        listed.write_text("ext4 1 1 - Live 0x0\n" + ("nls_ascii 1 0 - Live 0x0\n" if number % 2 == 0 else ""))
        fleet.run(1000)
    assert len(module_reports(fleet)) == 1
    listed.write_text("ext4 1 1 - Live 0x0\nnls_ascii 1 0 - Live 0x0\n")
    fleet.run(6 * 3600)
    assert module_reports(fleet)[1:] == [ModuleReport(("ext4", "nls_ascii"))]
    fleet.machine.kernel.write("sys/kernel/modules_disabled", "1")
    fleet.run(1800)
    assert module_reports(fleet)[2:] == [ModuleReport(("ext4", "nls_ascii"), sealed=True)]


def test_whoever_does_not_want_it_tells_nothing_of_modules(fleet: Fleet) -> None:
    fleet.director.wants_modules = True
    fleet.enrol()
    fleet.machine.configure(NO_NEWS + "modules = false\n", "agent.toml.d/30-test.toml")
    fleet.run(1800)
    assert fleet.check_ins
    assert module_reports(fleet) == []
    (row,) = fleet.director.rows.values()
    assert (row.modules, row.module_report) == ("", None)
