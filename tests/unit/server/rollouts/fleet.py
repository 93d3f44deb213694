"""A small fleet for tests of rollouts: hosts that do what they are told, or fail in their own ways."""

from __future__ import annotations

import random
from collections.abc import Iterable

from sqlalchemy import insert
from tests.unit.server.conftest import NOW
from tests.unit.server.hosts.machines import BUILD_ID, Machine, enrolled, judge

from kmend.core.wire import Answer, Failure, HeldLevel, Offer
from kmend.server.hosts import rings
from kmend.server.rollouts import Rollouts, acts, evaluate
from kmend.server.rollouts.plan import Plan, Stage
from kmend.server.rollouts.records import Rollout
from kmend.server.store import Store, tables

OPERATOR, APPROVER, OTHER = "token:operator", "token:approver", "token:other"


def levels(store: Store, fixes: dict[int, Iterable[str]]) -> None:
    """Publish levels of the machines' kernel build; level -> its fixes."""
    with store.write() as connection:
        connection.execute(
            insert(tables.kernel_builds).values(
                build_id=BUILD_ID, release="6.1", version="#1", ref="debian:6.1", architecture="x86_64", first_seen=NOW
            )
        )
        for level, digests in fixes.items():
            connection.execute(
                insert(tables.levels).values(
                    build_id=BUILD_ID, level=level, module=f"kmend_{level}_00000000", manifest_sha256="0" * 64,
                    module_sha256="0" * 64, published=NOW, pinned=False, imported_at=NOW, manifest=b"{}",
                )
            )  # fmt: skip
            rows = [{"build_id": BUILD_ID, "level": level, "fix": fix} for fix in digests]
            connection.execute(insert(tables.level_fixes), rows)


class Fleet:
    """Hosts in rings, and a clock that only moves when it is told to."""

    def __init__(self, store: Store, counts: dict[str, int], *, seed: int = 0) -> None:
        self.store = store
        self.now = NOW
        self.directions = Rollouts()
        self.machines: dict[str, list[Machine]] = {}
        self.bad: set[str] = set()
        self.mute: set[str] = set()
        self.offers: dict[str, Offer] = {}
        self.draw = random.Random(seed)
        with store.write() as connection:
            for place, ring in enumerate(counts):
                rings.put(connection, ring, position=place, description="", actor=OPERATOR, now=NOW)
        for ring, count in counts.items():
            self.machines[ring] = enrolled(store, *(f"{ring}-{number}" for number in range(count)), ring=ring)
        self.everybody_checks_in()

    @property
    def everybody(self) -> list[Machine]:
        return [machine for machines in self.machines.values() for machine in machines]

    def rollout(self, *stages: Stage, level: int = 1, **options: object) -> Rollout:
        """A rollout that has been started."""
        with self.store.write() as connection:
            made = acts.create(
                connection, name=f"level {level}", plan=Plan(stages), targets={BUILD_ID: level}, actor=OPERATOR,
                now=self.now, **options,  # type: ignore[arg-type]
            )  # fmt: skip
            return acts.start(connection, made.id, actor=OPERATOR, now=self.now)

    def check_in(self, *machines: Machine) -> None:
        """These check in, in one batch, and act on what they are told."""
        talking = [machine for machine in machines if machine.name not in self.mute]
        batch = [machine.check_in() for machine in talking]
        answers = judge(self.store, *batch, now=self.now, directions=self.directions)
        for machine, received, answer in zip(talking, batch, answers, strict=True):
            assert isinstance(answer, Answer), answer
            offer = answer.offer
            machine.take(answer, received)
            if offer is not None:
                self.offers[machine.name] = offer
            self._act(machine)

    def _act(self, machine: Machine) -> None:
        """One step of a host's life: it loads what it is offered, soaks, is steady; or fails."""
        offer = self.offers.get(machine.name)
        level = offer.level if offer is not None else 0
        back = offer.back if offer is not None else 0
        if back and machine.extra.get("trying"):
            machine.level, machine.phase = 0, "quarantined"
            machine.extra.pop("trying")
            self._quarantine(machine, back, "returned")
        elif machine.extra.get("trying"):
            machine.extra.pop("trying")
            machine.phase = "steady"
        elif level > machine.level and not machine.extra.get("failures"):
            if machine.name in self.bad:
                self._quarantine(machine, level, "oopsed")
            else:
                machine.level, machine.phase = level, "soaking"
                machine.extra["trying"] = HeldLevel(level, f"kmend_{level}_00000000", "0" * 64, "soaking")

    def _quarantine(self, machine: Machine, level: int, cause: str) -> None:
        before = machine.extra.get("failures", ())
        assert isinstance(before, tuple)
        machine.extra["failures"] = (*before, Failure(level, f"kmend_{level}_00000000", cause, "as told", self.now))

    def everybody_checks_in(self) -> None:
        self.check_in(*self.everybody)

    def turn(self, seconds: int = 20) -> None:
        """Time passes, hosts check in in a random order, the rollouts are looked at."""
        self.now += seconds
        order = self.everybody
        self.draw.shuffle(order)
        for begin in range(0, len(order), 4):
            self.check_in(*order[begin : begin + 4])
        self.look()

    def look(self) -> None:
        evaluate(self.store, self.now)
