"""Simulated hosts: they fare as the script says, and say it as the agent does."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest
from bench.fleet import Behaviour, Fleet, Group, Library, Script, Timing
from bench.fleet.machine import Machine
from bench.fleet.member import Member
from tests.unit.agent.director import KEY, SERVER, Director, Listening
from tests.unit.sample_livepatch import BUILD_ID

from kmend.agent import exchange
from kmend.agent.exchange import CheckedIn
from kmend.agent.identity import Identity
from kmend.agent.quarantine import Cause
from kmend.agent.states import State
from kmend.core.recall import Extent, Recall, Recalls
from kmend.core.wire import Offer
from kmend.trust.transport import Reply

TIMING = Timing(transition=2, soak=20, trouble=5, restart=30)


class Time:
    """A clock that a test moves, from one event of a machine to the next."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def until(self, machine: Machine, seconds: float) -> None:
        """Let so much time pass for a machine."""
        end = self.now + seconds
        while machine.due <= end:
            self.now = machine.due
            machine.step()
        self.now = end


def made(behaviour: Behaviour = Behaviour.GOOD, level: int = 2, *, refuse: float = 0.0) -> tuple[Machine, Time]:
    time = Time()
    script = Script({level: {behaviour: 1.0}}, refuse_return=refuse)
    return Machine("sim-1", Library.made_up((1, 2)), script, TIMING, time), time


def offer(level: int, back: int = 0) -> Offer:
    return Offer(BUILD_ID, level, back)


def steady_on_1(machine: Machine, time: Time) -> None:
    machine.obey(offer(1))
    seen = [machine.state]
    for seconds in (3, 20):
        time.until(machine, seconds)
        seen.append(machine.state)
    assert seen == [State.TRANSITIONING, State.SOAKING, State.STEADY]


def level(machine: Machine) -> int:
    return machine.loaded.level if machine.loaded is not None else 0


def test_a_good_host_runs_what_it_is_offered_and_nothing_else() -> None:
    machine, time = made()
    machine.obey(None)
    machine.obey(offer(0))
    assert level(machine) == 0
    steady_on_1(machine, time)
    machine.obey(offer(1))
    machine.obey(offer(0, back=1))
    time.until(machine, 100)
    assert level(machine) == 1, "a steady host is not sent back"
    machine.obey(offer(2))
    time.until(machine, 100)
    assert (level(machine), machine.state) == (2, State.STEADY)


@pytest.mark.parametrize(
    ("behaviour", "cause", "left"),
    [
        (Behaviour.OOPSES, Cause.OOPSED, 2),
        (Behaviour.REVERTS, Cause.COMPLAINED, 1),
        (Behaviour.PANICS, Cause.CRASHED, 1),
    ],
)
def test_a_bad_level_goes_into_quarantine(behaviour: Behaviour, cause: Cause, left: int) -> None:
    machine, time = made(behaviour)
    steady_on_1(machine, time)
    boot = machine.boot_id
    machine.obey(offer(2))
    time.until(machine, 200)
    assert [(entry.level, entry.cause) for entry in machine.quarantine.entries()] == [(2, cause)]
    assert level(machine) == left
    assert (machine.boot_id != boot) == (behaviour is Behaviour.PANICS)
    machine.obey(offer(2))
    time.until(machine, 200)
    assert level(machine) == left


def test_a_panicked_host_is_silent_and_comes_up_as_after_a_crash() -> None:
    machine, time = made(Behaviour.PANICS)
    steady_on_1(machine, time)
    before = machine.boot_id
    machine.obey(offer(2))
    off = []
    for seconds in (10, 40):
        time.until(machine, seconds)
        off.append(machine.off_until is not None)
    assert (off, machine.previous, machine.clean) == ([True, False], before, False)


def test_one_that_dies_never_comes_back() -> None:
    machine, time = made(Behaviour.DIES)
    machine.obey(offer(2))
    time.until(machine, 1_000_000)
    assert machine.off_until == math.inf


def test_an_orderly_restart_blames_nobody() -> None:
    machine, time = made(Behaviour.RESTARTS)
    machine.obey(offer(2))
    time.until(machine, 60)
    assert machine.quarantine.entries() == ()
    assert (machine.clean, level(machine)) == (True, 0)


@pytest.mark.parametrize("behaviour", [Behaviour.GOOD, Behaviour.STICKS])
@pytest.mark.parametrize("refuse", [0.0, 1.0])
def test_sent_back_while_it_is_tried(behaviour: Behaviour, refuse: float) -> None:
    machine, time = made(behaviour, refuse=refuse)
    steady_on_1(machine, time)
    machine.obey(offer(2))
    time.until(machine, 5)
    machine.obey(offer(0, back=2))
    time.until(machine, 10)
    if refuse:
        assert machine.quarantine.entries() == ()
        return
    assert [(entry.level, entry.cause) for entry in machine.quarantine.entries()] == [(2, Cause.RETURNED)]
    assert level(machine) == 1


