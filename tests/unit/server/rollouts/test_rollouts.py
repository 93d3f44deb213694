"""Rollouts through the database: rings in turn, caps, halts, people's acts; the promises as a state machine."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import func, insert, select
from tests.unit.server.conftest import NOW, Databases
from tests.unit.server.hosts.machines import BUILD_ID, enrolled
from tests.unit.server.rollouts.fleet import APPROVER, OPERATOR, OTHER, Fleet, levels

from kmend.server.access import audit
from kmend.server.hosts import listing
from kmend.server.rollouts import acts, begin_automatic, records, telling
from kmend.server.rollouts.engine import LIVE
from kmend.server.rollouts.errors import NoRolloutError, RegressionError, RolloutError, RolloutStateError
from kmend.server.rollouts.plan import Plan, Stage
from kmend.server.rollouts.records import Override, RolloutState
from kmend.server.store import Store, open_store, tables

CANARY = Stage("canary", at_once=2, soak_seconds=20, sample=2, silence_seconds=120)
BROAD = Stage("broad", at_once=4, soak_seconds=20, sample=5, silence_seconds=120, failures=0.2, success=0.8)


def held(store: Store) -> dict[str, dict[int, int]]:
    with store.read() as connection:
        return listing.by_level(connection)


def now_of(store: Store, rollout: str) -> records.Rollout:
    with store.read() as connection:
        return records.load(connection, rollout)


def test_a_good_level_rolls_through_the_rings(store: Store) -> None:
    levels(store, {1: ["a"]})
    fleet = Fleet(store, {"canary": 3, "broad": 8})
    rollout = fleet.rollout(CANARY, BROAD)
    seen = []
    for _ in range(40):
        fleet.turn()
        seen.append(held(store))
        current = now_of(store, rollout.id)
        for stage, record in zip(current.plan.stages, current.stages, strict=True):
            assert record.tallies.in_flight <= stage.at_once
        if current.state is RolloutState.FINISHED:
            break
    assert current.state is RolloutState.FINISHED
    fleet.turn()
    assert held(store) == {"canary": {1: 3}, "broad": {1: 8}}
    broad_began = next(counts for counts in seen if counts["broad"].get(1, 0))
    assert broad_began["canary"] == {1: 3}
    with store.read() as connection:
        actions = [record.action for record in audit.records(connection) if record.action.startswith("rollout")]
        released = connection.execute(select(tables.ring_levels.c.ring, tables.ring_levels.c.level)).all()
    assert actions == ["rollout.create", "rollout.start", "rollout.stage", "rollout.finish"]
    assert sorted(tuple(row) for row in released) == [("broad", 1), ("canary", 1)]


def test_a_bad_level_halts_in_the_first_ring_and_stays_halted(database: str) -> None:
    store = open_store(database)
    levels(store, {1: ["a"]})
    fleet = Fleet(store, {"canary": 6, "broad": 8})
    fleet.bad = {"canary-1"}
    rollout = fleet.rollout(CANARY, BROAD)
    for _ in range(12):
        fleet.turn()
    current = now_of(store, rollout.id)
    assert (current.override, current.stage) == (Override.HALTED, 0)
    assert "1 of" in current.reason
    assert held(store)["broad"] == {0: 8}
    store.close()
    fleet.store = store = open_store(database)  # a restart of the server
    for _ in range(5):
        fleet.turn()
    assert now_of(store, rollout.id).override is Override.HALTED
    assert held(store)["broad"] == {0: 8}
    with store.read() as connection:
        shown = telling.show(connection, rollout.id, fleet.now)
        last = list(audit.records(connection))[-1]
    assert [(failure.name, failure.cause) for failure in shown.failures] == [("canary-1", "quarantined")]
    assert (last.action, last.actor) == ("rollout.halt", "server")
    store.close()


def test_hosts_that_soak_go_back_when_it_halts(store: Store) -> None:
    levels(store, {1: ["a"]})
    fleet = Fleet(store, {"canary": 2})
    fleet.rollout(dataclasses.replace(CANARY, at_once=2))
    soaks, fails = fleet.machines["canary"]
    fleet.bad = {fails.name}
    fleet.check_in(soaks, fails)  # both are granted
    fleet.check_in(soaks)
    assert soaks.phase == "soaking" or soaks.level == 1
    soaks.extra["trying"] = soaks.report().loaded  # it goes on soaking
    fleet.check_in(fails)  # reports; halts at once
    fleet.check_in(soaks)
    assert soaks.level == 0
    fleet.check_in(soaks)
    with store.read() as connection:
        states = dict(connection.execute(select(tables.grants.c.host, tables.grants.c.cause)).all())
    assert states == {soaks.id: "returned", fails.id: "quarantined"}


def test_silence_after_the_grant_halts(store: Store) -> None:
    levels(store, {1: ["a"]})
    fleet = Fleet(store, {"canary": 3})
    rollout = fleet.rollout(CANARY)
    fleet.check_in(fleet.machines["canary"][0])
    fleet.mute = {"canary-0"}
    for _ in range(8):
        fleet.turn()
    current = now_of(store, rollout.id)
    assert current.override is Override.HALTED
    with store.read() as connection:
        (failure,) = telling.show(connection, rollout.id, fleet.now).failures
    assert (failure.name, failure.cause) == ("canary-0", "silent")


@pytest.mark.parametrize(("clean", "override"), [(False, Override.HALTED), (True, Override.NONE)])
def test_another_boot_while_it_is_new(store: Store, clean: bool, override: Override) -> None:
    levels(store, {1: ["a"]})
    fleet = Fleet(store, {"canary": 2})
    rollout = fleet.rollout(CANARY)
    host = fleet.machines["canary"][0]
    fleet.check_in(host)
    host.boot, host.level, host.phase = 2, 0, "idle"
    host.extra = {"clean_boot": clean}
    fleet.check_in(host)
    assert now_of(store, rollout.id).override is override
    if clean:
        fleet.check_in(host)
        assert host.level == 1, "granted again"


def test_people_pause_resume_promote_and_abort(store: Store) -> None:
    levels(store, {1: ["a"], 2: ["a", "b"]})
    fleet = Fleet(store, {"canary": 2, "broad": 3})
    rollout = fleet.rollout(CANARY, BROAD)

    def act(what: str, **more: object) -> records.Rollout:
        with store.write() as connection:
            done: records.Rollout = getattr(acts, what)(
                connection, rollout.id, actor=OPERATOR, now=fleet.now, **({"reason": "because"} | more)
            )
            return done

    assert act("pause").override is Override.PAUSED
    fleet.turn()
    assert held(store)["canary"] == {0: 2}
    with pytest.raises(RolloutStateError, match="paused already"):
        act("pause")
    with pytest.raises(RolloutStateError, match="is paused"):
        act("promote", stage=0)
    assert act("resume").override is Override.NONE
    with pytest.raises(RolloutStateError, match="not paused"):
        act("resume")
    assert act("promote", stage=0).stage == 1
    with pytest.raises(RolloutStateError, match="the open stage is 2, not 1"):
        act("promote", stage=0)
    fleet.turn()
    assert held(store)["broad"][0] < 3 or fleet.machines["broad"][0].level == 1
    assert act("abort").state is RolloutState.ABORTED
    for what in ("abort", "pause", "resume", "promote"):
        with pytest.raises(RolloutStateError, match="aborted"):
            act(what, **({"stage": 1} if what == "promote" else {}))
    with pytest.raises(RolloutError, match="one line"):
        act("abort", reason="two\nlines")
    with pytest.raises(NoRolloutError), store.write() as connection:
        acts.abort(connection, "nothing", actor=OPERATOR, reason="x", now=NOW)


def test_a_resumed_rollout_forgives_what_was_and_halts_anew(store: Store) -> None:
    levels(store, {1: ["a"]})
    fleet = Fleet(store, {"canary": 8})
    fleet.bad = {"canary-0"}
    rollout = fleet.rollout(dataclasses.replace(CANARY, success=0.5))
    for _ in range(6):
        fleet.turn()
    assert now_of(store, rollout.id).override is Override.HALTED
    with store.write() as connection:
        acts.resume(connection, rollout.id, actor=OTHER, reason="a bad disk", now=fleet.now)
    fleet.look()
    assert now_of(store, rollout.id).override is Override.NONE
    with store.read() as connection:
        last = list(audit.records(connection))[-1]
    assert fleet.machines["canary"][0].id in last.detail
    fleet.bad.add("canary-7")
    fleet.bad.add("canary-6")
    for _ in range(20):
        fleet.turn()
    assert now_of(store, rollout.id).override is Override.HALTED


def test_approvals(store: Store) -> None:
    levels(store, {1: ["a"]})
    fleet = Fleet(store, {"canary": 1, "broad": 2})
    rollout = fleet.rollout(CANARY, dataclasses.replace(BROAD, approval=True))

    def approve(actor: str) -> records.Rollout:
        with store.write() as connection:
            return acts.approve(connection, rollout.id, actor=actor, reason="looks good", now=fleet.now)

    with pytest.raises(RolloutStateError, match="running"):
        approve(APPROVER)
    for _ in range(6):
        fleet.turn()
    assert now_of(store, rollout.id).state is RolloutState.AWAITING_APPROVAL
    assert held(store)["broad"] == {0: 2}
    with pytest.raises(RolloutStateError, match="cannot approve it"):
        approve(OPERATOR)
    assert approve(APPROVER).state is RolloutState.RUNNING
    for _ in range(6):
        fleet.turn()
    assert held(store)["broad"] == {1: 2}


def test_the_emergency_lane_wants_two(store: Store) -> None:
    levels(store, {1: ["a"]})
    fleet = Fleet(store, {"canary": 1})
    closed = dataclasses.replace(CANARY, soak_seconds=86_400, windows=("Mon 00:00-00:01",))
    rollout = fleet.rollout(closed, emergency=True)
    for actor in (APPROVER, APPROVER, OTHER):
        assert now_of(store, rollout.id).state is RolloutState.AWAITING_APPROVAL
        with store.write() as connection:
            acts.approve(connection, rollout.id, actor=actor, reason="exploited", now=fleet.now)
    for _ in range(4):
        fleet.turn()
    assert now_of(store, rollout.id).state is RolloutState.FINISHED


def test_a_regression_is_refused_unless_recalled(store: Store) -> None:
    levels(store, {1: ["a", "b"], 2: ["a"], 3: ["a", "b", "c"]})
    fleet = Fleet(store, {"canary": 1})
    for _ in range(1):
        fleet.rollout(CANARY, level=1)
        for _ in range(5):
            fleet.turn()
    assert held(store)["canary"] == {1: 1}
    with pytest.raises(RegressionError, match="lacks 1 fixes of level 1"):
        fleet.rollout(CANARY, level=2)
    with store.write() as connection:
        connection.execute(insert(tables.recalls).values(number=1, extent="revert", reason="bad", at=NOW, fix="b"))
    fleet.rollout(CANARY, level=2)
    with store.write() as connection:
        connection.execute(
            insert(tables.recalls).values(number=2, extent="revert", reason="bad", at=NOW, build_id=BUILD_ID, level=3)
        )
    with pytest.raises(RolloutError, match="recalled"):
        fleet.rollout(CANARY, level=3)
    with pytest.raises(NoRolloutError, match="no level 9"):
        fleet.rollout(CANARY, level=9)


def test_a_host_that_refuses_does_not_hold_its_ring_up(store: Store) -> None:
    from kmend.core.wire import WithheldLevel

    levels(store, {1: ["a"]})
    fleet = Fleet(store, {"canary": 4})
    fleet.machines["canary"][0].extra["withheld"] = (WithheldLevel(1, ("pin-level",)),)
    rollout = fleet.rollout(CANARY)
    for _ in range(8):
        fleet.turn()
    assert now_of(store, rollout.id).state is RolloutState.FINISHED


def test_a_ring_whose_hosts_have_not_reported_is_not_skipped(store: Store) -> None:
    levels(store, {1: ["a"]})
    fleet = Fleet(store, {"canary": 0, "broad": 2})
    enrolled(store, "canary-new", ring="canary")
    rollout = fleet.rollout(CANARY, BROAD)
    fleet.look()
    assert now_of(store, rollout.id).stage == 0
    fleet.turn()
    assert held(store)["broad"] == {0: 2}
    fleet.now += 900
    fleet.look()
    assert now_of(store, rollout.id).stage == 1, "nobody waits for it any longer"


def test_plans_that_begin_by_themselves(store: Store) -> None:
    levels(store, {1: ["a"], 2: ["a", "b"]})
    fleet = Fleet(store, {"canary": 1})
    with store.write() as connection:
        acts.put_plan(connection, "usual", Plan((CANARY,)), automatic=True, actor=OPERATOR, now=NOW)
        (made,) = begin_automatic(connection, [(BUILD_ID, 1), (BUILD_ID, 2)], NOW)
        assert made.targets == {BUILD_ID: 2}
        assert made.state is RolloutState.RUNNING
        assert [view.name for view in telling.kept_plans(connection)] == ["usual"]
        acts.remove_plan(connection, "usual", actor=OPERATOR, now=NOW)
        assert begin_automatic(connection, [(BUILD_ID, 2)], NOW) == ()
    host = fleet.machines["canary"][0]
    with store.read() as connection:
        (waiting,) = telling.why(connection, host.id, fleet.now)
    assert waiting.reason == "it is granted at its next check-in"


def test_it_is_told_what_a_host_waits_for(store: Store) -> None:
    levels(store, {1: ["a"]})
    fleet = Fleet(store, {"canary": 3, "broad": 1})
    fleet.rollout(CANARY, BROAD)
    first, second, third = fleet.machines["canary"]
    fleet.check_in(first, second)

    def why(host: str) -> str:
        with store.read() as connection:
            (waiting,) = telling.why(connection, host, fleet.now)
            return f"{waiting.state}: {waiting.reason}"

    assert why(first.id) == "granted: since 0 s"
    assert why(third.id) == "waiting: 2 hosts are at it, and 2 may be at once"
    assert why(fleet.machines["broad"][0].id) == "waiting: its ring broad is stage 2; stage 1 (canary) is open"


class Promises(RuleBasedStateMachine):
    """Hosts do well, fail, fall silent, are restarted; people pause and resume; time passes. What is promised holds."""

    databases: Databases

    def __init__(self) -> None:
        super().__init__()
        self.store = open_store(self.databases.fresh("sqlite"))
        levels(self.store, {1: ["a"], 2: ["a", "b"], 3: ["b"]})
        self.released: dict[str, int] = {}
        self.stage = 0
        self.halted = False
        self.granted_at_halt = 0

    @initialize(seed=st.integers(0, 1000), level=st.sampled_from([1, 2]))
    def begin(self, seed: int, level: int) -> None:
        self.fleet = Fleet(self.store, {"canary": 3, "broad": 6}, seed=seed)
        self.level = level
        self.rollout = self.fleet.rollout(CANARY, dataclasses.replace(BROAD, share=0.5), BROAD, level=level).id

    def teardown(self) -> None:
        self.store.close()

    @rule(seconds=st.sampled_from([1, 20, 90]))
    def time_passes(self, seconds: int) -> None:
        self.fleet.turn(seconds)

    @rule(number=st.integers(0, 8))
    def one_checks_in(self, number: int) -> None:
        self.fleet.check_in(self.fleet.everybody[number])

    @rule(number=st.integers(0, 8))
    def one_is_bad(self, number: int) -> None:
        self.fleet.bad.add(self.fleet.everybody[number].name)

    @rule(number=st.integers(0, 8))
    def one_falls_silent(self, number: int) -> None:
        self.fleet.mute ^= {self.fleet.everybody[number].name}

    @rule(number=st.integers(0, 8), clean=st.booleans())
    def one_boots(self, number: int, clean: bool) -> None:
        machine = self.fleet.everybody[number]
        machine.boot += 1
        machine.level, machine.phase = 0, "idle"
        machine.extra = {"clean_boot": clean, "failures": machine.extra.get("failures", ())}

    @rule(what=st.sampled_from(["pause", "resume", "promote"]))
    def people_act(self, what: str) -> None:
        try:
            with self.store.write() as connection:
                more = {"stage": records.load(connection, self.rollout).stage} if what == "promote" else {}
                act = getattr(acts, what)
                act(connection, self.rollout, actor=OPERATOR, reason="because", now=self.fleet.now, **more)
        except RolloutStateError:
            return
        if what == "resume":
            self.halted = False

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "rollout"):
            return
        with self.store.read() as connection:
            current = records.load(connection, self.rollout)
            table = tables.grants.c
            count = select(table.stage, table.state, func.count()).where(table.rollout == self.rollout)
            counts = {
                (stage, state): n for stage, state, n in connection.execute(count.group_by(table.stage, table.state))
            }
            released = dict(connection.execute(select(tables.ring_levels.c.ring, tables.ring_levels.c.level)).all())
        total = sum(counts.values())
        for stage, record in zip(current.plan.stages, current.stages, strict=True):
            flying = sum(counts.get((record.number, state.value), 0) for state in LIVE)
            assert record.tallies.in_flight == flying, "tallies are counts of grants"
            assert record.tallies.granted == sum(n for (number, _), n in counts.items() if number == record.number)
            assert record.tallies.failed == counts.get((record.number, "failed"), 0)
            assert flying <= stage.at_once, "never more in flight than allowed"
        if self.halted:
            assert current.override is Override.HALTED, "a halt stays"
            assert total <= self.granted_at_halt, "never past a halt"
        if current.override is Override.HALTED and not self.halted:
            self.halted, self.granted_at_halt = True, total
        assert current.stage >= self.stage, "a passed stage never opens again"
        self.stage = current.stage
        for ring, level in self.released.items():
            assert released.get(ring, 0) >= level, "what a ring may have never goes down"
        self.released = released


def test_the_promises_hold(databases: Databases) -> None:
    Promises.databases = databases
    case = Promises.TestCase
    case.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
    case("runTest").runTest()
