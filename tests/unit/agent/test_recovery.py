"""What an open intent means, for every state and everything that the kernel may show."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from kmend.agent.journal import Intent
from kmend.agent.livekernel import Patch, View
from kmend.agent.recovery import TAINT_DIE, Action, Recovery, decide
from kmend.agent.states import OPEN, State

MODULE = "kmend_1_00000000"


def intent(state: State, *, boot_id: str = "now", tainted: int = 0) -> Intent:
    return Intent(
        id="i",
        action="unload" if state is State.REVERTING else "load",
        cause="update",
        state=state,
        build_id="ab" * 20,
        boot_id=boot_id,
        level=1,
        module=MODULE,
        sha256="0" * 64,
        fixes=(),
        suspects=(),
        cves=(),
        replaces=(),
        tainted=tainted,
        opened=0,
        changed=0,
        soak_until=500,
    )


def test_reverting_load() -> None:
    """A level that is taken off again before it has proven itself: a crash then is its fault too."""
    reverting = dataclasses.replace(intent(State.REVERTING), action="load")
    decided = {
        name: decide(reverting, view(patch), uptime=5, tainted=0, clean_shutdown="").action
        for name, patch in (("gone", GONE), ("coming", COMING), ("force", FORCE), ("leaving", LEAVING))
    }
    assert decided == {
        "gone": Action.ADOPT_DISABLED,
        "coming": Action.RESUME,
        "force": Action.RESUME,
        "leaving": Action.KEEP,
    }
    before = dataclasses.replace(reverting, boot_id="before")
    assert decide(before, view(GONE), uptime=5, tainted=0, clean_shutdown="").action is Action.CONDEMN_CRASHED


def view(patch: tuple[bool, bool] | None) -> View:
    patches = (Patch(MODULE, patch[0], patch[1], frozenset()),) if patch is not None else ()
    return View("now", patches, ())


def after(state: State, patch: tuple[bool, bool] | None, *, uptime: float = 100, tainted: int = 0) -> Recovery:
    return decide(intent(state), view(patch), uptime=uptime, tainted=tainted, clean_shutdown="")


GONE, FORCE, COMING, LEAVING = None, (True, False), (True, True), (False, True)


@pytest.mark.parametrize(
    ("state", "patch", "action"),
    [
        (State.ARMED, GONE, Action.LAPSE),
        (State.ARMED, FORCE, Action.LAPSE),
        (State.LOADING, GONE, Action.LAPSE),
        (State.LOADING, COMING, Action.ADOPT_TRANSITION),
        (State.LOADING, FORCE, Action.ADOPT_FINISHED),
        (State.LOADING, LEAVING, Action.LAPSE),
        (State.TRANSITIONING, GONE, Action.LAPSE),
        (State.TRANSITIONING, COMING, Action.KEEP),
        (State.TRANSITIONING, FORCE, Action.ADOPT_FINISHED),
        (State.TRANSITIONING, LEAVING, Action.LAPSE),
        (State.SOAKING, GONE, Action.LAPSE),
        (State.SOAKING, FORCE, Action.KEEP),
        (State.REVERTING, GONE, Action.ADOPT_DISABLED),
        (State.REVERTING, LEAVING, Action.KEEP),
        (State.REVERTING, FORCE, Action.LAPSE),
    ],
)
def test_same_boot(state: State, patch: tuple[bool, bool] | None, action: Action) -> None:
    assert after(state, patch).action is action


def test_soak_ends_by_uptime() -> None:
    assert after(State.SOAKING, FORCE, uptime=499.9).action is Action.KEEP
    assert after(State.SOAKING, FORCE, uptime=500).action is Action.SETTLE


@pytest.mark.parametrize("state", [State.LOADING, State.TRANSITIONING, State.SOAKING])
def test_oops_since_the_load(state: State) -> None:
    assert after(state, FORCE, uptime=900, tainted=TAINT_DIE).action is Action.CONDEMN_OOPSED
    old = decide(intent(state, tainted=TAINT_DIE), view(FORCE), uptime=0, tainted=TAINT_DIE, clean_shutdown="")
    assert old.action is not Action.CONDEMN_OOPSED


@pytest.mark.parametrize("state", OPEN)
@pytest.mark.parametrize("clean", [True, False])
def test_other_boot(state: State, clean: bool) -> None:
    found = decide(
        intent(state, boot_id="before"), view(GONE), uptime=5, tainted=0, clean_shutdown="before" if clean else "older"
    )
    if state in (State.ARMED, State.REVERTING):
        assert found.action is Action.LAPSE
    else:
        assert found.action is (Action.CONCLUDE_NOTHING if clean else Action.CONDEMN_CRASHED)


def test_everything_but_keeping_is_explained() -> None:
    for state, patch in itertools.product(OPEN, (GONE, FORCE, COMING, LEAVING)):
        found = after(state, patch)
        assert found.message or found.action in (Action.KEEP, Action.SETTLE), (state, patch)


def test_hold_of_an_unload_that_did_not_happen_is_taken_back() -> None:
    assert after(State.REVERTING, FORCE).undone
    assert not after(State.REVERTING, GONE).undone
