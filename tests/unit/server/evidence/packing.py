"""A small fleet with a history, and packs of it: taken apart, changed, and put together again with the server's own key."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert
from tests.unit.sample_livepatch import KERNEL, livepatch
from tests.unit.server.conftest import SERVER_ID
from tests.unit.server.hosts.machines import Machine, enrol, enrolment_key, judge
from tests.unit.server.repository.conftest import Press

from kmend.core.document import decode, encode
from kmend.core.wire import NO_LINK, Answer, Enrolled, HeldLevel, RunningBuild, link
from kmend.intel.deadlines import STANDARD
from kmend.intel.frameworks import rows_of as rows_of_framework
from kmend.server.access import audit
from kmend.server.compliance import exceptions, policies
from kmend.server.config import ServerConfig, ServerSection
from kmend.server.evidence import inventory, making, signing
from kmend.server.evidence.container import Pack, Writer
from kmend.server.evidence.countersigning import countersign
from kmend.server.evidence.documents import COUNTERSIGNATURES, MANIFEST, SIGNATURE, PackManifest
from kmend.server.evidence.gathering import Wanted
from kmend.server.evidence.verifying import Outcome, Trusted, verify
from kmend.server.hosts import rings, upkeep
from kmend.server.store import Store, tables

DAY = 86_400
KNOWN = RunningBuild(KERNEL.build_id, KERNEL.release, KERNEL.version, "x86_64")
FIRST, SECOND, OPEN, ABSENT = "CVE-2026-2001", "CVE-2026-2002", "CVE-2026-2003", "CVE-2026-2004"
LISTED = (
    inventory.Listed("db-1", address="192.0.2.9", owner="data", scope="pci"),
    inventory.Listed("WEB-1", owner="web"),
)


@dataclass
class Yard:
    """Hosts, levels and a server that makes packs.

    Attributes:
        begin: of the period, which lasts ten days.
    """

    store: Store
    press: Press
    folder: Path
    machines: dict[str, Machine] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.begin = self.press.now - 10 * DAY
        self.config = ServerConfig(server=ServerSection(data=str(self.folder / "data")))
        self.config.data.mkdir()
        (self.config.data / "root.json").write_bytes(self.root)
        (self.config.data / "repository").symlink_to(self.press.repository)

    @property
    def root(self) -> bytes:
        return (self.press.keys / "root.json").read_bytes()

    def fill(self) -> None:
        """Three hosts: one that takes both levels and loses them by a reboot, one that stays as it is, one in another ring."""
        self.press.publish(1, [FIRST])
        self.press.publish(2, [FIRST, SECOND], base=1)
        self.press.take(self.store)
        for position, name in enumerate(("front", "back")):
            self.act(rings.put, name, position=position, description="")
        for name, ring in (("web-1", "front"), ("web-2", "front"), ("old-1", "back")):
            self.enrol(name, ring)
        self.act(upkeep.tag, self.machines["web-1"].id, {"scope": "pci"})
        self.act(upkeep.decommission, self.machines["old-1"].id)
        self.say("web-1", -2, 0)
        self.say("web-1", 1, 1)
        self.say("web-1", 2, 2)
        self.machines["web-1"].boot += 1
        self.say("web-1", 3, 0)
        self.say("web-1", 4, 2)
        self.say("web-2", 1, 0)
        with self.store.write() as connection:
            for cve, affected, reason in ((FIRST, True, "affected"), (SECOND, True, "affected"), (OPEN, None, "no record"),
                                          (ABSENT, False, "not compiled")):  # fmt: skip
                row = {"build_id": KERNEL.build_id, "cve": cve, "affected": affected, "reason": reason, "objects": "[]",
                       "presence": "built in", "evidence": "[]", "in_c": True}  # fmt: skip
                connection.execute(insert(tables.applicability).values(**row))
            inventory.keep(connection, sorted_listed(), actor="server", now=self.begin)
            rollout = {"id": "ab" * 16, "name": "level 2", "plan": "[]", "state": "finished", "created_at": self.begin,
                       "created_by": "token:1", "changed_at": self.begin + DAY}  # fmt: skip
            connection.execute(insert(tables.rollouts).values(**rollout))
            approval = {"rollout": "ab" * 16, "stage": 0, "actor": "token:2", "approved": True, "reason": "tested"}
            connection.execute(insert(tables.approvals).values(**approval, at=self.begin + DAY))
            target = {"rollout": "ab" * 16, "build_id": KERNEL.build_id, "level": 2}
            connection.execute(insert(tables.rollout_targets).values(**target))
        self.rule()
        created = {"name": "level 2", "targets": {KERNEL.build_id: 2}, "rings": ["front"], "emergency": False}
        self.record("rollout.create", "ab" * 16, created, "token:1", self.begin)
        self.record("rollout.approve", "ab" * 16, {"stage": 0, "reason": "tested"}, "token:2", self.begin + DAY)

    def rule(self) -> None:
        """A policy that took another's place, and an exception that was approved; one of each had ended before the period."""
        own = {
            "rows": rows_of_framework("cyber-essentials"), "assumed": STANDARD, "valid_from": datetime.date(2026, 1, 1),
            "valid_to": datetime.date(2030, 1, 1), "approved_by": "the board", "actor": "token:1",
        }  # fmt: skip
        asked = {
            "cve": OPEN,
            "extent": exceptions.Extent.RING,
            "subject": "front",
            "reason": "no fix yet",
            "control": "none",
        }
        with self.store.write() as connection:
            for day, name, framework in (
                (-9, "old", "own"),
                (-8, "patching", "own"),
                (2, "patching", "cyber-essentials"),
            ):
                at = self.begin + day * DAY
                policies.put(connection, "front", name, framework=framework, now=at, **own)  # type: ignore[arg-type]
            policies.remove(connection, "front", "old", actor="token:1", now=self.begin - 7 * DAY)
            for day, days in ((-9, 3), (1, 60)):
                at = self.begin + day * DAY
                made = exceptions.ask(connection, **asked, expires_at=at + days * DAY, actor="token:1", now=at)  # type: ignore[arg-type]
                exceptions.approve(connection, made.id, actor="token:2", now=at + 60)

    def act(self, work: Callable[..., object], *words: object, **options: object) -> None:
        self.store.transact(lambda connection: work(connection, *words, **options, actor="token:1", now=self.begin))

    def record(self, action: str, subject: str, detail: dict[str, object], actor: str, at: int) -> None:
        def work(connection: Connection) -> None:
            audit.append(connection, at=at, actor=actor, action=action, subject=subject, detail=detail)

        self.store.transact(work)

    def enrol(self, name: str, ring: str) -> Machine:
        now = self.begin - 5 * DAY
        secret = enrolment_key(self.store, ring=ring, now=now, expires_at=now + DAY)
        machine = self.machines[name] = Machine.new(name)
        assert isinstance(enrol(self.store, machine, secret, now=now), Enrolled)
        return machine

    def say(self, name: str, day: float, level: int, **extra: object) -> None:
        """A host reports that it runs a level, so many days from the period's beginning."""
        machine = self.machines[name]
        at = self.begin + int(day * DAY)
        machine.extra = {"at": at, "kernel": KNOWN, "loaded": held(level), **extra}
        received = machine.check_in(full=True)
        (answer,) = judge(self.store, received, now=at + 5)
        assert isinstance(answer, Answer), answer
        machine.take(answer, received)

    def chain(self, name: str, day: float, after: str | None, level: int = 0) -> str:
        """The same, naming what the report follows: nothing (None), or not at all (empty), as earlier agents; its link."""
        machine = self.machines[name]
        at = self.begin + int(day * DAY)
        machine.extra = {"at": at, "kernel": KNOWN, "loaded": held(level)}
        message = machine.check_in(full=True).message
        received = machine.sign(replace(message, after=NO_LINK if after is None else after))
        (answer,) = judge(self.store, received, now=at + 5)
        machine.take(answer, received)
        return link(received.message)

    def wanted(self, ring: str = "") -> Wanted:
        return Wanted(SERVER_ID, self.begin, self.press.now, ring, "token:9", self.press.now, 400)

    def pack(self, name: str = "pack.tar", *, ring: str = "", countersigned: bool = True) -> Path:
        path = self.folder / name
        with path.open("wb") as stream:
            making.make(self.store, self.config, self.wanted(ring), stream.write)
        if countersigned:
            self.countersign(path)
        return path

    def countersign(self, path: Path, role: str = "recall") -> None:
        key = signing.private_key(self.press.keys / f"offline/{role}-1.pem", lambda _: b"")
        countersign(path, key, name="An Auditor", note="seen", at=self.press.now)

    def verify(self, path: Path, **options: Any) -> Outcome:
        return verify(path, Trusted(self.root, {}, **options))

    def forge(self, path: Path, change: Callable[[dict[str, bytes]], object], *, keep_people: bool = False) -> Path:
        """The same pack with changed members, its manifest made anew and signed with the server's key."""
        pack = Pack(path)
        members = {name: pack.read(name) for name in pack.names}
        people = {name: members.pop(name) for name in list(members) if name.startswith(f"{COUNTERSIGNATURES}/")}
        old = decode(PackManifest, members.pop(MANIFEST))
        members.pop(SIGNATURE)
        change(members)
        forged = path.with_name("forged.tar")
        with forged.open("wb") as stream:
            writer = Writer(stream.write)
            files = tuple(writer.add(name, content) for name, content in members.items())
            manifest = encode(replace(old, files=files))
            writer.add(MANIFEST, manifest)
            key = signing.server_key(making.key_path(self.config))
            made = signing.make(signing.SERVER, manifest, key, name=SERVER_ID, note="", at=old.made_at)
            writer.add(SIGNATURE, encode(made))
            for name, content in people.items() if keep_people else ():
                writer.add(name, content)
            writer.end()
        return forged


def sorted_listed() -> tuple[inventory.Listed, ...]:
    return tuple(sorted(LISTED, key=lambda item: (item.name, item.machine)))


def held(level: int) -> HeldLevel | None:
    if not level:
        return None
    manifest, _ = livepatch(level, [FIRST, SECOND][:level], base=level - 1 or None)
    return HeldLevel(level, manifest.module.name, manifest.module.sha256)


def rows_of(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


def lines_of(rows: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(encode_plain(row) + b"\n" for row in rows)


def encode_plain(row: Any) -> bytes:
    return json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def wrong(outcome: Outcome) -> dict[str, str]:
    """Check -> what is wrong."""
    return {item.check: item.message for item in outcome.findings if not item.good}
