"""A fleet on one machine: a real server, and agents on simulated kernels that speak to it."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.served import Served
from tests.unit.agent.simulated import SimulatedClock, SimulatedKernel

from kmend.agent import handover, loading
from kmend.agent.clock import Clock
from kmend.agent.main import main
from kmend.agent.notifying import Notifier
from kmend.agent.paths import Paths
from kmend.agent.service import Service
from kmend.agent.session import Host


class RealTime(SimulatedClock):
    """Uptime is simulated, and moves when somebody sleeps; the time of day is this machine's, since certificates are."""

    def now(self) -> int:
        return Clock().now()


@dataclass(frozen=True)
class Place:
    """Where a host finds everything: the server's URL, with the repository below it.

    Attributes:
        root: the trust root's file.
        network: lines for the section of that name.
        pin: of the server's authority; empty where there is no TLS.
    """

    url: str
    root: Path
    network: str = ""
    pin: str = ""

    @classmethod
    def of(cls, served: Served) -> Place:
        trust = f'ca_file = "{served.authority}"\nsystem_ca = false\n'
        return cls(served.url, served.data / "root.json", trust, served.made["pin"])


class Member:
    """A host of the fleet: its service and its loader are called as systemd would call them."""

    def __init__(self, folder: Path, place: Place, name: str) -> None:
        self.paths = Paths(folder / name)
        self.name = name
        self.place = place
        self.kernel = SimulatedKernel(self.paths)
        self.boot()
        self.clock = RealTime(self.kernel)
        self.host = Host(self.paths, self.clock, lambda: self.kernel, lambda: None)
        self.service = Service(self.host, Notifier({}))
        (self.paths.root / "etc").mkdir(exist_ok=True)
        (self.paths.root / "etc/machine-id").write_text(f"{abs(hash(name)):032x}\n")
        self.configure()

    def boot(self) -> None:
        self.kernel.boot()

    def configure(self, more: str = "") -> None:
        """Repository and timing; `kmend enrol` adds the server."""
        self.paths.config.mkdir(parents=True, exist_ok=True)
        (self.paths.config / "root.json").write_bytes(self.place.root.read_bytes())
        (self.paths.config / "agent.toml").write_text(
            f'[repository]\nurl = "{self.place.url}/repository"\n[network]\nattempts = 1\n{self.place.network}'
            f"[timing]\nsoak = 30\nremove_after = 1\n{more}"
        )

    def enrol(self, secret: str) -> int:
        words = ["enrol", "--server", self.place.url, "--pin", self.place.pin, "--key", secret, "--json"]
        status = main(words, host=self.host)
        # Without the held request: a test says itself when the host checks in.
        (self.paths.config / "agent.toml.d/30-test.toml").write_text("[server]\nnews = false\n")
        return status

    def look(self) -> float:
        """What the service does when it is its turn; and the loader, if it was asked."""
        delay = self.service.look()
        self.load()
        return delay

    def load(self) -> None:
        request, handled = handover.read_request(self.paths), handover.read_handled(self.paths)
        if request is not None and request.number != (handled.number if handled else None):
            with contextlib.suppress(_EnoughError):
                loading.serve(dataclasses.replace(self.host, clock=_Impatient(self.kernel)))

    def soak(self) -> None:
        """Let the soak pass, and the loader see to it."""
        self.clock.sleep(60)
        self.service._go_on()
        self.load()

    def run(self, *words: str) -> int:
        return main(list(words), host=self.host)


class _Impatient(RealTime):
    """The loader's clock: it does not stay for a soak, but ends at the first sleep, as a killed one would."""

    def __init__(self, kernel: SimulatedKernel) -> None:
        super().__init__(kernel)
        self._slept = 0.0

    def sleep(self, seconds: float) -> None:
        super().sleep(min(seconds, 0.2))
        self._slept += 1
        if self._slept > 40:
            raise _EnoughError


class _EnoughError(Exception):
    """The loader would stay on."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "server")
    made.start()
    yield made
    made.stop(signal.SIGTERM)


@pytest.fixture
def join(tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Member]]:
    """Makes hosts that are enrolled."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}

    def make(name: str, ring: str = "default", *, enrolled: bool = True, more: str = "") -> Member:
        member = Member(tmp_path / "hosts", Place.of(served), name)
        member.configure(more)
        if enrolled:
            key = served.command("keys", "create", "--ring", ring, "--expires", "1h", "--json")
            assert member.enrol(key["secret"]) == 0
        return member

    yield make
    for number, handler in before.items():
        signal.signal(number, handler)
