"""Server and database are killed at random moments under load: nothing that was acknowledged is lost, and no cap is exceeded."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from bench.server.cluster import Cluster
from sqlalchemy import func, select
from tests.e2e.served import Served
from tests.unit.server.hosts.machines import BUILD_ID, Machine

from kmend.core.document import decode, encode
from kmend.core.manifest import sha256_hex
from kmend.core.wire import (
    CHECK_IN_PATH,
    ENROL_PATH,
    HOST_HEADER,
    SIGNATURE_HEADER,
    Answer,
    CheckIn,
    Enrolled,
    HeldLevel,
    Purpose,
    Refusal,
    signed_bytes,
)
from kmend.server.access import audit
from kmend.server.rollouts import records
from kmend.server.rollouts.engine import LIVE
from kmend.server.rollouts.plan import Plan, Stage
from kmend.server.store import Store, open_store, settings, tables

HOSTS = 24
AT_ONCE = 5
KILLS = 25


class Crowd:
    """Hosts and an operator that go on whatever happens to the server, and remember what was acknowledged."""

    def __init__(self, served: Served, server_id: str) -> None:
        self.served = served
        self.server_id = server_id
        self.pool = urllib3.PoolManager(ca_certs=str(served.authority), retries=False, timeout=5, maxsize=8)
        self.machines = [Machine.new(f"host-{number}") for number in range(HOSTS)]
        self.counters: dict[str, int] = {}
        self.granted: set[str] = set()
        self.rings: list[str] = []
        self.errors = 0
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def enrol(self, secret: str) -> None:
        for machine in self.machines:
            _, body, signature = machine.enrol_with(secret)
            answer = self._post(ENROL_PATH, body, {SIGNATURE_HEADER: signature})
            machine.id = decode(Enrolled, answer.data).host

    def start(self) -> None:
        self._threads = [threading.Thread(target=self._check_in, args=(number,)) for number in range(4)]
        self._threads.append(threading.Thread(target=self._operate))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _post(self, path: str, body: bytes, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        return self.pool.request("POST", self.served.url + path, body=body, headers=headers)

    def _check_in(self, part: int) -> None:
        while not self._stop.is_set():
            for machine in self.machines[part::4]:
                if self._stop.is_set():
                    return
                try:
                    self._once(machine)
                except (urllib3.exceptions.HTTPError, OSError):
                    self.errors += 1
                    time.sleep(0.02)

    def _once(self, machine: Machine) -> None:
        machine.counter += 1
        report = encode(machine.report())
        message = CheckIn(
            machine.id, machine.counter, machine.report().boot_id, sha256_hex(report), machine.report(), "", 1
        )
        body = encode(message)
        signature = machine.key.sign(signed_bytes(Purpose.CHECK_IN, self.server_id, body)).hex()
        answer = self._post(CHECK_IN_PATH, body, {HOST_HEADER: machine.id, SIGNATURE_HEADER: signature})
        if answer.status == 409:
            machine.counter = max(machine.counter, decode(Refusal, answer.data).counter)
            return
        if answer.status != 200:
            self.errors += 1
            return
        self.counters[machine.id] = machine.counter
        offer = decode(Answer, answer.data).offer
        if offer is not None and offer.level:
            self.granted.add(machine.id)
            if machine.phase == "idle" and random.random() < 0.3:  # in its own time, it goes on
                machine.level, machine.phase = 1, "soaking"
                machine.extra["trying"] = HeldLevel(1, "kmend_1_00000000", "0" * 64, "soaking")
            elif machine.phase == "soaking" and random.random() < 0.3:
                machine.phase = "steady"
                machine.extra.pop("trying", None)

    def _operate(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            name = f"ring-{number}"
            try:
                answer = self.pool.request(
                    "PUT", f"{self.served.url}/api/v1/rings/{name}", body=json.dumps({"position": 50}),
                    headers={"Authorization": f"Bearer {self.served.token}", "Content-Type": "application/json"},
                )  # fmt: skip
                if answer.status in (200, 201):
                    self.rings.append(name)
            except (urllib3.exceptions.HTTPError, OSError):
                time.sleep(0.05)
            time.sleep(0.02)


def _holds(store: Store, crowd: Crowd, rollout: str) -> None:
    """Everything that was acknowledged is there, and everything is in order."""
    acknowledged, granted, rings = dict(crowd.counters), set(crowd.granted), list(crowd.rings)
    with store.read() as connection:
        rows = connection.execute(select(tables.hosts.c.id, tables.hosts.c.counter))
        counters = {row.id: row.counter for row in rows}
        lost = {host: counter for host, counter in acknowledged.items() if counters[host] < counter}
        assert not lost
        given = {row.host for row in connection.execute(select(tables.grants.c.host))}
        assert granted <= given
        tallies = records.load(connection, rollout).stages[0].tallies
        query = select(tables.grants.c.state, func.count()).group_by(tables.grants.c.state)
        counts = {row[0]: row[1] for row in connection.execute(query)}
        flying = sum(counts.get(state.value, 0) for state in LIVE)
        assert tallies.in_flight == flying <= AT_ONCE
        assert tallies.granted == sum(counts.values())
        log = list(audit.records(connection))
        made = {record.subject for record in log if record.action == "ring.create"}
        assert set(rings) <= made
        audit.verify(audit.exported(record).encode() for record in log)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="kmend-kills-", dir="/tmp"))
    folder.chmod(0o755)
    made = Cluster(folder / "pg")
    made.create()
    yield made
    made.stop("immediate")
    subprocess.run(["rm", "-rf", str(folder)], check=False)


def _begin(served: Served, url: str) -> tuple[Store, Crowd, str]:
    served.start()
    served.publish(1)
    served.wait_for_level(1)
    store = open_store(url)
    with store.read() as connection:
        server_id = settings.read(connection, settings.SERVER_ID) or ""
    crowd = Crowd(served, server_id)
    crowd.enrol(served.command("keys", "create", "--expires", "1h", "--json")["secret"])
    stage = Stage(
        "default", at_once=AT_ONCE, soak_seconds=86_400, silence_seconds=86_400, patience_seconds=86_400, sample=1
    )
    plan = served.folder / "plan.json"
    plan.write_bytes(encode(Plan((stage,))))
    served.command("plans", "put", "a", str(plan), "--json")
    made = served.command("rollouts", "create", "one", "--plan", "a", "--target", f"{BUILD_ID}=1", "--start", "--json")
    crowd.start()
    return store, crowd, str(made["id"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_server_is_killed(tmp_path: Path, kind: str, cluster: Cluster) -> None:
    served = Served(tmp_path / "server", database=cluster.url if kind == "postgresql" else "")
    url = cluster.url if kind == "postgresql" else f"sqlite:///{served.data}/kmend.sqlite"
    store, crowd, rollout = _begin(served, url)
    draw = random.Random(20261127)
    try:
        for _ in range(KILLS // 2 + 1):
            time.sleep(draw.uniform(0.2, 2.0))
            served.stop(signal.SIGKILL)
            _holds(store, crowd, rollout)
            served.start()
        time.sleep(1)
    finally:
        crowd.stop()
        served.stop(signal.SIGTERM)
    _holds(store, crowd, rollout)
    store.close()
    assert len(crowd.counters) == HOSTS
    assert crowd.granted
    assert crowd.rings


@pytest.mark.slow
def test_the_database_is_killed(tmp_path: Path, cluster: Cluster) -> None:
    served = Served(tmp_path / "server", database=cluster.url)
    store, crowd, rollout = _begin(served, cluster.url)
    draw = random.Random(20261128)
    try:
        for _ in range(KILLS):
            time.sleep(draw.uniform(0.2, 2.0))
            cluster.kill()
            cluster.start()
            _holds(store, crowd, rollout)
        before = len(crowd.rings)
        served.wait_until(lambda: len(crowd.rings) > before)
    finally:
        crowd.stop()
        served.stop(signal.SIGTERM)
    _holds(store, crowd, rollout)
    store.close()
    assert len(crowd.counters) == HOSTS
