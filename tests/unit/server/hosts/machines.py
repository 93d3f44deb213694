"""Hosts for tests: they sign as real ones do, and remember what a real one would."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.unit.server.conftest import NOW, SERVER_ID

from kmend.core.document import encode
from kmend.core.manifest import sha256_hex
from kmend.core.wire import (
    Answer,
    CheckIn,
    Enrolled,
    Enrolment,
    HeldLevel,
    HostFacts,
    ModuleReport,
    Purpose,
    RunningBuild,
    Split,
    StateReport,
    signed_bytes,
)
from kmend.server.hosts import enrolment
from kmend.server.hosts.checkin import Circumstances, Received, check_in
from kmend.server.hosts.directions import Directions, NoDirections
from kmend.server.hosts.keys import create
from kmend.server.hosts.refusals import Refused
from kmend.server.store import Store

BUILD_ID = "5ca1ab1e" * 5
KERNEL = RunningBuild(BUILD_ID, "6.1.0-50-cloud-amd64", "#1 SMP Debian 6.1.176-1", "x86_64")
TIMESTAMP = '{"signed":{"version":7}}'


def circumstances(now: int = NOW, interval: int = 900) -> Circumstances:
    return Circumstances(SERVER_ID, TIMESTAMP, interval, now)


def boot_id(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def new_key(seed: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed.encode()).digest())


def public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


@dataclass
class Machine:
    """A host as it is before and after its enrolment; `replace` makes a clone of it."""

    name: str
    key: Ed25519PrivateKey
    facts: HostFacts
    id: str = ""
    counter: int = 0
    boot: int = 1
    answer: str = ""
    level: int = 0
    phase: str = "idle"
    acknowledged: str = ""
    extra: dict[str, object] = field(default_factory=dict)
    module: str = ""
    modules: ModuleReport | None = None
    send_modules: bool = False

    @classmethod
    def new(cls, name: str) -> Machine:
        return cls(name, new_key(name), HostFacts(name, sha256_hex(name.encode()), hardware="QEMU", role="web"))

    def enrol_with(self, secret: str) -> tuple[Enrolment, bytes, str]:
        message = Enrolment(secret, public(self.key), self.facts)
        body = encode(message)
        return message, body, self.key.sign(signed_bytes(Purpose.ENROL, "", body)).hex()

    def report(self) -> StateReport:
        loaded = HeldLevel(self.level, self.module or f"kmend_{self.level}_00000000", "0" * 64) if self.level else None
        plain = StateReport(
            at=NOW, boot_id=boot_id(self.boot), kernel=KERNEL, facts=self.facts, state=self.phase, loaded=loaded,
            supported=True,
        )  # fmt: skip
        return replace(plain, **self.extra)  # type: ignore[arg-type]

    def check_in(self, *, full: bool | None = None) -> Received:
        """The next check-in, signed; with its state if that is new."""
        self.counter += 1
        report = self.report()
        digest = sha256_hex(encode(report))
        send = digest != self.acknowledged if full is None else full
        message = CheckIn(self.id, self.counter, boot_id(self.boot), digest, report if send else None, self.answer, 7)
        if self.modules is not None:
            message = replace(message, modules=sha256_hex(encode(self.modules)))
            if self.send_modules:
                message = replace(message, state=report, module_report=self.modules)
        return self.sign(message)

    def sign(self, message: CheckIn) -> Received:
        body = encode(message)
        signature = self.key.sign(signed_bytes(Purpose.CHECK_IN, SERVER_ID, body)).hex()
        return Received(body, signature, "192.0.2.1", message)

    def take(self, answer: Answer | Refused, received: Received) -> Answer:
        assert isinstance(answer, Answer), answer
        self.answer = answer.answer
        self.send_modules = answer.send_modules
        if received.message.state is not None:
            self.acknowledged = received.message.report
        return answer

    def split_into(self, key: Ed25519PrivateKey) -> tuple[Split, bytes, str]:
        bare = Split(self.id, public(key), self.facts)
        proof = key.sign(signed_bytes(Purpose.SPLIT, SERVER_ID, encode(bare))).hex()
        message = replace(bare, proof=proof)
        body = encode(message)
        return message, body, self.key.sign(signed_bytes(Purpose.SPLIT, SERVER_ID, body)).hex()


def enrolment_key(store: Store, **bounds: object) -> str:
    """The secret of a new key."""
    values = {"ring": "default", "expires_at": NOW + 3600, "actor": "token:1", "now": NOW} | bounds
    return store.transact(lambda connection: create(connection, **values))[1]  # type: ignore[arg-type]


def enrol(
    store: Store, machine: Machine, secret: str, *, address: str = "192.0.2.1", now: int = NOW
) -> Enrolled | Refused:
    message, body, signature = machine.enrol_with(secret)
    answer = store.transact(
        lambda connection: enrolment.enrol(
            connection, message, body, signature, address=address, server=SERVER_ID, now=now
        )
    )
    if isinstance(answer, Enrolled):
        machine.id = answer.host
    return answer


def enrolled(store: Store, *names: str, **bounds: object) -> list[Machine]:
    secret = enrolment_key(store, **bounds)
    machines = [Machine.new(name) for name in names]
    for machine in machines:
        assert isinstance(enrol(store, machine, secret), Enrolled)
    return machines


def judge(
    store: Store, *batch: Received, now: int = NOW, directions: Directions | None = None
) -> list[Answer | Refused]:
    return store.transact(
        lambda connection: check_in(connection, batch, circumstances(now), directions or NoDirections())
    )
