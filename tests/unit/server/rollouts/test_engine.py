"""What the engine decides, of one host and of a stage."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.server.conftest import NOW

from kmend.core.errors import MalformedError
from kmend.core.wire import Failure, WithheldLevel
from kmend.server.hosts.seen import Seen
from kmend.server.rollouts import engine
from kmend.server.rollouts.engine import Cause, Grant, GrantState, Judgement, Tallies
from kmend.server.rollouts.errors import PlanError
from kmend.server.rollouts.plan import Plan, Stage, read, write

STAGE = Stage("canary", at_once=3, soak_seconds=60, sample=4, silence_seconds=120, patience_seconds=600)
SEEN = Seen("a" * 32, "canary", "b" * 40, 1, 0, "steady", "boot-1", reported=True, hardware="QEMU")
GRANT = Grant(SEEN.host, 0, SEEN.build_id, 2, 1, GrantState.GRANTED, NOW, NOW, "boot-1")
FAILURE = Failure(2, "kmend_2_00000000", "crashed", "crashed while it was new", NOW)
COUNTS = st.integers(0, 50)
TALLIES = st.builds(Tallies, granted=st.just(0), in_flight=COUNTS, succeeded=COUNTS, failed=COUNTS, forgiven=COUNTS)


def see(**members: object) -> Seen:
    return dataclasses.replace(SEEN, **members)  # type: ignore[arg-type]


def after(grant: Grant, seen: Seen, seconds: int = 0) -> tuple[GrantState, str]:
    found = engine.progress(grant, STAGE, seen, NOW + seconds)
    return found.state, found.cause


def test_the_way_of_a_host_that_does_well() -> None:
    grant = GRANT
    for seconds, seen, state in (
        (5, see(), GrantState.GRANTED),
        (10, see(trying=2, phase="loading"), GrantState.LOADING),
        (15, see(trying=2, phase="transitioning", level=2), GrantState.SOAKING),
        (40, see(trying=2, phase="soaking", level=2), GrantState.SOAKING),
        (90, see(trying=2, phase="soaking", level=2), GrantState.SOAKING),
        (95, see(level=2), GrantState.SUCCEEDED),
        (200, see(level=0), GrantState.SUCCEEDED),
    ):
        grant = engine.progress(grant, STAGE, seen, NOW + seconds)
        assert grant.state is state, (seconds, grant)


@pytest.mark.parametrize("state", engine.LIVE)
def test_another_boot_without_a_shutdown_in_order_is_a_failure(state: GrantState) -> None:
    grant = dataclasses.replace(GRANT, state=state)
    assert after(grant, see(boot_id="boot-2", clean_boot=False)) == (GrantState.FAILED, "rebooted")
    assert after(grant, see(boot_id="boot-2", clean_boot=None)) == (GrantState.FAILED, "rebooted")
    assert after(grant, see(boot_id="boot-2", clean_boot=True)) == (GrantState.INCONCLUSIVE, "restarted")
    assert after(grant, see(boot_id="boot-2", reported=False)) == (state, ""), "its report will tell"


def test_what_a_host_says_of_the_level() -> None:
    assert after(GRANT, see(failures=(FAILURE,))) == (GrantState.FAILED, "quarantined")
    returned = dataclasses.replace(FAILURE, cause="returned")
    assert after(GRANT, see(failures=(returned,))) == (GrantState.INCONCLUSIVE, "returned")
    other = dataclasses.replace(FAILURE, level=1)
    assert after(GRANT, see(failures=(other,))) == (GrantState.GRANTED, "")
    assert after(GRANT, see(withheld=(WithheldLevel(2, ("window",)),))) == (GrantState.INCONCLUSIVE, "withheld")
    assert after(GRANT, see(withheld=(WithheldLevel(2, ("server",)),))) == (GrantState.GRANTED, "")
    assert after(GRANT, see(level=3)) == (GrantState.INCONCLUSIVE, "superseded")
    soaking = dataclasses.replace(GRANT, state=GrantState.SOAKING)
    assert after(soaking, see(level=1)) == (GrantState.FAILED, "quarantined")


def test_silence_and_dawdling_are_failures() -> None:
    quiet = engine.overdue(GRANT, STAGE, NOW, NOW + 121)
    assert (quiet.state, quiet.cause) == (GrantState.FAILED, "silent")
    assert engine.overdue(GRANT, STAGE, NOW, NOW + 120) is GRANT
    stuck = engine.overdue(GRANT, STAGE, NOW + 600, NOW + 601)
    assert (stuck.state, stuck.cause) == (GrantState.FAILED, "stuck")
    soaking = dataclasses.replace(GRANT, state=GrantState.SOAKING)
    assert engine.overdue(soaking, STAGE, NOW + 600, NOW + 601) is soaking
    done = dataclasses.replace(GRANT, state=GrantState.SUCCEEDED)
    assert engine.overdue(done, STAGE, 0, NOW + 10_000) is done


def _granted(seen: Seen, *, lost: frozenset[str] = frozenset(), tallies: Tallies | None = None, alike: int = 0) -> bool:
    tallies = tallies or Tallies()
    found = engine.obstacle("r", STAGE, 2, seen, fixes_lost=lost, tallies=tallies, alike=alike, now=NOW)
    return found is None


def test_who_is_granted() -> None:
    assert _granted(SEEN)
    assert not _granted(see(level=2))
    assert not _granted(see(refuses=(2,)))
    assert _granted(see(refuses=(3,)))
    assert not _granted(see(trying=1))
    assert not _granted(SEEN, lost=frozenset({"f"}))
    assert not _granted(SEEN, tallies=Tallies(in_flight=3))


def test_not_all_the_first_are_alike() -> None:
    stage = dataclasses.replace(STAGE, diversity="hardware", most_alike=0.5)
    few = Tallies(granted=2)

    def blocked(alike: int, tallies: Tallies) -> bool:
        return (
            engine.obstacle("r", stage, 2, SEEN, fixes_lost=frozenset(), tallies=tallies, alike=alike, now=NOW)
            is not None
        )

    assert not blocked(1, few)
    assert blocked(2, few)
    assert not blocked(9, Tallies(granted=4)), "only the first `sample` count"
    assert engine.diversity_of(stage, SEEN) == "QEMU"
    tagged = dataclasses.replace(stage, diversity="tag:rack")
    assert engine.diversity_of(tagged, see(tags={"rack": "7"})) == "7"


def test_windows_of_a_stage() -> None:
    stage = dataclasses.replace(STAGE, windows=("Mon-Fri 09:00-17:00",))
    monday = 1_790_000_000 - 1_790_000_000 % 604_800 + 4 * 86_400  # a Monday, 00:00 UTC
    assert stage.open_at(monday + 10 * 3600)
    assert not stage.open_at(monday + 8 * 3600)
    assert not stage.open_at(monday + 5 * 86_400 + 10 * 3600)


def test_positions_differ_between_rollouts_and_are_spread() -> None:
    hosts = [f"{number:032x}" for number in range(2000)]
    first = {name: sorted(hosts, key=lambda host: engine.position(name, host))[:200] for name in ("one", "two")}
    assert len(set(first["one"]) & set(first["two"])) < 60, "about 20 by chance"
    tenths = [0] * 10
    for host in hosts:
        place = engine.position("one", host)
        assert 0 <= place < 1
        tenths[int(place * 10)] += 1
    assert min(tenths) > 150


@given(TALLIES, st.integers(0, 30))
def test_a_halt_is_a_matter_of_failures_alone(tallies: Tallies, remaining: int) -> None:
    stage = dataclasses.replace(STAGE, failures=0.1, most_failures=1)
    verdict = engine.judge(stage, tallies, remaining, NOW, NOW + 1)
    if tallies.counted > max(1, int(0.1 * max(tallies.finished, 4))):
        assert verdict.judgement is Judgement.HALT
    if verdict.judgement is Judgement.PASSED and tallies.finished:
        total = tallies.finished + tallies.in_flight + remaining
        assert tallies.succeeded >= 0.95 * total - 1e-9
        assert tallies.finished >= min(stage.sample, total)
        assert not engine.excessive(stage, tallies)
    if verdict.judgement is Judgement.SKIPPED:
        assert tallies.finished == tallies.in_flight == remaining == 0


def test_ending_below_the_threshold_halts() -> None:
    stage = dataclasses.replace(STAGE, success=0.9, most_failures=10)
    verdict = engine.judge(stage, Tallies(granted=10, succeeded=6, failed=4), 0, NOW, NOW)
    assert verdict.judgement is Judgement.HALT
    assert "below the 90%" in verdict.reason
    assert engine.judge(stage, Tallies(granted=10, succeeded=6, failed=4), 1, NOW, NOW).judgement is Judgement.OPEN


def test_a_deadline_halts() -> None:
    stage = dataclasses.replace(STAGE, deadline_seconds=100)
    assert engine.judge(stage, Tallies(in_flight=1), 5, NOW, NOW + 100).judgement is Judgement.OPEN
    assert engine.judge(stage, Tallies(in_flight=1), 5, NOW, NOW + 101).judgement is Judgement.HALT


@given(st.lists(st.sampled_from(list(GrantState)), min_size=1, max_size=12))
def test_tallies_are_counts_of_grants(states: list[GrantState]) -> None:
    grant, tallies = GRANT, Tallies().moved(None, GRANT)
    for state in states:
        following = dataclasses.replace(grant, state=state)
        tallies = tallies.moved(grant, following)
        grant = following
    assert tallies == Tallies(
        granted=1,
        in_flight=int(grant.live),
        succeeded=int(grant.state is GrantState.SUCCEEDED),
        failed=int(grant.state is GrantState.FAILED),
        inconclusive=int(grant.state is GrantState.INCONCLUSIVE),
    )


def test_fixes_lost() -> None:
    fixes = {1: frozenset("ab"), 2: frozenset("abc"), 3: frozenset("ac")}
    assert engine.fixes_lost(fixes, 1, 2, frozenset()) == frozenset()
    assert engine.fixes_lost(fixes, 2, 3, frozenset()) == frozenset("b")
    assert engine.fixes_lost(fixes, 2, 3, frozenset("b")) == frozenset()
    assert engine.fixes_lost(fixes, 9, 3, frozenset()) == frozenset()


def test_plans_are_read_as_they_are_written() -> None:
    plan = Plan((STAGE, Stage("early", share=0.5), Stage("early")))
    assert read(write(plan)) == plan
    assert plan.rings == ("canary", "early")
    hurried = plan.hurried()
    assert {stage.soak_seconds for stage in hurried.stages} == {0}
    assert [stage.failures for stage in hurried.stages] == [stage.failures for stage in plan.stages]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"stages":[]}', "1 to 20 stages"),
        ('{"stages":[{"ring":"Bad"}]}', "not a ring's name"),
        ('{"stages":[{"ring":"a","share":0}]}', "share must be"),
        ('{"stages":[{"ring":"a","at_once":0}]}', "at_once must be"),
        ('{"stages":[{"ring":"a","failures":"many"}]}', "float is expected"),
        ('{"stages":[{"ring":"a","windows":["sometimes"]}]}', "not a window"),
        ('{"stages":[{"ring":"a","timezone":"Mars/Base"}]}', "Mars/Base"),
        ('{"stages":[{"ring":"a","diversity":"luck"}]}', "can be told apart"),
        ('{"stages":[{"ring":"a"},{"ring":"a"}]}', "larger share"),
        ("nonsense", "not a valid JSON"),
    ],
)
def test_plans_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        read(text)


def test_a_share_is_finite() -> None:
    with pytest.raises(MalformedError):
        Stage("a", share=float("nan"))


def test_every_cause_is_told() -> None:
    assert {cause.value for cause in Cause} >= {"silent", "rebooted", "quarantined", "stuck", "returned"}
