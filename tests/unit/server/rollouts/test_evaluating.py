"""The look at rollouts: stages that stall, plans that cannot be read, several at once."""

from __future__ import annotations

import dataclasses
import logging
import threading
from typing import Any

import pytest
from sqlalchemy import Connection, func, insert, select, update
from tests.unit.server.conftest import NOW, Databases
from tests.unit.server.hosts.machines import BUILD_ID
from tests.unit.server.rollouts.fleet import OPERATOR, Fleet, levels

from kmend.core.wire import WithheldLevel
from kmend.server.access import audit
from kmend.server.rollouts import acts, eligible, evaluating, halting, records, telling
from kmend.server.rollouts import plan as plans
from kmend.server.rollouts.errors import PlanError
from kmend.server.rollouts.plan import Plan, Stage
from kmend.server.rollouts.records import Override, RolloutState
from kmend.server.store import Store, StoreError, news, open_store, tables

CANARY = Stage("canary", at_once=2, soak_seconds=20, sample=2, silence_seconds=120)
BROAD = Stage("broad", at_once=4, soak_seconds=20, sample=5, silence_seconds=120, failures=0.2, success=0.8)
STALLED = "nobody can be granted: 3 hosts of the ring canary are away or refuse it"


def now_of(store: Store, rollout: str) -> records.Rollout:
    with store.read() as connection:
        return records.load(connection, rollout)


def told(store: Store) -> list[str]:
    with store.read() as connection:
        return [row.event for row in connection.execute(select(tables.outbox.c.event).order_by(tables.outbox.c.id))]


def refusing(store: Store) -> Fleet:
    """A fleet whose first ring keeps the level away, and somebody who wants to be told."""
    levels(store, {1: ["a"]})
    fleet = Fleet(store, {"canary": 3, "broad": 2})
    for machine in fleet.machines["canary"]:
        machine.extra["withheld"] = (WithheldLevel(1, ("pin-level",)),)
    fleet.everybody_checks_in()
    with store.write() as connection:
        values = {"id": "c", "kind": "email", "target": "a@example.org", "created_at": NOW, "created_by": OPERATOR}
        connection.execute(insert(tables.channels).values(**values))
    return fleet


def test_people_are_told_once_that_a_stage_has_stalled(store: Store) -> None:
    fleet = refusing(store)
    rollout = fleet.rollout(CANARY, BROAD)
    for _ in range(5):
        fleet.turn()
    assert told(store) == ["rollout.stalled"]
    with store.read() as connection:
        shown = telling.show(connection, rollout.id, fleet.now)
        (waiting,) = telling.why(connection, fleet.machines["broad"][0].id, fleet.now)
        (refuser,) = telling.why(connection, fleet.machines["canary"][0].id, fleet.now)
    assert (shown.status, shown.reason) == ("running", STALLED)
    assert waiting.reason == f"its ring broad is stage 2; stage 1 (canary) is open: {STALLED}"
    assert "does not load level 1 by itself" in refuser.reason
    fleet.machines["canary"][0].extra.pop("withheld")
    fleet.turn()
    assert not now_of(store, rollout.id).reason.startswith("nobody")
    assert told(store) == ["rollout.stalled"]


def test_a_stage_that_has_stalled_halts_at_its_deadline(sqlite: Store) -> None:
    fleet = refusing(sqlite)
    rollout = fleet.rollout(dataclasses.replace(CANARY, deadline_seconds=60), BROAD)
    for _ in range(4):
        fleet.turn()
    current = now_of(sqlite, rollout.id)
    assert current.override is Override.HALTED
    assert current.reason == "3 hosts are away or refuse it, and nobody tried it"


def test_it_is_not_asked_who_is_away_while_there_is_somebody(sqlite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 3})
    rollout = fleet.rollout(CANARY)

    def never(connection: Connection, rollout: records.Rollout) -> int:
        raise AssertionError("it was asked")

    monkeypatch.setattr(eligible, "absent", never)
    for _ in range(12):
        fleet.turn()
    assert now_of(sqlite, rollout.id).state is RolloutState.FINISHED


def spoil(store: Store, rollout: str, text: str) -> None:
    with store.write() as connection:
        connection.execute(update(tables.rollouts).where(tables.rollouts.c.id == rollout).values(plan=text))


def test_a_plan_that_cannot_be_read_stops_nobody_else(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    levels(store, {1: ["a"]})
    fleet = Fleet(store, {"canary": 2, "broad": 2})
    rollout, broken = fleet.rollout(CANARY), fleet.rollout(BROAD)
    spoil(store, broken.id, '{"stages":"none"}')
    with caplog.at_level(logging.ERROR):
        for _ in range(8):
            fleet.turn()
    assert now_of(store, rollout.id).state is RolloutState.FINISHED
    assert [message for message in caplog.messages if broken.id in message][1:] == [], "it is logged once"
    assert f"rollout {broken.id} is passed over" in caplog.text
    with store.read() as connection:
        assert [view.id for view in telling.page(connection, fleet.now, after=None, limit=1)] == [rollout.id]
        with pytest.raises(PlanError):
            records.load(connection, broken.id)


def test_a_time_zone_that_has_become_unknown_is_a_closed_window(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 2})
    rollout = fleet.rollout(dataclasses.replace(CANARY, windows=("00:00-24:00",)))
    spoil(sqlite, rollout.id, plans.write(rollout.plan).replace('"UTC"', '"Mars/Olympus"'))
    for _ in range(3):
        fleet.turn()
    current = now_of(sqlite, rollout.id)
    assert (current.state, current.stages[0].tallies.granted) == (RolloutState.RUNNING, 0)
    with sqlite.read() as connection:
        (waiting,) = telling.why(connection, fleet.everybody[0].id, fleet.now)
    assert waiting.reason.endswith("this server does not know the time zone Mars/Olympus")


