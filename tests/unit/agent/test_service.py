"""The service that fetches, and the loader that it asks: what they do, and what they survive."""

from __future__ import annotations

import dataclasses
import datetime
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.agent.conftest import CVES, Machine, Published, configure_for, publish
from tests.unit.agent.simulated import SimulatedClock
from tests.unit.sample_livepatch import livepatch

from kmend.agent import handover, loading, service
from kmend.agent.errors import TerminatedError
from kmend.agent.handover import Fetch, Handled, Request
from kmend.agent.notifying import Notifier
from kmend.agent.service import Service
from kmend.core.recall import Extent
from kmend.trust.signing.keyfiles import KeyFolder
from kmend.trust.signing.publishing import Publisher

DAY = 86_400


class Running(SimulatedClock):
    """Time of a host on which systemd starts the loader when it is asked for; at its end the service is told to stop."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.kernel)
        self.machine = machine
        self.end = 0.0
        self.loads = 0
        self.busy = False
        self.deaf = 0  # so many requests come while the loader before is about to end
        self.missed: set[int] = set()
        self.events: dict[float, Callable[[], object]] = {}

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        for due in sorted(self.events):
            if self.uptime() >= due:
                self.events.pop(due)()
        if self.busy:
            return
        request, handled = handover.read_request(self.machine.paths), handover.read_handled(self.machine.paths)
        if request is not None and request.number != (handled.number if handled else None):
            if request.number in self.missed or len(self.missed) < self.deaf:
                self.missed.add(request.number)
                return
            self.busy = True
            self.loads += 1
            try:
                loading.serve(dataclasses.replace(self.machine.host, clock=self))
            finally:
                self.busy = False
        if self.uptime() >= self.end:
            os.kill(os.getpid(), signal.SIGTERM)


class Recorder(Notifier):
    """Keeps what systemd would be told."""

    def __init__(self, watchdog: float = 0.0) -> None:
        super().__init__({})
        self.watchdog = watchdog
        self.told: list[str] = []

    def _send(self, message: str) -> None:
        self.told.append(message)


@pytest.fixture
def clock(machine: Machine) -> Iterator[Running]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    (machine.paths.root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    yield Running(machine)
    for number, handler in before.items():
        signal.signal(number, handler)


class Growing:
    """A repository with one level, to which a second comes during the test; the host is configured for it."""

    def __init__(self, machine: Machine, folder: Path, published: Published) -> None:
        self.folder = folder
        self.published = published
        self.levels = [livepatch(number, CVES[:number], base=number - 1 or None) for number in (1, 2)]
        publish(folder, published.keys, self.levels[:1])
        configure_for(machine, folder, published.root)

    def publish_second(self) -> None:
        """Level 2 comes."""
        publish(self.folder, self.published.keys, self.levels[1:])


@pytest.fixture
def growing(machine: Machine, tmp_path: Path, published: Published) -> Growing:
    return Growing(machine, tmp_path / "growing", published)


def run(machine: Machine, clock: Running, seconds: float, notifier: Notifier | None = None) -> Notifier:
    """The service, for so long."""
    clock.end = clock.uptime() + seconds
    told = notifier or Recorder()
    host = dataclasses.replace(machine.host, clock=clock)
    assert Service(host, told, draw=lambda: 0.5).run() == 0
    return told


def levels(machine: Machine) -> list[str]:
    return [name.split("_")[1] for name in machine.kernel.active()]


def test_it_patches_by_itself_soaks_and_goes_quiet(machine: Machine, clock: Running) -> None:
    told = run(machine, clock, 2 * 3600)
    assert levels(machine) == ["3"]
    document = machine.json("status", "--exit-code")
    assert (machine.status, document["state"], document["summary"]) == (0, "steady", "current")
    assert clock.loads == 1
    assert isinstance(told, Recorder)
    assert told.told[0] == "READY=1"
    assert told.told[-1] == "STOPPING=1"
    assert "STATUS=the repository has nothing new" in told.told
    # Nothing but the loader has written where the loader believes what it reads.
    assert (machine.paths.fetched / "mirror/metadata/timestamp.json").exists()


def test_a_request_that_no_loader_has_seen_is_made_again(machine: Machine, clock: Running) -> None:
    clock.deaf = 2
    run(machine, clock, 200)
    assert levels(machine) == ["3"]
    assert clock.loads == 1
    request = handover.read_request(machine.paths)
    assert request is not None
    assert request.update


def test_status_knows_of_looks_that_found_nothing_new(machine: Machine, clock: Running) -> None:
    run(machine, clock, 10 * 3600)
    document = machine.json("status")
    assert machine.clock.now() - document["last_check"]["at"] <= 900
    assert machine.clock.now() - document["last_check"]["good_at"] <= 900
    assert clock.loads == 1


def test_a_new_level_is_loaded_at_the_next_look(machine: Machine, clock: Running, growing: Growing) -> None:
    run(machine, clock, 1000)
    assert levels(machine) == ["1"]
    growing.publish_second()
    run(machine, clock, 2000)
    assert levels(machine) == ["2"]
    assert clock.loads == 2


def test_a_newer_level_comes_while_a_transition_hangs(machine: Machine, clock: Running, growing: Growing) -> None:
    machine.kernel.hold_transitions(hold=True)
    host = dataclasses.replace(machine.host, clock=clock)
    resident = Service(host, Recorder(), draw=lambda: 0.5)
    clock.end = 1e9
    resident.look()

    def newer() -> None:
        growing.publish_second()
        machine.kernel.hold_transitions(hold=False)
        machine.kernel.hold_transitions(hold=True)
        resident.look()

    clock.events = {
        clock.uptime() + 400: newer,
        clock.uptime() + 900: lambda: machine.kernel.hold_transitions(hold=False),
    }
    clock.sleep(1)
    assert levels(machine) == ["2"]


def test_policy_lets_a_level_go_on_time(machine: Machine, clock: Running) -> None:
    machine.configure('[apply]\nhold = "1h"\n', "agent.toml.d/hold.toml")
    # The simulated clock is behind the real one, by which the levels were published.
    machine.must("check")
    until = machine.json("status")["blocked"][0]["until"]
    machine.clock.sleep(until - machine.clock.now() - 100)
    machine.must("check")
    run(machine, clock, 90)
    assert levels(machine) == []
    run(machine, clock, 1000)
    assert levels(machine) == ["3"]


def test_a_refused_level_is_tried_less_and_less_often(machine: Machine, clock: Running) -> None:
    machine.kernel.add_foreign("other_tool")
    run(machine, clock, DAY)
    assert levels(machine) == ["tool"]
    assert 5 <= clock.loads <= 9
    handled = handover.read_handled(machine.paths)
    assert handled is not None
    assert handled.kind == "preflight"
    assert "other_tool" in handled.message


def test_an_unreachable_repository_is_said_once_and_asked_again(
    machine: Machine, clock: Running, tmp_path: Path, published: Published, caplog: pytest.LogCaptureFixture
) -> None:
    configure_for(machine, tmp_path / "away", published.root)
    told = run(machine, clock, DAY)
    assert sum("does not exist" in record.message for record in caplog.records) == 1
    assert isinstance(told, Recorder)
    looks = sum(message.startswith("STATUS=") for message in told.told)
    assert 24 <= looks <= 60
    document = machine.json("status", "--exit-code")
    assert machine.status == 60
    assert "does not exist" in document["last_check"]["message"]
    shutil.copytree(published.folder, tmp_path / "away")
    run(machine, clock, 3 * 3600)
    assert levels(machine) == ["3"]


def test_reload_takes_a_new_configuration_and_keeps_the_old_one_if_it_is_broken(
    machine: Machine, clock: Running
) -> None:
    machine.configure("[apply]\npin_level = 1\n", "agent.toml.d/pin.toml")
    told = Recorder()

    def broken() -> None:
        machine.configure("[apply]\npin_level = what\n", "agent.toml.d/pin.toml")
        os.kill(os.getpid(), signal.SIGHUP)

    def right() -> None:
        machine.configure("[apply]\npin_level = 2\n", "agent.toml.d/pin.toml")
        os.kill(os.getpid(), signal.SIGHUP)

    clock.events = {clock.uptime() + 500: broken}
    run(machine, clock, 1000, told)
    assert levels(machine) == ["1"]
    assert any("what was configured before stays in force" in message for message in told.told)
    clock.events = {clock.uptime() + 70: right}
    machine.configure("[apply]\npin_level = 1\n", "agent.toml.d/pin.toml")
    run(machine, clock, 200, told)
    assert levels(machine) == ["2"]


def test_what_is_open_is_seen_through_without_the_repository(
    machine: Machine, clock: Running, tmp_path: Path, published: Published
) -> None:
    """A loader that was killed while a level soaked, and a repository that has gone since."""
    machine.must("update")
    assert machine.json("status")["state"] == "soaking"
    configure_for(machine, tmp_path / "away", published.root)
    run(machine, clock, 90)
    assert clock.loads == 1
    run(machine, clock, 2 * 3600)
    assert "soaked without trouble" in machine.must("history")


def test_what_is_open_is_seen_through_again_after_a_look_that_failed(
    machine: Machine, clock: Running, tmp_path: Path, published: Published
) -> None:
    configure_for(machine, tmp_path / "away", published.root)
    host = dataclasses.replace(machine.host, clock=clock)
    resident = Service(host, Recorder(), draw=lambda: 0.5)
    clock.end = 1e9
    resident.look()
    assert handover.read_request(machine.paths) is None
    configure_for(machine, published.folder, published.root)
    machine.must("update")
    configure_for(machine, tmp_path / "away", published.root)
    resident.look()
    assert handover.read_request(machine.paths) == Request(1, update=False)


def test_without_a_configuration_it_waits_for_one(machine: Machine, clock: Running, published: Published) -> None:
    machine.configure("")
    clock.events = {clock.uptime() + 200: lambda: configure_for(machine, published.folder, published.root)}
    told = run(machine, clock, 400)
    assert isinstance(told, Recorder)
    assert "STATUS=no repository is configured" in told.told
    assert levels(machine) == ["3"]


def test_the_kernels_command_line_stops_it(machine: Machine, clock: Running) -> None:
    machine.kernel.write("cmdline", "root=/dev/vda1 kmend=off")
    run(machine, clock, 3600)
    assert levels(machine) == []
    assert not (machine.paths.fetched / "mirror").exists()


def test_the_watchdog_is_fed_while_it_rests(machine: Machine, clock: Running) -> None:
    told = Recorder(watchdog=60)
    run(machine, clock, 600, told)
    assert told.told.count("WATCHDOG=1") >= 600 / 30


def test_a_look_that_fails_inside_is_told_and_the_next_one_comes(
    machine: Machine, clock: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) < 3:
            raise RecursionError("so deep")
        monkeypatch.undo()

    monkeypatch.setattr("kmend.agent.fetching.Fetcher.fetch", broken)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    run(machine, clock, 4 * 3600)
    assert len(calls) == 3
    assert levels(machine) == ["3"]


def test_once_for_a_timer(machine: Machine, clock: Running) -> None:
    clock.end = 1e9
    host = dataclasses.replace(machine.host, clock=clock)
    assert service.run(host, "once") == 0
    clock.sleep(1)
    assert levels(machine) == ["3"]


def test_the_loader_verifies_what_it_is_given(machine: Machine, clock: Running) -> None:
    clock.end = 1e9
    host = dataclasses.replace(machine.host, clock=clock)
    assert service.run(host, "once") == 0
    for path in (machine.paths.fetched / "mirror/files").rglob("*"):
        if path.is_file():
            whole = path.read_bytes()
            path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    clock.sleep(1)
    assert levels(machine) == []
    handled = handover.read_handled(machine.paths)
    assert handled is not None
    assert handled.kind == "repository-mismatch"


@pytest.mark.parametrize("garbage", [b"", b"\0" * 9000, b"[1]", b'{"number": -1}', b'{"number": 1e400, "update": 1}'])
def test_garbage_in_the_services_folder_is_nothing(machine: Machine, clock: Running, garbage: bytes) -> None:
    machine.must("update")
    machine.paths.service.mkdir(parents=True)
    for name in ("request", "fetch"):
        (machine.paths.service / name).write_bytes(garbage)
    clock.end = 1e9
    loading.serve(dataclasses.replace(machine.host, clock=clock))
    machine.must("status")


def test_what_the_service_says_is_bounded_by_what_was_verified(machine: Machine) -> None:
    machine.must("update")
    before = machine.json("status")["last_check"]["good_at"]
    machine.clock.sleep(400 * DAY)
    now = machine.clock.now()
    build_id = machine.json("status")["kernel"]["build_id"]
    handover.write_fetch(machine.paths, Fetch(build_id, now, now, "", "", now + 900))
    check = machine.json("status")["last_check"]
    assert before < check["good_at"] < now - 300 * DAY
    assert check["stale"]
    handover.write_fetch(machine.paths, Fetch(build_id, now, now, "x\x1b[31m", "red\x1b[31m\n", now + 900))
    assert "\x1b" not in machine.must("status")
    # A time that has not come yet is not believed at all.
    handover.write_fetch(machine.paths, Fetch(build_id, now + DAY, now + DAY, "", "", now))
    assert machine.json("status")["last_check"]["good_at"] == before


def test_the_loader_waits_for_another_command(machine: Machine, clock: Running) -> None:
    from kmend.agent.lock import held

    handover.write_request(machine.paths, Request(1, update=False))
    clock.end = 1e9
    machine.must("check")
    clock.events = {clock.uptime() + 100: _terminate}
    clock.busy = True
    with held(machine.paths.run / "lock", "other", clock), pytest.raises(TerminatedError):
        loading.serve(dataclasses.replace(machine.host, clock=clock))
    assert handover.read_handled(machine.paths) is None
    loading.serve(dataclasses.replace(machine.host, clock=clock))
    assert handover.read_handled(machine.paths) == Handled(1)


def _terminate() -> None:
    raise TerminatedError("stopped by a signal")


def test_a_full_disk_is_told_and_outlived(machine: Machine, clock: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from kmend.core import durable
    from kmend.core.errors import SystemProblemError

    def full(path: Path, content: bytes, *, mode: int = 0o644) -> None:
        raise SystemProblemError(f"cannot write {path}: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(durable, "write_durably", full)
        told = run(machine, clock, 3600)
    assert isinstance(told, Recorder)
    assert any("No space left on device" in message for message in told.told)
    run(machine, clock, 2 * 3600)
    assert levels(machine) == ["3"]


def test_systemd_is_told_by_datagrams(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "90000000"})
        assert notifier.watchdog == 90
        notifier.ready()
        notifier.alive()
        notifier.status("level\n3\x1b")
        notifier.stopping()
        got = [listener.recv(500).decode() for _ in range(4)]
    assert got == ["READY=1", "WATCHDOG=1", "STATUS=level 3 ", "STOPPING=1"]
    notifier.ready()  # nobody listens any more
    assert Notifier({"WATCHDOG_USEC": "90000000", "WATCHDOG_PID": "1"}).watchdog == 0


def test_a_recall_reaches_the_host_by_the_service(machine: Machine, clock: Running, growing: Growing) -> None:
    run(machine, clock, 1000)
    growing.publish_second()
    run(machine, clock, 2000)
    assert levels(machine) == ["2"]
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    publisher = Publisher(
        growing.folder, KeyFolder(growing.published.keys, lambda path: b""), now=now + datetime.timedelta(seconds=5)
    )
    publisher.recall(Extent.REVERT, "it crashes hosts", fix=growing.levels[1][0].fixes[-1].digest)
    run(machine, clock, 2000)
    assert levels(machine) == ["1"]
