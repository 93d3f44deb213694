"""Faults that a review of the rollouts has proven, each by the way in which it came about."""

from __future__ import annotations

import dataclasses

import pytest
from sqlalchemy import insert, select, update
from tests.unit.server.conftest import NOW
from tests.unit.server.hosts.machines import BUILD_ID, Machine, enrolled, judge
from tests.unit.server.rollouts.fleet import OPERATOR, Fleet, levels

from kmend.core.wire import Answer, HeldLevel, Offer, WithheldLevel
from kmend.server.hosts import upkeep
from kmend.server.hosts.seen import Seen
from kmend.server.rollouts import acts, engine, records
from kmend.server.rollouts.engine import Grant, GrantState
from kmend.server.rollouts.errors import RegressionError, RolloutError, RolloutStateError
from kmend.server.rollouts.plan import Plan, Stage
from kmend.server.rollouts.records import Override, RolloutState
from kmend.server.store import Store, tables

CANARY = Stage("canary", at_once=2, soak_seconds=20, sample=2, silence_seconds=120)
BROAD = Stage("broad", at_once=4, soak_seconds=20, sample=5, silence_seconds=120, failures=0.2, success=0.8)
OFF_SECONDS = 4860
"""Longer than an interval and the hour after which an overdue host is not waited for."""
RECALLED = (WithheldLevel(1, ("recall",)),)


def now_of(store: Store, rollout: str) -> records.Rollout:
    with store.read() as connection:
        return records.load(connection, rollout)


def released(store: Store) -> dict[str, int]:
    with store.read() as connection:
        query = select(tables.ring_levels.c.ring, tables.ring_levels.c.level)
        return {row.ring: row.level for row in connection.execute(query)}


def causes(store: Store, rollout: str) -> dict[str, tuple[str, str]]:
    with store.read() as connection:
        return {grant.host: (grant.state.value, grant.cause) for grant in records.all_grants(connection, rollout)}


def act(fleet: Fleet, what: str, rollout: str, **more: object) -> None:
    with fleet.store.write() as connection:
        getattr(acts, what)(connection, rollout, actor=OPERATOR, reason="because", now=fleet.now, **more)


def recall(store: Store, **what: object) -> None:
    values = {"number": 1, "extent": "stop-new", "reason": "bad", "at": NOW} | what
    with store.write() as connection:
        connection.execute(insert(tables.recalls).values(**values))


def answers(fleet: Fleet, *machines: Machine) -> list[Answer]:
    """They check in and do nothing of what they are told."""
    batch = [machine.check_in() for machine in machines]
    found = judge(fleet.store, *batch, now=fleet.now, directions=fleet.directions)
    return [machine.take(answer, item) for machine, answer, item in zip(machines, found, batch, strict=True)]


def offers(fleet: Fleet, *machines: Machine) -> list[Offer]:
    for machine in machines:
        machine.answer = ""
    found = [answer.offer for answer in answers(fleet, *machines)]
    return [offer for offer in found if offer is not None]


def soak(machine: Machine) -> None:
    machine.level, machine.phase = 1, "soaking"
    machine.extra["trying"] = HeldLevel(1, "kmend_1_00000000", "0" * 64, "soaking")


def oops(fleet: Fleet, machine: Machine) -> None:
    machine.extra.pop("trying", None)
    machine.level, machine.phase = 0, "quarantined"
    fleet._quarantine(machine, 1, "oopsed")


def test_a_server_that_was_off_takes_no_host_for_away(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 4, "broad": 8, "prod": 8})
    times = (NOW, NOW + 20, NOW + OFF_SECONDS)
    closed = next(
        window
        for window in ("00:00-06:00", "12:00-18:00")
        if not any(Stage("canary", windows=(window,)).open_at(now) for now in times)
    )
    stages = [dataclasses.replace(CANARY, ring=ring, windows=(closed,)) for ring in ("canary", "broad", "prod")]
    rollout = fleet.rollout(*stages)
    fleet.turn()
    fleet.now += OFF_SECONDS - 20
    for _ in range(3):  # before any host has checked in
        fleet.look()
        fleet.now += 2
    assert now_of(sqlite, rollout.id).stage == 0
    assert released(sqlite) == {}
    assert {offer.level for offer in offers(fleet, *fleet.machines["prod"])} == {0}


