"""A simulated host as a member of the fleet: what it keeps of its conversation with the server, and what it reports."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.fleet.behaviour import Script, Timing
from bench.fleet.library import Library
from bench.fleet.machine import Machine
from kmend import __version__
from kmend.agent import conditions, conversation, reporting
from kmend.agent.conditions import Seen
from kmend.agent.conversation import Acknowledged
from kmend.agent.identity import Identity
from kmend.agent.recovery import TAINT_DIE
from kmend.agent.states import State
from kmend.core.manifest import Manifest
from kmend.core.wire import MAX_ITEMS, HeldLevel, HostFacts, ModuleReport, Offer, Remark, RunningBuild, StateReport

HARDWARE = ("Sim Systems S1", "Sim Systems S2", "Modelled Metal M7", "QEMU Standard PC")
ROLES = ("web", "database", "batch", "edge")
DISTROS = ("debian 12", "ubuntu 22.04")


class NotEnrolledYetError(Exception):
    """A simulated host speaks to the server before it is enrolled: our own fault."""


class Member:
    """A `kmend.agent.exchange.Party` without a disk.

    Attributes:
        member: who it is; None until it is enrolled.
        seen: the server's timestamp that it knows.
    """

    def __init__(self, name: str, library: Library, script: Script, timing: Timing, time: Callable[[], float]) -> None:
        self.name = name
        self.machine_state = Machine(name, library, script, timing, time)
        self.member: Identity | None = None
        self.seen = b""
        self.counter = 0
        self._library = library
        self._script = script
        self._digest = hashlib.sha256(f"{script.seed} {name}".encode()).hexdigest()
        self._key = Ed25519PrivateKey.generate()
        self._coming = b""
        self._kept = Acknowledged()
        self._offer: Offer | None = None

    @property
    def public_key(self) -> str:
        """Hexadecimal."""
        return self._key.public_key().public_bytes_raw().hex()

    def facts(self, machine: str) -> HostFacts:
        """What sort of machine it is; it follows from its name."""
        chosen = [
            words[int(self._script.draw(f"{self.name} {what}") * len(words))]
            for what, words in (("hardware", HARDWARE), ("role", ROLES), ("distro", DISTROS))
        ]
        return HostFacts(self.name, machine, chosen[0], chosen[1], chosen[2], 2, 4096, __version__)

    def report(self, machine: str, at: int) -> StateReport:
        """Its state now, with that time."""
        host, kernel = self.machine_state, self._library.kernel
        answer = host.choose(self._offer)
        entries = host.quarantine.entries()
        oopsed = bool(host.tainted & TAINT_DIE)
        waiting = answer.manifest.level if answer.manifest is not None else None
        supported = bool(self._library.levels) or None
        moving = host.journal.opened.module if host.moving else ""
        found = conditions.judge(
            Seen("", "", False, supported, oopsed, moving, "", answer.obstacles, waiting, host.recalled())
        )
        return StateReport(
            at=at,
            boot_id=host.boot_id,
            kernel=RunningBuild(kernel.build_id, kernel.release, kernel.version, "x86_64"),
            facts=self.facts(machine),
            state=host.state.value,
            loaded=_held(host.loaded) if host.loaded is not None and not host.moving else None,
            trying=_trying(host),
            failures=tuple(reporting.failure(entry) for entry in reporting.newest(entries)),
            withheld=tuple(reporting.withheld(obstacle) for obstacle in answer.obstacles[:MAX_ITEMS]),
            remarks=tuple(Remark(item.code, reporting.line(item.message)) for item in found[:MAX_ITEMS]),
            clean_boot=host.clean if host.previous else None,
            tainted=host.tainted,
            accepts_return=host.accepts_return,
            supported=supported,
        )

    def identity(self) -> Identity:
        """Who it is."""
        if self.member is None:
            raise NotEnrolledYetError(self.name)
        return self.member

    def machine(self) -> str:
        """Digest of its machine."""
        return self._digest

    def sign(self, content: bytes) -> str:
        """Its signature."""
        return self._key.sign(content).hex()

    def next_counter(self) -> int:
        """One more."""
        self.counter += 1
        return self.counter

    def counter_behind(self, last: int) -> None:
        """Go on from there."""
        self.counter = max(self.counter, last)

    def kept(self) -> Acknowledged:
        """What the server has last acknowledged."""
        return self._kept

    def offer(self) -> Offer | None:
        """The offer that holds."""
        return self._offer

    def take(self, kept: Acknowledged, offer: Offer | None) -> None:
        """Keep an answer."""
        self._kept = kept
        self._offer = offer if offer is not None else self._offer

    def drop_offer(self) -> None:
        """No offer holds any more."""
        self._offer = None

    def modules(self) -> ModuleReport | None:
        """It has none."""
        return None

    def mirrored(self) -> int:
        """Version of the repository's timestamp that it knows."""
        return conversation.version_of(self.seen)

    def now(self) -> int:
        """Its clock."""
        return self.machine_state.clock.now()

    def coming_seed(self, machine: str) -> bytes:
        """The private key of the identity to come."""
        self._coming = self._coming or secrets.token_bytes(32)
        return self._coming

    def become(self, identity: Identity, seed: bytes) -> None:
        """Be somebody else."""
        self._key, self._coming = Ed25519PrivateKey.from_private_bytes(seed), b""
        self.member, self._kept, self._offer = identity, Acknowledged(), None


def _held(manifest: Manifest) -> HeldLevel:
    return HeldLevel(manifest.level, manifest.module.name, manifest.module.sha256)


def _trying(host: Machine) -> HeldLevel | None:
    intent = host.journal.intent
    if intent is None or intent.action == "unload":
        return None
    return HeldLevel(intent.level, intent.module, intent.sha256, State(intent.state).value)
