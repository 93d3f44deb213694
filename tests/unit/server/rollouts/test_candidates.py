"""Who is granted: recalls, shares of small rings, diversity, how often those who wait ask; and what people are told of it."""

from __future__ import annotations

import dataclasses
import json

import pytest
from sqlalchemy import insert, select, update
from tests.unit.server.conftest import NOW
from tests.unit.server.hosts.machines import BUILD_ID, judge
from tests.unit.server.rollouts.fleet import OPERATOR, Fleet, levels

from kmend.core.wire import Answer, WithheldLevel
from kmend.server.rollouts import acts, engine, recalling, records, telling
from kmend.server.rollouts.errors import RolloutError
from kmend.server.rollouts.plan import Plan, Stage
from kmend.server.rollouts.records import Override, Rollout, RolloutState
from kmend.server.store import Store, tables

CANARY = Stage("canary", at_once=2, soak_seconds=20, sample=2, silence_seconds=120)
BROAD = Stage("broad", at_once=4, soak_seconds=20, sample=5, silence_seconds=120, failures=0.2, success=0.8)


def now_of(store: Store, rollout: str) -> Rollout:
    with store.read() as connection:
        return records.load(connection, rollout)


def recall(store: Store, **what: object) -> None:
    values = {"number": 1, "extent": "stop-new", "reason": "bad", "at": NOW} | what
    with store.write() as connection:
        connection.execute(insert(tables.recalls).values(**values))


def clears(store: Store, level: int, *fixes: str) -> None:
    with store.write() as connection:
        manifest = json.dumps({"clears": fixes}).encode()
        here = tables.levels.c.level == level
        connection.execute(update(tables.levels).where(here).values(manifest=manifest, manifest_sha256="c1" * 32))


def why(fleet: Fleet, host: str) -> str:
    with fleet.store.read() as connection:
        (waiting,) = telling.why(connection, host, fleet.now)
    return waiting.reason


@pytest.mark.parametrize("what", [{"build_id": BUILD_ID, "level": 1}, {"fix": "a"}])
def test_a_recalled_level_is_granted_to_nobody(store: Store, what: dict[str, object]) -> None:
    levels(store, {1: ["a"]})
    fleet = Fleet(store, {"canary": 2})
    rollout = fleet.rollout(CANARY)
    recall(store, **what)
    fleet.everybody_checks_in()
    assert now_of(store, rollout.id).stages[0].tallies.granted == 0
    assert "recalled (recall 1)" in why(fleet, fleet.machines["canary"][0].id)
    fleet.look()
    assert now_of(store, rollout.id).override is Override.HALTED
    with store.write() as connection:
        connection.execute(update(tables.recalls).values(withdrawn_at=NOW))
        acts.resume(connection, rollout.id, actor=OPERATOR, reason="withdrawn", now=fleet.now)
    fleet.look()
    fleet.everybody_checks_in()
    assert now_of(store, rollout.id).stages[0].tallies.granted == 2


@pytest.mark.parametrize("what", [{"build_id": BUILD_ID, "level": 1}, {"fix": "a"}])
def test_no_rollout_is_made_of_a_recalled_level(store: Store, what: dict[str, object]) -> None:
    levels(store, {1: ["a"], 2: ["b"]})
    fleet = Fleet(store, {"canary": 2})
    recall(store, **what)
    with pytest.raises(RolloutError, match=r"recalled \(recall 1\)"):
        fleet.rollout(CANARY)
    with store.read() as connection:
        assert connection.execute(select(tables.rollouts.c.id)).all() == []
    assert fleet.rollout(CANARY, level=2).state is RolloutState.RUNNING


def test_a_recalled_level_is_not_promoted(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 2})
    rollout = fleet.rollout(CANARY)
    recall(sqlite, fix="a")
    with pytest.raises(RolloutError, match="holds a fix that is recalled"), sqlite.write() as connection:
        acts.promote(connection, rollout.id, actor=OPERATOR, reason="because", now=fleet.now, stage=0)


def test_a_level_that_clears_a_recalled_fix_is_rolled_out(store: Store) -> None:
    levels(store, {1: ["a"], 2: ["a", "b"]})
    clears(store, 2, "a")
    fleet = Fleet(store, {"canary": 2})
    recall(store, fix="a")
    recall(store, number=2, build_id="ab" * 20, level=2)
    with store.read() as connection:
        assert recalling.of_level(connection, BUILD_ID, 1) == "level 1 holds a fix that is recalled (recall 1)"
        assert recalling.of_level(connection, BUILD_ID, 2) == ""
    rollout = fleet.rollout(CANARY, level=2)
    for _ in range(6):
        fleet.turn()
    assert now_of(store, rollout.id).state is RolloutState.FINISHED


def test_a_share_of_a_small_ring_has_a_host(store: Store) -> None:
    levels(store, {1: ["a"]})
    fleet = Fleet(store, {"prod": 8})
    part, whole = (dataclasses.replace(CANARY, ring="prod", share=share) for share in (0.001, 1))
    rollout = fleet.rollout(part, whole)
    fleet.look()
    for _ in range(3):
        fleet.everybody_checks_in()
    tallies = now_of(store, rollout.id).stages[0].tallies
    assert (tallies.granted, tallies.in_flight) == (1, 1)
    for _ in range(3):
        fleet.turn()
    current = now_of(store, rollout.id)
    assert (current.stages[0].outcome, current.stages[0].tallies.succeeded) == ("passed", 1)
    for _ in range(20):
        fleet.turn()
    assert now_of(store, rollout.id).state is RolloutState.FINISHED
    with store.read() as connection:
        names = [row.name for row in connection.execute(select(tables.settings.c.name))]
    assert not [name for name in names if name.startswith("rollouts.first")]