def test_a_server_that_was_off_does_not_pass_a_stage_by_the_few_that_were_done(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"prod": 40})
    rollout = fleet.rollout(dataclasses.replace(CANARY, ring="prod", at_once=3))
    while now_of(sqlite, rollout.id).stages[0].tallies.succeeded < 3:
        fleet.turn()
    act(fleet, "pause", rollout.id)
    for _ in range(6):  # those on their way come to their end
        fleet.turn()
    act(fleet, "resume", rollout.id)
    fleet.now += OFF_SECONDS
    fleet.look()
    current = now_of(sqlite, rollout.id)
    assert (current.state, current.override) == (RolloutState.RUNNING, Override.NONE)
    assert current.stages[0].tallies.succeeded < 12


def test_a_server_that_was_off_takes_no_host_for_silent(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 6})
    rollout = fleet.rollout(dataclasses.replace(CANARY, silence_seconds=600))
    fleet.look()
    fleet.check_in(*fleet.machines["canary"])
    fleet.now += 700
    fleet.look()
    fleet.now += 20
    fleet.look()
    assert now_of(sqlite, rollout.id).override is Override.NONE
    for _ in range(35):  # it is there, and they are not
        fleet.now += 20
        fleet.look()
    assert now_of(sqlite, rollout.id).override is Override.HALTED


def test_a_stage_that_nobody_tried_does_not_pass(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 4, "broad": 6})
    for machine in fleet.machines["canary"]:
        machine.extra["withheld"] = (WithheldLevel(1, ("window", "server"), NOW + 7200),)
    fleet.everybody_checks_in()
    rollout = fleet.rollout(CANARY, BROAD)
    fleet.look()
    fleet.turn()
    current = now_of(sqlite, rollout.id)
    assert (current.stage, current.stages[1].tallies.granted) == (0, 0)
    for machine in fleet.machines["canary"]:
        machine.extra.pop("withheld")
    for _ in range(8):
        fleet.turn()
    assert now_of(sqlite, rollout.id).stage == 1, "their windows have opened"


def test_a_stage_whose_hosts_are_all_away_does_not_pass(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 6, "broad": 6})
    fleet.mute = {machine.name for machine in fleet.machines["canary"]}
    fleet.look()
    for _ in range(130):
        fleet.now += 40
        fleet.look()
    fleet.everybody_checks_in()
    rollout = fleet.rollout(CANARY, BROAD)
    fleet.look()
    fleet.turn()
    current = now_of(sqlite, rollout.id)
    assert (current.stage, current.stages[1].tallies.granted) == (0, 0)


def test_hosts_that_failed_in_a_rollout_do_not_pass_the_next_one(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 3, "broad": 6})
    fleet.bad = {machine.name for machine in fleet.machines["canary"]}
    stages = dataclasses.replace(CANARY, at_once=3), BROAD
    before = fleet.rollout(*stages)
    for _ in range(4):
        fleet.turn()
    assert now_of(sqlite, before.id).override is Override.HALTED
    act(fleet, "abort", before.id)
    rollout = fleet.rollout(*stages)
    for _ in range(2):
        fleet.turn()
    current = now_of(sqlite, rollout.id)
    assert (current.stage, current.stages[1].tallies.granted) == (0, 0)


def test_a_resumed_stage_without_any_success_does_not_pass(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 3, "broad": 6})
    fleet.bad = {"canary-0"}
    stage = dataclasses.replace(CANARY, at_once=3, soak_seconds=600, silence_seconds=900)
    rollout = fleet.rollout(stage, BROAD)
    bad, *good = fleet.machines["canary"]
    for _ in range(2):
        fleet.check_in(*good)
    for machine in good:
        soak(machine)
    for _ in range(2):
        fleet.check_in(bad)
    for _ in range(3):
        fleet.check_in(*good)  # they are sent back
    assert now_of(sqlite, rollout.id).override is Override.HALTED
    act(fleet, "resume", rollout.id)
    fleet.look()
    fleet.turn()
    current = now_of(sqlite, rollout.id)
    assert (current.stage, current.stages[1].tallies.granted) == (0, 0)


