"""What the unprivileged account of the service can do to those who read its folders as root, if somebody has taken it over."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.agent.conftest import Machine

from kmend.agent import doctor, handover, loading, service
from kmend.agent.config import Config
from kmend.agent.errors import TerminatedError
from kmend.agent.handover import Fetch, Handled, Request
from kmend.agent.session import Host, Session
from kmend.core import durable
from kmend.core.errors import KmendError, SystemProblemError
from kmend.trust.beneath import open_file

GUARD_SECONDS = 60
"""Nothing here takes a second; this only keeps a reader that hangs from hanging the tests."""


@pytest.fixture(autouse=True)
def guard() -> Iterator[None]:
    def late(*arguments: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(GUARD_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def levels(machine: Machine) -> list[str]:
    return [name.split("_")[1] for name in machine.kernel.active()]


def look(machine: Machine) -> None:
    """The service's look, and the loader that it asks."""
    service.run(machine.host, "once")
    loading.serve(machine.host)


def put(path: Path, what: str, elsewhere: Path) -> None:
    """Put something else in a file's place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if what == "fifo":
        os.mkfifo(path)
    elif what == "symlink":
        path.symlink_to(elsewhere)
    elif what == "loop":
        path.symlink_to(path.name)
    elif what == "folder":
        path.mkdir()
    else:
        path.write_bytes(b" " * 9_000_000)


@pytest.mark.parametrize("what", ["fifo", "symlink", "loop", "folder", "huge"])
def test_odd_files_for_words_neither_hang_nor_stop_anybody(machine: Machine, tmp_path: Path, what: str) -> None:
    machine.must("update")
    good = tmp_path / "elsewhere"
    build_id = machine.json("status")["kernel"]["build_id"]
    now = machine.clock.now() + 1
    durable.write_durably(
        good, f'{{"build_id":"{build_id}","at":{now},"good_at":1,"kind":"x","message":"m","next_at":1}}'.encode()
    )
    for name in ("request", "fetch"):
        put(machine.paths.service / name, what, good)
    machine.clock.sleep(10)
    loading.serve(machine.host)
    assert machine.json("status")["last_check"]["kind"] == ""
    for command in ("check", "patches", "cves", "metrics", "boot"):
        machine.must(command)


@pytest.mark.parametrize("what", ["fifo", "symlink", "loop", "folder", "huge"])
@pytest.mark.parametrize("name", ["metadata/timestamp.json", "metadata/1.snapshot.json", "files"])
def test_odd_files_in_the_mirror_are_refused_and_fetched_again(
    machine: Machine, tmp_path: Path, what: str, name: str
) -> None:
    service.run(machine.host, "once")
    mirror = machine.paths.fetched / "mirror"
    good = tmp_path / "elsewhere"
    (mirror / name).rename(good)
    put(mirror / name, what, good)
    loading.serve(machine.host)
    assert levels(machine) == []
    handled = handover.read_handled(machine.paths)
    assert handled is not None
    assert handled.kind.startswith("repository-")
    if what == "folder":
        shutil.rmtree(mirror / name)  # only who has taken over the account puts it there, and it stays in its way
    look(machine)
    assert levels(machine) == ["3"]


def test_a_file_of_roots_is_not_told_of(machine: Machine) -> None:
    service.run(machine.host, "once")
    secret = machine.paths.root / "etc/shadow"
    secret.write_text("root:$6$deadbeef:1:::::\n")
    for path in (machine.paths.fetched / "mirror/files").rglob("*"):
        if path.is_file():
            put(path, "symlink", secret)
    loading.serve(machine.host)
    size = str(secret.stat().st_size)
    for path in (machine.paths.run / "handled", machine.paths.state / "last_check.json"):
        assert "deadbeef" not in path.read_text()
        assert f"{size} bytes" not in path.read_text()


def test_a_folder_in_the_mirror_that_leads_elsewhere_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("x")
    (tmp_path / "inside/real").mkdir(parents=True)
    (tmp_path / "inside/real/file").write_text("x")
    (tmp_path / "inside/link").symlink_to(tmp_path / "outside")
    os.close(open_file(str(tmp_path / "inside/real/file"), tmp_path / "inside"))
    os.close(open_file(str(tmp_path / "inside/link/file"), None))
    for bad in ("inside/link/file", "inside/real"):
        with pytest.raises(OSError, match=r"Not a directory|No such file"):
            os.close(open_file(str(tmp_path / bad / "x"), tmp_path / "inside"))
    for outside in ("outside/file", "inside/../outside/file"):
        with pytest.raises(ValueError, match=r"subpath|leads out"):
            open_file(str(tmp_path / outside), tmp_path / "inside")


def test_a_damaged_module_of_the_right_size_is_fetched_again(machine: Machine) -> None:
    service.run(machine.host, "once")
    for path in (machine.paths.fetched / "mirror/files").rglob("*"):
        if path.is_file():
            whole = path.read_bytes()
            path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    loading.serve(machine.host)
    assert levels(machine) == []
    look(machine)
    assert levels(machine) == ["3"]


def test_whatever_is_lost_of_the_mirror_comes_again(machine: Machine) -> None:
    service.run(machine.host, "once")
    mirror = machine.paths.fetched / "mirror"
    for path in [path for path in mirror.rglob("*") if path.is_file() and path.name != "timestamp.json"]:
        path.unlink()
    loading.serve(machine.host)
    assert levels(machine) == []
    look(machine)
    assert levels(machine) == ["3"]


@pytest.mark.parametrize("number", [2**63, 10**4200, -(2**63), 0])
def test_absurd_numbers_of_requests_are_outlived(machine: Machine, number: int) -> None:
    machine.paths.service.mkdir(parents=True)
    (machine.paths.service / "request").write_text(f'{{"number": {number}, "update": false}}')
    loading.serve(machine.host)
    assert levels(machine) == []
    look(machine)
    assert levels(machine) == ["3"]
    request = handover.read_request(machine.paths)
    assert request is not None
    assert 0 < request.number <= handover.MAX_NUMBER
    assert handover.read_handled(machine.paths) == Handled(request.number)


def test_a_service_that_asks_without_end_leaves_room_for_others(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[float] = []
    real = loading._step

    def step(host: Host, asked: Request | None) -> tuple[KmendError | None, float | None]:
        steps.append(machine.clock.uptime())
        handover.write_request(machine.paths, Request(len(steps) + 1, update=True))
        if len(steps) > 20:
            raise TerminatedError("enough")
        return real(host, asked)

    monkeypatch.setattr(loading, "_step", step)
    handover.write_request(machine.paths, Request(1, update=True))
    with pytest.raises(TerminatedError):
        loading.serve(machine.host)
    assert all(later - earlier >= loading.PACE_SECONDS for earlier, later in itertools.pairwise(steps))


@pytest.mark.parametrize("at", [-(10**18), -1, 10**18])
def test_absurd_times_of_looks_are_nothing(machine: Machine, at: int) -> None:
    build_id = machine.json("status")["kernel"]["build_id"]
    for checked in (False, True):
        if checked:
            machine.must("check")
        handover.write_fetch(machine.paths, Fetch(build_id, at, 10**18, "unreachable", "no", -(10**18)))
        assert (machine.json("status")["last_check"] is not None) == checked
        machine.must("status")
    handover.write_fetch(machine.paths, Fetch(build_id, machine.clock.now() + 5, 10**18, "", "", 10**18))
    check = machine.json("status")["last_check"]
    assert check["good_at"] <= check["at"]


def test_a_clock_that_was_set_back_does_not_hide_that_looks_fail(machine: Machine) -> None:
    machine.must("update")
    build_id = machine.json("status")["kernel"]["build_id"]
    found = machine.paths.state / "last_check.json"
    at = machine.clock.now()
    found.write_text(found.read_text().replace(f'"at":{at}', f'"at":{at + 10**7}'))
    handover.write_fetch(machine.paths, Fetch(build_id, at, at, "unreachable", "no answer", at + 900))
    assert machine.json("status")["last_check"]["kind"] == "unreachable"


def test_what_nobody_has_signed_does_not_reach_a_terminal(machine: Machine) -> None:
    service.run(machine.host, "once")
    for name in ("timestamp.json",):
        path = machine.paths.fetched / "mirror/metadata" / name
        path.write_text('{"signatures": [], "signed": {"_type": "\\u001b[2J\\u001b]0;x\\u0007' + "a" * 9000 + '"}}')
    loading.serve(machine.host)
    document = machine.json("status")
    assert document["last_check"]["kind"] == "repository-malformed"
    assert "\x1b" not in document["last_check"]["message"]
    assert len(document["last_check"]["message"]) < 1000
    assert "\x1b" not in machine.must("status")


def test_names_of_files_stay_on_their_line_in_a_bundle(machine: Machine) -> None:
    machine.paths.fetched.mkdir(parents=True)
    (machine.paths.fetched / "a\x1b[2J\nfake line").write_text("")
    session = Session(machine.host, Config(), print)
    parts = {part.name: part.text for part in doctor.collect(session, {}, keep_host=True)}
    assert "\x1b" not in parts["service-files.txt"]
    assert len(parts["service-files.txt"].splitlines()) == 1


def test_root_does_not_write_into_another_accounts_folder(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.paths.fetched.mkdir(parents=True)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    real = Path.stat

    def owned(self: Path, *arguments: bool, **options: bool) -> os.stat_result:
        found = real(self, *arguments, **options)
        return os.stat_result((*found[:4], 977, *found[5:10])) if self == machine.paths.fetched else found

    monkeypatch.setattr(Path, "stat", owned)
    for act in ("once", "run"):
        with pytest.raises(SystemProblemError, match="belongs to another account"):
            service.run(machine.host, act)
    assert list(machine.paths.fetched.iterdir()) == []