def test_the_first_of_a_small_ring_is_another_one_when_it_is_taken_out(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"prod": 3})
    rollout = fleet.rollout(dataclasses.replace(CANARY, ring="prod", share=0.0001))
    fleet.look()
    order = sorted(fleet.machines["prod"], key=lambda machine: engine.position(rollout.id, machine.id))
    assert why(fleet, order[0].id) == "it is granted at its next check-in"
    assert why(fleet, order[1].id) == "it is not among the first 0% of the ring prod"
    with sqlite.write() as connection:
        hosts = tables.hosts
        connection.execute(update(hosts).where(hosts.c.id == order[0].id).values(state="decommissioned"))
    fleet.look()
    assert why(fleet, order[1].id) == "it is granted at its next check-in"


def test_a_share_that_an_earlier_one_has_filled_takes_nobody_more(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"prod": 4})
    shares = [dataclasses.replace(CANARY, ring="prod", share=share) for share in (0.0001, 0.0002, 1)]
    rollout = fleet.rollout(*shares)
    for _ in range(6):
        fleet.turn()
    stages = now_of(sqlite, rollout.id).stages
    assert [stage.outcome for stage in stages[:2]] == ["passed", "skipped"]
    assert [stage.tallies.granted for stage in stages[:2]] == [1, 0]


@pytest.mark.parametrize("key", ["hardware", "tag:rack"])
def test_diversity_does_not_hold_up_a_ring_that_is_all_alike(store: Store, key: str) -> None:
    levels(store, {1: ["a"]})
    fleet = Fleet(store, {"canary": 6})
    stage = Stage("canary", at_once=6, soak_seconds=20, sample=5, diversity=key)
    rollout = fleet.rollout(stage)
    fleet.everybody_checks_in()
    assert now_of(store, rollout.id).stages[0].tallies.granted == 3, "first as if there were others"
    for _ in range(20):
        fleet.turn()
    assert now_of(store, rollout.id).state is RolloutState.FINISHED


def test_diversity_waits_for_those_who_differ_and_says_so(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 4})
    *alike, other = fleet.machines["canary"]
    with sqlite.write() as connection:
        values = {"host": other.id, "name": "rack", "value": "7"}
        connection.execute(insert(tables.host_tags).values(**values))
    stage = Stage("canary", at_once=4, soak_seconds=20, sample=4, diversity="tag:rack", most_alike=0.25)
    rollout = fleet.rollout(stage)
    fleet.check_in(alike[0])
    for _ in range(3):
        fleet.now += 20
        fleet.check_in(*alike)
    assert now_of(sqlite, rollout.id).stages[0].tallies.succeeded == 1
    assert why(fleet, alike[1].id) == "enough of the first hosts have the same tag:rack"
    assert why(fleet, other.id) == "it is granted at its next check-in"
    other.extra["withheld"] = (WithheldLevel(1, ("pin-level",)),)
    fleet.check_in(other)
    assert why(fleet, alike[1].id) == "it is granted at its next check-in", (
        "nobody differs any more who could be granted"
    )
    fleet.check_in(*alike)
    assert now_of(sqlite, rollout.id).stages[0].tallies.in_flight == 1, "one by one"


def test_it_is_told_that_a_level_lacks_fixes_of_what_a_host_runs(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"], 2: ["b"]})
    fleet = Fleet(sqlite, {"canary": 2})
    fleet.rollout(CANARY, level=2)
    host = fleet.machines["canary"][0]
    host.level, host.phase = 1, "steady"
    fleet.check_in(host)
    assert why(fleet, host.id) == "level 2 lacks 1 fixes of level 1, which it runs"


def test_it_is_told_that_another_rollout_has_a_host_on_its_way(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"], 2: ["a", "b"]})
    fleet = Fleet(sqlite, {"canary": 1})
    fleet.rollout(CANARY)
    fleet.everybody_checks_in()
    second = fleet.rollout(CANARY, level=2)
    with sqlite.read() as connection:
        told = {item.rollout: item.reason for item in telling.why(connection, fleet.everybody[0].id, fleet.now)}
    assert told[second.id] == "another rollout has it on its way"


@pytest.mark.parametrize(
    ("waiting", "at_once", "seconds"), [(0, 1, 30), (2, 1, 30), (11, 1, 165), (50, 50, 30), (30_000, 50, 9000)]
)
def test_the_more_wait_the_less_often_each_asks(waiting: int, at_once: int, seconds: int) -> None:
    assert engine.pace(waiting, at_once) == seconds


@pytest.mark.parametrize(("count", "longest"), [(3, 30), (13, 195), (90, 990)])
def test_hosts_that_wait_are_paced_and_never_beyond_their_interval(sqlite: Store, count: int, longest: int) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": count})
    fleet.rollout(dataclasses.replace(CANARY, at_once=1))
    batch = [machine.check_in() for machine in fleet.everybody]
    answers = judge(sqlite, *batch, now=fleet.now, directions=fleet.directions)
    waits = [answer.next for answer in answers if isinstance(answer, Answer)]
    assert len(waits) == count
    assert max(waits) <= longest


def test_the_emergency_lane_keeps_the_caps() -> None:
    plan = Plan((Stage("canary", at_once=2, soak_seconds=600), Stage("broad", at_once=70)))
    assert [stage.at_once for stage in plan.hurried().stages] == [2, 70]