def test_a_host_that_is_let_go_while_it_is_silent_has_failed(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 3, "broad": 6})
    with sqlite.write() as connection:
        hosts = tables.hosts
        connection.execute(update(hosts).where(hosts.c.ring == "canary").values(ephemeral_seconds=300))
    rollout = fleet.rollout(dataclasses.replace(CANARY, at_once=3, silence_seconds=600), BROAD)
    fleet.check_in(*fleet.machines["canary"])
    fleet.mute = {machine.name for machine in fleet.machines["canary"]}  # every one has panicked
    for _ in range(8):
        fleet.turn(50)
        with sqlite.write() as connection:
            upkeep.expire(connection, fleet.now)
    current = now_of(sqlite, rollout.id)
    assert (current.stage, current.override) == (0, Override.HALTED)
    assert set(causes(sqlite, rollout.id).values()) == {("failed", "silent")}


def test_a_recalled_level_finishes_no_rollout(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 4, "broad": 6})
    rollout = fleet.rollout(dataclasses.replace(CANARY, at_once=1), BROAD)
    fleet.check_in(fleet.machines["canary"][0])
    recall(sqlite, build_id=BUILD_ID, level=1)
    for machine in fleet.everybody:
        machine.level, machine.phase, machine.extra = 0, "idle", {"withheld": RECALLED}
    fleet.everybody_checks_in()
    fleet.look()
    current = now_of(sqlite, rollout.id)
    assert (current.override, current.stage) == (Override.HALTED, 0)
    assert current.reason == "level 1 is recalled (recall 1)"
    assert released(sqlite) == {}


def test_a_draft_whose_level_was_recalled_does_not_start(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 4, "broad": 6})
    with sqlite.write() as connection:
        plan = Plan((CANARY, BROAD))
        made = acts.create(connection, name="x", plan=plan, targets={BUILD_ID: 1}, actor=OPERATOR, now=fleet.now)
    recall(sqlite, build_id=BUILD_ID, level=1)
    with pytest.raises(RolloutError, match="level 1 is recalled"), sqlite.write() as connection:
        acts.start(connection, made.id, actor=OPERATOR, now=fleet.now)
    assert released(sqlite) == {}


def test_a_halted_rollout_offers_its_level_to_nobody_new(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 5, "broad": 6})
    rollout = fleet.rollout(dataclasses.replace(CANARY, at_once=5, success=0.5), BROAD)
    *done, slow, dying = fleet.machines["canary"]
    fleet.check_in(*done, slow, dying)
    fleet.check_in(*done, slow, dying)
    soak(slow)
    soak(dying)
    for _ in range(3):
        fleet.now += 20
        fleet.check_in(*done)
        answers(fleet, slow, dying)
    fleet.look()
    assert released(sqlite) == {"canary": 1}
    oops(fleet, dying)
    answers(fleet, dying)
    assert now_of(sqlite, rollout.id).override is Override.HALTED
    (offer,) = offers(fleet, slow)
    assert offer.back == 1
    new = enrolled(sqlite, "canary-n0", "canary-n1", ring="canary")
    assert {offer.level for offer in offers(fleet, *new)} == {0}


def test_a_host_is_not_offered_what_it_is_to_take_off(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 3, "broad": 6})
    rollout = fleet.rollout(dataclasses.replace(CANARY, at_once=3, success=0.5), BROAD)
    *done, slow = fleet.machines["canary"]
    fleet.check_in(*done)
    answers(fleet, slow)
    slow.phase = "loading"
    slow.extra["trying"] = HeldLevel(1, "kmend_1_00000000", "0" * 64, "loading")
    for _ in range(4):
        fleet.now += 20
        fleet.check_in(*done)
        answers(fleet, slow)
    fleet.look()
    assert released(sqlite) == {"canary": 1}
    act(fleet, "abort", rollout.id)
    (offer,) = offers(fleet, slow)
    assert (offer.level, offer.back) == (0, 1)