def test_no_plan_is_kept_whose_time_zone_is_not_known(sqlite: Store) -> None:
    levels(sqlite, {1: ["a"]})
    Fleet(sqlite, {"canary": 1})
    plan = Plan((dataclasses.replace(CANARY, timezone="Mars/Olympus"),))
    with pytest.raises(PlanError, match="stage 1: 'Mars/Olympus'"), sqlite.write() as connection:
        acts.put_plan(connection, "usual", plan, automatic=False, actor=OPERATOR, now=NOW)
    with pytest.raises(PlanError, match="stage 1: 'Mars/Olympus'"), sqlite.write() as connection:
        acts.create(connection, name="x", plan=plan, targets={BUILD_ID: 1}, actor=OPERATOR, now=NOW)


def test_a_kept_plan_that_cannot_be_read_hides_no_other(sqlite: Store) -> None:
    Fleet(sqlite, {"canary": 1})
    with sqlite.write() as connection:
        for name in ("one", "two"):
            acts.put_plan(connection, name, Plan((CANARY,)), automatic=False, actor=OPERATOR, now=NOW)
        connection.execute(update(tables.plans).where(tables.plans.c.name == "one").values(stages="{}"))
    with sqlite.read() as connection:
        assert [view.name for view in telling.kept_plans(connection)] == ["two"]


def test_a_rollout_that_cannot_be_judged_stops_no_other(
    sqlite: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 2, "broad": 2})
    rollouts = [fleet.rollout(CANARY).id, fleet.rollout(BROAD).id]
    looked = []

    def look(connection: Connection, wanted: str, now: int) -> None:
        looked.append(wanted)
        raise ZeroDivisionError

    monkeypatch.setattr(evaluating, "look", look)
    fleet.look()
    assert looked == sorted(rollouts)
    assert caplog.text.count("cannot be judged") == 2


def test_a_halt_takes_the_audit_log_last(sqlite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 2})
    rollout = fleet.rollout(CANARY)
    order = []
    bump, append = news.bump, audit.append

    def note_news(connection: Connection, *keys: str) -> None:
        order.append("news")
        bump(connection, *keys)

    def note_audit(connection: Connection, **what: Any) -> None:
        order.append("audit")
        append(connection, **what)

    monkeypatch.setattr(news, "bump", note_news)
    monkeypatch.setattr(audit, "append", note_audit)
    with sqlite.write() as connection:
        halting.halt(connection, rollout, "because", fleet.now)
    assert order == ["news", "audit"], "whoever moves a host takes them in this order, and would wait in a circle"


def test_two_rollouts_may_release_a_ring_at_the_same_time(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(databases.fresh("postgresql"))
    levels(store, {1: ["a"], 2: ["a", "b"]})
    fleet = Fleet(store, {"canary": 1})
    rollouts = [fleet.rollout(CANARY, level=level).id for level in (1, 2)]
    both = threading.Barrier(2, timeout=20)
    end_stage = records.end_stage

    def end(*given: object) -> None:
        end_stage(*given)  # type: ignore[arg-type]
        both.wait()

    monkeypatch.setattr(records, "end_stage", end)
    problems = []

    def promote(rollout: str) -> None:
        try:
            with store.write() as connection:
                acts.promote(connection, rollout, actor=OPERATOR, reason="because", now=fleet.now, stage=0)
        except StoreError as problem:
            problems.append(problem)

    threads = [threading.Thread(target=promote, args=(rollout,)) for rollout in rollouts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    with store.read() as connection:
        assert connection.execute(select(tables.ring_levels.c.level)).scalars().all() == [2]
    store.close()


def test_targets_are_read_once(sqlite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    levels(sqlite, {1: ["a"]})
    fleet = Fleet(sqlite, {"canary": 2})
    rollout = fleet.rollout(CANARY)
    with sqlite.write() as connection:
        connection.execute(tables.rollout_targets.delete())
        assert records.load(connection, rollout.id).targets == {BUILD_ID: 1}
    monkeypatch.setattr(records, "MAX_KEPT_TARGETS", 0)
    other = fleet.rollout(CANARY)
    with sqlite.read() as connection:
        assert records.load(connection, other.id).targets == {BUILD_ID: 1}
        count = select(func.count()).select_from(tables.rollout_targets)
        assert connection.execute(count).scalar_one() == 1
        assert records.load(connection, rollout.id).targets == {}, "room was made for others"
