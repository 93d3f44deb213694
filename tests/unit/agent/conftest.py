"""A repository with three levels, and a host with a simulated kernel that is configured for it."""

from __future__ import annotations

import datetime
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.simulated import SimulatedClock, SimulatedKernel
from tests.unit.sample_livepatch import livepatch, write_build

from kmend.agent.main import main
from kmend.agent.paths import Paths
from kmend.agent.session import Host
from kmend.core.manifest import Manifest
from kmend.trust.signing import keyfiles
from kmend.trust.signing.keyfiles import KeyFolder, KeyPlan
from kmend.trust.signing.publishing import Publisher, read_build

CVES = ("CVE-2026-1001", "CVE-2026-1002", "CVE-2026-1003")


@dataclass(frozen=True)
class Published:
    """A repository on disk and what is in it."""

    folder: Path
    root: Path
    keys: Path
    levels: dict[int, Manifest]


def publish(folder: Path, keys: Path, levels: list[tuple[Manifest, bytes]], channel: str = "") -> None:
    """Publish levels with the keys in `keys`."""
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    builds = [write_build(folder.parent / f"{folder.name}-{item[0].module.name}", *item) for item in levels]
    key_folder = KeyFolder(keys, lambda path: b"")
    Publisher(folder, key_folder, now=now).publish([read_build(build) for build in builds], channel=channel)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "keys"
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    keyfiles.create(folder, KeyPlan(bin_bits=1, module_key_bits=2048), now=now)
    return folder


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Published:
    """Levels 1, 2 and 3, each with one fix more."""
    folder = tmp_path_factory.mktemp("published") / "repository"
    levels = [
        livepatch(
            number, CVES[:number], base=number - 1 or None, functions=("unix_ioctl", "tcp_ack", "do_fork")[:number]
        )
        for number in (1, 2, 3)
    ]
    publish(folder, keys, levels)
    return Published(folder, keys / "root.json", keys, {item[0].level: item[0] for item in levels})


@dataclass
class Machine:
    """A host under test."""

    paths: Paths
    kernel: SimulatedKernel
    clock: SimulatedClock
    host: Host
    capture: pytest.CaptureFixture[str]

    def configure(self, text: str, name: str = "agent.toml") -> None:
        path = self.paths.config / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(self, *words: str) -> int:
        """Run a command, show nothing."""
        status = main(words, host=self.host)
        self.out, self.err = self.capture.readouterr()
        return status

    def json(self, *words: str) -> Any:
        """Run a command with `--json`; its document."""
        self.status = self.run(*words, "--json")
        return json.loads(self.out)

    def must(self, *words: str) -> str:
        """Run a command that has to succeed; its output."""
        assert self.run(*words) == 0, self.err
        return self.out

    out: str = ""
    err: str = ""
    status: int = 0


@pytest.fixture
def machine(
    tmp_path: Path, published: Published, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    # What a simulated host writes need not reach the real disk.
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    before = signal.getsignal(signal.SIGTERM)
    paths = Paths(tmp_path / "host")
    kernel = SimulatedKernel(paths)
    kernel.boot()
    clock = SimulatedClock(kernel)
    host = Host(paths, clock, lambda: kernel, lambda: None)
    machine = Machine(paths, kernel, clock, host, capsys)
    configure_for(machine, published.folder, published.root)
    yield machine
    signal.signal(signal.SIGTERM, before)


def configure_for(machine: Machine, repository: Path, root: Path) -> None:
    """Point a host at a repository."""
    machine.configure(f'[repository]\nurl = "{repository.as_uri()}"\n')
    (machine.paths.config / "root.json").write_bytes(root.read_bytes())