def test_a_deadline_begins_anew_when_a_rollout_is_resumed(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 3})
    stage = dataclasses.replace(CANARY, deadline_seconds=100, soak_seconds=3600, silence_seconds=86_400)
    rollout = fleet.rollout(stage)
    fleet.turn()
    fleet.now += 120
    fleet.look()
    assert now_of(sqlite, rollout.id).override is Override.HALTED
    act(fleet, "resume", rollout.id)
    fleet.now += 2
    fleet.look()
    assert now_of(sqlite, rollout.id).override is Override.NONE
    fleet.now += 100
    fleet.look()
    assert now_of(sqlite, rollout.id).override is Override.HALTED


@pytest.mark.parametrize("how", ["awaiting approval", "paused"])
def test_late_failures_halt_a_rollout_that_waits_for_a_person(sqlite: Store, how: str) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 5, "broad": 6})
    stage = dataclasses.replace(CANARY, at_once=5, success=0.2, sample=1)
    rollout = fleet.rollout(stage, dataclasses.replace(BROAD, approval=True))
    *done, third, fourth, fifth = fleet.machines["canary"]
    for _ in range(2):
        fleet.check_in(*fleet.machines["canary"])
    if how == "paused":
        act(fleet, "pause", rollout.id)
    else:
        for _ in range(3):
            fleet.now += 20
            fleet.check_in(*done)
        fleet.look()
        assert now_of(sqlite, rollout.id).state is RolloutState.AWAITING_APPROVAL
    for machine in (third, fourth):
        oops(fleet, machine)
        answers(fleet, machine)
    current = now_of(sqlite, rollout.id)
    assert (current.override, current.stages[0].tallies.failed) == (Override.HALTED, 2)
    soak(fifth)
    (offer,) = offers(fleet, fifth)
    assert offer.back == 1


def test_hosts_that_fall_silent_halt_a_rollout_that_is_paused(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 3})
    rollout = fleet.rollout(CANARY)
    fleet.check_in(*fleet.machines["canary"])
    act(fleet, "pause", rollout.id)
    for _ in range(8):
        fleet.now += 20
        fleet.look()
    assert now_of(sqlite, rollout.id).override is Override.HALTED