def test_its_own_policy_and_recalls_count() -> None:
    machine, _ = made(Behaviour.WITHHOLDS)
    machine.obey(offer(2))
    assert level(machine) == 0
    assert [rule.rule.value for rule in machine.choose(offer(2)).obstacles[0].rules] == ["hold"]
    time = Time()
    library = Library.made_up((1, 2))
    machine = Machine("sim-1", library, Script(), TIMING, time)
    steady_on_1(machine, time)
    library.recalls = Recalls(1, 1, (Recall(1, Extent.REVERT, "bad", 1, build_id=BUILD_ID, level=1),))
    machine.obey(offer(1))
    time.until(machine, 10)
    assert level(machine) == 0


@pytest.mark.parametrize("behaviour", list(Behaviour))
def test_every_state_can_be_reported(behaviour: Behaviour) -> None:
    time = Time()
    director = Director()
    script = Script({2: {behaviour: 1.0}})
    member = Member("sim-1", Library.made_up((1, 2)), script, TIMING, time)
    course = exchange.enrol(KEY, "https://x", member.public_key, member.facts(member.machine()), member.sign)
    message = next(course)
    with pytest.raises(StopIteration) as end:
        course.send(Reply(*director.answer(message.path, message.headers, message.body)))
    member.member = end.value.value[0]
    assert isinstance(member.member, Identity)
    assert member.member.server == SERVER
    for number in range(30):
        director.offer(offer(1 if number < 12 else 2))
        if member.machine_state.off_until is None:
            checking_in = exchange.check_in(member)
            message = next(checking_in)
            with pytest.raises(StopIteration) as end:
                checking_in.send(Reply(*director.answer(message.path, message.headers, message.body)))
            member.machine_state.obey(end.value.value.offer)
        time.until(member.machine_state, 4)
    (row,) = director.rows.values()
    assert row.state is not None


def test_shares_are_kept_and_the_same_each_time() -> None:
    script = Script({2: {Behaviour.PANICS: 0.2, Behaviour.SLOW: 0.3}}, seed=7)
    found = [script.of(f"sim-{number}", 2) for number in range(2000)]
    assert 0.16 < found.count(Behaviour.PANICS) / 2000 < 0.24
    assert 0.26 < found.count(Behaviour.SLOW) / 2000 < 0.34
    assert found == [Script(script.levels, seed=7).of(f"sim-{number}", 2) for number in range(2000)]
    assert script.of("sim-1", 1) is Behaviour.GOOD


def run(fleet: Fleet, enough: Callable[[], bool]) -> None:
    """Until it is enough, or half a minute has gone."""

    async def work() -> None:
        stop = asyncio.Event()

        async def watch() -> None:
            while not enough():
                await asyncio.sleep(0.05)
            stop.set()

        watching = asyncio.create_task(watch())
        await fleet.run(30, stop)
        watching.cancel()

    asyncio.run(work())


@pytest.mark.parametrize("kept", [False, True])
def test_a_fleet_enrols_checks_in_and_takes_what_is_offered(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmend.agent.schedule.BOOTED_SECONDS", 0)
    director = Director()
    told: list[tuple[str, CheckedIn]] = []

    def note(name: str, done: CheckedIn) -> None:
        told.append((name, done))
        director.offer(offer(1))
        director.news = "2.1"

    monkeypatch.setattr("kmend.agent.waiting.PACE_SECONDS", 0.05)
    with Listening(director) as listening:
        fleet = Fleet(
            listening.url, groups=[Group(KEY, 5), Group("wrong", 1, "out")], library=Library.made_up((1,)),
            timing=Timing(transition=0.05, soak=0.1), kept=kept, told=note,
        )  # fmt: skip
        run(fleet, lambda: fleet.snapshot().levels.get("1", 0) == 5)
    last = fleet.snapshot()
    assert (last.enrolled, last.levels) == (5, {"0": 1, "1": 5})
    assert last.errors["enrolment-key"] >= 1
    assert last.told >= 1
    assert {name for name, _ in told} == {f"sim-{number:05}" for number in range(5)}


def test_what_the_server_answers_may_be_nonsense() -> None:
    director = Director()
    with Listening(director) as listening:
        fleet = Fleet(listening.url, groups=[Group(KEY, 3)], library=Library.made_up((1,)))
        director.meddle = lambda path, status, content: (200, b"\xff")
        run(fleet, lambda: fleet.snapshot().errors.get("unreadable", 0) >= 3)
    assert fleet.snapshot().enrolled == 0
