"""A host for the course of a check-in, whose disk is a dictionary that can be full, or outlive whoever writes it."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from tests.unit.agent.director import KEY, Director
from tests.unit.sample_livepatch import BUILD_ID

from kmend.agent import exchange
from kmend.agent.conversation import Acknowledged
from kmend.agent.exchange import CheckedIn, Message
from kmend.agent.identity import Identity
from kmend.core.errors import SystemProblemError
from kmend.core.wire import HostFacts, ModuleReport, Offer, RunningBuild, StateReport
from kmend.trust import hostkey
from kmend.trust.errors import UnreachableError
from kmend.trust.transport import Reply

T = TypeVar("T")
NOW = 1_800_000_000
MACHINE = "0d" * 32


class KilledError(Exception):
    """The process is gone."""


@dataclass
class Disk:
    """What is durable.

    Attributes:
        writes: that are still possible; None for any number.
        killed: the process dies at the write that is not possible, instead of learning that it failed.
    """

    files: dict[str, Any] = field(default_factory=dict)
    writes: int | None = None
    killed: bool = False

    def write(self, **files: object) -> None:
        """Write files, one after the other."""
        for name, content in files.items():
            if self.writes is not None:
                self.writes -= 1
                if self.writes < 0:
                    raise KilledError if self.killed else SystemProblemError("the disk is full")
            self.files[name] = content


class MemoryParty:
    """As the service's files, in memory."""

    def __init__(self, disk: Disk | None = None, machine: str = MACHINE) -> None:
        self.disk = disk or Disk()
        self.at = NOW
        self.here = machine
        self.boot_id = str(uuid.UUID(int=1, version=4))
        self.level_state = "idle"
        self.module_report: ModuleReport | None = None

    def read(self, name: str, default: Any = None) -> Any:
        return self.disk.files.get(name, default)

    def identity(self) -> Identity:
        found: Identity = self.read("key")[0]
        return found

    def machine(self) -> str:
        return self.here

    def sign(self, content: bytes) -> str:
        return hostkey.sign(self.read("key")[1], content)

    def next_counter(self) -> int:
        self.disk.write(counter=self.read("counter", 0) + 1)
        number: int = self.read("counter")
        return number

    def counter_behind(self, last: int) -> None:
        self.disk.write(counter=max(last, self.read("counter", 0)))

    def kept(self) -> Acknowledged:
        found: Acknowledged = self.read("kept") or Acknowledged()
        return found

    def offer(self) -> Offer | None:
        found: Offer | None = self.read("offer")
        return found

    def take(self, kept: Acknowledged, offer: Offer | None) -> None:
        if offer is not None:
            self.disk.write(offer=offer)
        self.disk.write(kept=kept)

    def drop_offer(self) -> None:
        self.disk.write(offer=None)

    def facts(self, machine: str) -> HostFacts:
        return HostFacts("web-1", machine, "QEMU Standard PC", "web", "debian 12", 2, 2048, "0.1")

    def report(self, machine: str, at: int) -> StateReport:
        kernel = RunningBuild(BUILD_ID, "6.1.0-50-cloud-amd64", "#1 SMP Debian 6.1.176-1", "x86_64")
        return StateReport(at, self.boot_id, kernel, self.facts(machine), self.level_state, accepts_return=True)

    def modules(self) -> ModuleReport | None:
        return self.module_report

    def mirrored(self) -> int:
        return 7

    def now(self) -> int:
        return self.at

    def coming_seed(self, machine: str) -> bytes:
        if self.read("coming") is None:
            self.disk.write(coming=hostkey.make_seed())
        seed: bytes = self.read("coming")
        return seed

    def become(self, identity: Identity, seed: bytes) -> None:
        self.disk.write(offer=None, kept=None, key=(identity, seed), coming=None)

    def snapshot(self) -> dict[str, Any]:
        """A backup."""
        return copy.copy(self.disk.files)


class Answering(Protocol):
    """What a host's messages reach."""

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Status and content."""


@dataclass
class Wire:
    """Between a course and who answers it.

    Attributes:
        lost_requests, lost_answers: numbers (from 0) of the messages that get lost, on the way there or back.
    """

    director: Answering
    lost_requests: frozenset[int] = frozenset()
    lost_answers: frozenset[int] = frozenset()
    sent: list[Message] = field(default_factory=list)

    def run(self, course: Generator[Message, Reply, T]) -> T:
        """Let a course happen; raises UnreachableError if something is lost."""
        message = next(course)
        while True:
            number = len(self.sent)
            self.sent.append(message)
            if number in self.lost_requests:
                raise UnreachableError("lost")
            status, content = self.director.answer(message.path, message.headers, message.body)
            if number in self.lost_answers:
                raise UnreachableError("lost")
            try:
                message = course.send(Reply(status, content))
            except StopIteration as end:
                result: T = end.value
                return result


def enrolled(director: Director, party: MemoryParty | None = None) -> MemoryParty:
    """A host that was taken in."""
    party = party or MemoryParty()
    seed = party.coming_seed(party.here)
    course = exchange.enrol(
        KEY,
        "https://kmend.example",
        hostkey.public_key(seed),
        party.facts(party.here),
        lambda content: hostkey.sign(seed, content),
    )
    identity, _ = Wire(director).run(course)
    party.become(identity, seed)
    return party


def check_in(
    director: Answering,
    party: MemoryParty,
    *,
    lost_requests: frozenset[int] = frozenset(),
    lost_answers: frozenset[int] = frozenset(),
) -> CheckedIn:
    """Check in once."""
    return Wire(director, lost_requests, lost_answers).run(exchange.check_in(party))
