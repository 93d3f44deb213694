"""Which level, which way back: pure decisions, as properties where that says more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.sample_livepatch import fix, livepatch

from kmend.agent.choice import Way, choose, obstacle, plan_rollback, reopened
from kmend.agent.livekernel import Module, Patch, View
from kmend.agent.quarantine import Cause, Entry, blocking
from kmend.agent.residents import Resident, Residents
from kmend.core.manifest import Manifest

CVES = [f"CVE-2026-{number}" for number in range(3001, 3007)]
subsets = st.lists(st.sampled_from(CVES), min_size=1, unique=True)


def level(number: int, cves: list[str], *, clears: list[str] | None = None) -> Manifest:
    return livepatch(number, cves, clears=[fix(cve).digest for cve in clears or []])[0]


def held(manifest: Manifest, cves: list[str]) -> Entry:
    return Entry(
        build_id=manifest.kernel.build_id,
        level=manifest.level,
        module=manifest.module.name,
        fixes=tuple(fix(cve).digest for cve in cves),
        cause=Cause.CRASHED,
        message="it crashed",
        at=0,
        boot_id="boot",
        intent="intent",
    )


@given(st.lists(subsets, min_size=1, max_size=5), st.one_of(st.none(), subsets), st.lists(subsets, max_size=2))
def test_choice_never_regresses_and_never_loads_what_is_held(
    newer: list[list[str]], loaded: list[str] | None, suspects: list[list[str]]
) -> None:
    base = level(1, loaded) if loaded is not None else None
    candidates = [level(number + 2, cves) for number, cves in enumerate(newer)][::-1]
    entries = [held(level(99, CVES), cves) for cves in suspects]
    answer = choose(candidates, base, entries)
    if answer.manifest is not None:
        assert set(loaded or ()) <= set(answer.manifest.cves)
        assert not any(set(cves) & set(answer.manifest.cves) for cves in suspects)
        passed = [candidate.level for candidate in candidates if candidate.level > answer.manifest.level]
    else:
        passed = [candidate.level for candidate in candidates]
    assert [item.level for item in answer.obstacles] == passed
    assert all(item.reason for item in answer.obstacles)


def test_a_level_may_clear_a_suspect() -> None:
    crashed = level(1, CVES[:2])
    entries = [held(crashed, CVES[:2])]
    assert "holds a fix of level 1" in obstacle(level(2, CVES[:3]), None, entries)
    assert "holds a fix of level 1" in obstacle(level(2, CVES[:3], clears=CVES[:1]), None, entries)
    assert obstacle(level(2, CVES[:3], clears=CVES[:2]), None, entries) == ""
    assert "in quarantine (crashed): it crashed" in obstacle(crashed, None, entries)


def test_quarantine_is_for_one_kernel_build() -> None:
    from dataclasses import replace

    crashed = level(1, CVES[:2])
    entry = replace(held(crashed, CVES[:2]), build_id="0" * 40)
    assert blocking([entry], crashed) == ()


def test_reopened() -> None:
    assert reopened(level(2, CVES[:3]), level(1, CVES[:1])) == tuple(CVES[1:3])
    assert reopened(level(2, CVES[:3]), None) == tuple(CVES[:3])


ONE, TWO = level(1, CVES[:1]), level(2, CVES[:2])
IN_FORCE = Patch(TWO.module.name, True, False, frozenset())


def view(*modules: str) -> View:
    lines = tuple(Module(name, int(name == TWO.module.name), "Live") for name in (TWO.module.name, *modules))
    return View("boot", (IN_FORCE,), lines)


@pytest.mark.parametrize(
    ("resident", "pinned", "uptime", "unload_first", "way", "wait"),
    [
        (False, False, 1000, False, Way.REPLACE, 0),
        (False, False, 1000, True, Way.UNLOAD_THEN_LOAD, 0),
        (True, False, 120, False, Way.REPLACE, 40),
        (True, False, 1000, False, Way.REPLACE, 0),
        (True, False, 120, True, Way.UNLOAD_THEN_LOAD, 40),
        (True, True, 1000, False, Way.NOT_ON_THIS_BOOT, 0),
        (True, True, 1000, True, Way.NOT_ON_THIS_BOOT, 0),
    ],
)
def test_ways_back(resident: bool, pinned: bool, uptime: int, unload_first: bool, way: Way, wait: int) -> None:
    name = ONE.module.name
    plan = plan_rollback(
        loaded=TWO,
        target=ONE,
        view=view(name) if resident else view(),
        residents=Residents("boot", (Resident(name, 100),) if resident else ()),
        uptime=uptime,
        delay=60,
        pinned=lambda module: pinned,
        unload_first=unload_first,
    )
    assert (plan.way, plan.wait_seconds) == (way, wait)
    assert plan.reopens == (CVES[1],)
    assert plan.wait_for == (name if resident and not pinned else "")


def test_module_in_use_cannot_come_back() -> None:
    plan = plan_rollback(
        loaded=TWO,
        target=ONE,
        view=view(ONE.module.name),
        residents=Residents("boot"),
        uptime=0,
        delay=60,
        pinned=lambda module: False,
        unload_first=False,
    )
    assert plan.way is Way.NOT_ON_THIS_BOOT
    assert "in use" in plan.reason