def test_a_draft_that_has_become_a_regression_does_not_start(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"], 2: ["a", "b"], 3: ["a", "c"]})
    fleet = Fleet(sqlite, {"canary": 4})
    with sqlite.write() as connection:
        draft = acts.create(
            connection, name="hotfix", plan=Plan((CANARY,)), targets={BUILD_ID: 3}, actor=OPERATOR, now=fleet.now
        )
    rollout = fleet.rollout(dataclasses.replace(CANARY, at_once=10, soak_seconds=0), level=2)
    for _ in range(5):
        fleet.turn()
    assert now_of(sqlite, rollout.id).state is RolloutState.FINISHED
    with pytest.raises(RegressionError, match="lacks 1 fixes of level 2"), sqlite.write() as connection:
        acts.start(connection, draft.id, actor=OPERATOR, now=fleet.now)


def test_a_ring_offers_no_regression(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"], 2: ["a", "b"], 3: ["a", "c"]})
    fleet = Fleet(sqlite, {"canary": 4})
    rollout = fleet.rollout(CANARY, level=3)
    act(fleet, "promote", rollout.id, stage=0)
    host = fleet.machines["canary"][0]
    host.level, host.phase, host.extra = 2, "steady", {}
    assert [offer.level for offer in offers(fleet, host)] == [2]
    recall(sqlite, fix="b")
    assert [offer.level for offer in offers(fleet, host)] == [3]


def test_a_promotion_is_of_the_stage_that_was_meant(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 3, "broad": 20, "prod": 5})
    few = dataclasses.replace(BROAD, at_once=1)
    rollout = fleet.rollout(CANARY, few, dataclasses.replace(BROAD, ring="prod"))
    act(fleet, "promote", rollout.id, stage=0)
    with pytest.raises(RolloutStateError, match="the open stage is 2, not 1"):
        act(fleet, "promote", rollout.id, stage=0)
    assert sum(offer.level for offer in offers(fleet, *fleet.machines["broad"])) == 1


def test_an_aborted_rollout_does_not_keep_its_hosts_from_the_next(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"], 2: ["a", "b"]})
    fleet = Fleet(sqlite, {"canary": 4})
    stage = dataclasses.replace(CANARY, at_once=4)
    before = fleet.rollout(stage)
    answers(fleet, *fleet.machines["canary"])
    act(fleet, "abort", before.id)
    rollout = fleet.rollout(stage, level=2)
    for _ in range(6):
        fleet.turn()
    assert now_of(sqlite, rollout.id).stages[0].tallies.granted == 4
    assert set(causes(sqlite, before.id).values()) == {("inconclusive", "returned")}


def test_a_host_that_was_told_not_to_load_is_not_stuck(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 4})
    rollout = fleet.rollout(dataclasses.replace(CANARY, at_once=4, patience_seconds=600))
    bad, *good = fleet.machines["canary"]
    answers(fleet, bad, *good)
    oops(fleet, bad)
    answers(fleet, bad)
    assert now_of(sqlite, rollout.id).override is Override.HALTED
    for _ in range(58):
        fleet.now += 10
        answers(fleet, *good)
    act(fleet, "resume", rollout.id)
    fleet.now += 25
    fleet.look()
    assert now_of(sqlite, rollout.id).override is Override.NONE


def test_a_host_that_tries_the_next_level_has_not_lost_this_one() -> None:
    grant = Grant("h", 0, BUILD_ID, 1, 0, GrantState.SOAKING, NOW, NOW, "boot-1")
    seen = Seen("h", "canary", BUILD_ID, 1, 2, "loading", "boot-1", reported=True)
    after = engine.progress(grant, CANARY, seen, NOW + 5)
    assert (after.state, after.cause) == (GrantState.INCONCLUSIVE, "superseded")


def test_nobody_is_granted_by_a_report_that_is_out_of_date(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 2})
    rollout = fleet.rollout(CANARY)
    host = fleet.machines["canary"][0]
    host.boot += 1
    host.extra["clean_boot"] = True
    host.extra["kernel"] = dataclasses.replace(host.report().kernel, build_id="ab" * 20)
    received = host.check_in(full=False)
    (answer,) = judge(sqlite, received, now=fleet.now, directions=fleet.directions)
    assert isinstance(answer, Answer)
    assert answer.send_state
    assert causes(sqlite, rollout.id) == {}


def test_people_are_told_of_hosts_that_fail_after_the_rollout_has_finished(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    with sqlite.write() as connection:
        channel = {"id": "c", "kind": "email", "target": "a@b.example", "created_at": NOW, "created_by": OPERATOR}
        connection.execute(insert(tables.channels).values(**channel))
    fleet = Fleet(sqlite, {"canary": 5})
    rollout = fleet.rollout(dataclasses.replace(CANARY, at_once=5, soak_seconds=600, silence_seconds=900))
    machines = fleet.machines["canary"]
    fleet.check_in(*machines)
    for machine in machines:
        soak(machine)
    fleet.check_in(*machines)
    act(fleet, "promote", rollout.id, stage=0)
    assert now_of(sqlite, rollout.id).state is RolloutState.FINISHED
    for machine in machines[:3]:
        oops(fleet, machine)
        fleet.check_in(machine)
    with sqlite.read() as connection:
        told = connection.execute(
            select(tables.outbox.c.body).where(tables.outbox.c.event == "rollout.late-failure")
        ).scalars().all()  # fmt: skip
        audited = connection.execute(
            select(tables.audit.c.action).where(tables.audit.c.action == "rollout.late-failure")
        ).all()  # fmt: skip
    assert (len(told), len(audited)) == (2, 3), "the first and the second; each stands in the audit log"
    assert "oopsed" in told[0]
