"""Several server processes at once, and killed ones: caps hold, tallies stay counts of grants, nothing waits in a circle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select
from tests.unit.server.conftest import NOW, Databases
from tests.unit.server.hosts.machines import BUILD_ID
from tests.unit.server.rollouts.fleet import Fleet, levels

from kmend.server.rollouts import records
from kmend.server.rollouts.engine import LIVE
from kmend.server.rollouts.plan import Stage
from kmend.server.store import Store, open_store, tables

ROOT = Path(__file__).parents[4]
AT_ONCE = 5
GRANTER = """
import sys
from tests.unit.server.hosts.machines import Machine, judge, new_key
from tests.unit.server.conftest import NOW
from kmend.core.wire import HostFacts
from kmend.core.manifest import sha256_hex
from kmend.server.rollouts import Rollouts, evaluate
from kmend.server.store import open_store

store, directions = open_store(sys.argv[1]), Rollouts()
machines = []
for line in sys.stdin:
    name, host = line.split()
    machine = Machine.new(name)
    machine.id, machine.counter = host, 1000
    machines.append(machine)
print("ready", flush=True)
for turn in range(200):
    for begin in range(0, len(machines), 3):
        judge(store, *(m.check_in() for m in machines[begin:begin + 3]), now=NOW + turn, directions=directions)
    evaluate(store, NOW + turn)
    if len(sys.argv) > 2:
        break
"""


def _granter(url: str, fleet: Fleet, hosts: slice, *words: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}/src:{ROOT}"}
    process = subprocess.Popen(
        [sys.executable, "-c", GRANTER, url, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment, cwd=ROOT,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write("".join(f"{machine.name} {machine.id}\n" for machine in fleet.everybody[hosts]))
    process.stdin.close()
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _ended(process: subprocess.Popen[str]) -> int:
    status = process.wait(120)
    assert process.stdout is not None
    process.stdout.close()
    return status


def _consistent(store: Store, rollout: str) -> int:
    """Whether tallies are counts of grants and the cap holds; how many were granted."""
    with store.read() as connection:
        tallies = records.load(connection, rollout).stages[0].tallies
        table = tables.grants.c
        query = select(table.state, func.count()).where(table.rollout == rollout).group_by(table.state)
        counts = {row[0]: row[1] for row in connection.execute(query)}
    flying = sum(counts.get(state.value, 0) for state in LIVE)
    assert tallies.in_flight == flying <= AT_ONCE
    assert tallies.granted == sum(counts.values())
    return tallies.granted


def _begun(store: Store, count: int) -> tuple[Fleet, str]:
    levels(store, {1: ["a"]})
    fleet = Fleet(store, {"canary": count})
    return fleet, fleet.rollout(Stage("canary", at_once=AT_ONCE, silence_seconds=86_400, patience_seconds=86_400)).id


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_that_grant_at_once_share_the_cap(databases: Databases, kind: str) -> None:
    url = databases.fresh(kind)
    store = open_store(url)
    fleet, rollout = _begun(store, 30)
    processes = [_granter(url, fleet, slice(number, None, 3), "once") for number in range(3)]
    for process in processes:
        assert _ended(process) == 0
    assert _consistent(store, rollout) == AT_ONCE
    store.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_killed_process_leaves_everything_in_order(databases: Databases, kind: str) -> None:
    url = databases.fresh(kind)
    store = open_store(url)
    fleet, rollout = _begun(store, 12)
    for number in range(3):
        process = _granter(url, fleet, slice(None))
        time.sleep(0.05 + 0.11 * number)
        process.send_signal(signal.SIGKILL)
        _ended(process)
        _consistent(store, rollout)
        with store.write() as connection:  # the counters that the next one begins with are the same again
            connection.execute(tables.hosts.update().values(counter=0))
    fleet.now = NOW + 1
    fleet.everybody_checks_in()
    assert _consistent(store, rollout) == AT_ONCE
    assert BUILD_ID
    store.close()
