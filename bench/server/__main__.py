"""`make bench-server` and `make bench-server-full`: prints what a server carries, on SQLite and on PostgreSQL."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.served import Served

from bench.server import held, population, repository
from bench.server.cluster import Cluster
from bench.server.load import Job, Outcome
from kmend.core.document import encode, from_plain
from kmend.core.process import run
from kmend.server.store import open_store, settings

ROOT = Path(__file__).parents[2]
EVERY_SECONDS = 900
"""So often a host checks in."""


@dataclass(frozen=True, slots=True)
class Size:
    """How long and how large.

    Attributes:
        seconds: of load for each figure.
        hosts: database -> rates to try, as hosts that check in every 15 minutes.
        held: requests that are held at once.
        storm: hosts that enrol at once.
        builds: kernel builds in the repository.
    """

    seconds: float
    hosts: dict[str, tuple[int, ...]]
    held: int
    storm: int
    builds: int


QUICK = Size(20, {"sqlite": (50_000, 100_000), "postgresql": (100_000, 300_000)}, 10_000, 20_000, 10_000)
FULL = Size(
    120,
    {
        "sqlite": (25_000, 50_000, 100_000, 200_000, 300_000),
        "postgresql": (100_000, 200_000, 300_000, 400_000, 500_000),
    },
    10_000,
    20_000,
    10_000,
)


class Bench:
    """A server with hosts, on one database.

    Args:
        database: `sqlite` or `postgresql`.
    """

    def __init__(self, folder: Path, database: str, hosts: int) -> None:
        self.database = database
        self.cluster: Cluster | None = None
        url = ""
        if database == "postgresql":
            self.cluster = Cluster(folder / "pg")
            self.cluster.create()
            url = self.cluster.url
        folder.mkdir(exist_ok=True)
        self.served = Served(folder / "server", database=url, interval=EVERY_SECONDS)
        self.served.publish(1)
        self.url = url or f"sqlite:///{self.served.data}/kmend.sqlite"
        store = open_store(self.url)
        began = time.monotonic()
        population.populate(store, hosts, int(time.time()))
        with store.read() as connection:
            self.server_id = settings.read(connection, settings.SERVER_ID) or ""
        store.close()
        _say(f"{database}: {hosts} hosts are in the database after {time.monotonic() - began:.0f} s")
        self.counter = 1
        self.served.start()

    def load(self, hosts: int, seconds: float, *, kept: int, acknowledged: str = "") -> tuple[Outcome, float]:
        """Check in for so many hosts; also the server's and the database's processor seconds."""
        before = self.cpu()
        count = max(1, min(hosts, int(hosts / EVERY_SECONDS * seconds) + 1))
        job = Job(
            port=self.served.port,
            certificate=str(self.served.authority),
            server=self.server_id,
            first=0,
            count=count,
            rate=hosts / EVERY_SECONDS,
            seconds=seconds,
            kept=kept,
            counter=self.counter,
            report=population.digest(),
            acknowledged=acknowledged,
        )
        self.counter += 100
        outcome = generate(job)
        return outcome, self.cpu() - before

    def cpu(self) -> float:
        """Processor seconds of server and database so far."""
        database = self.cluster.cpu_seconds() if self.cluster is not None else 0.0
        return database + tree_cpu(self.served.pid)

    def close(self) -> None:
        """End everything."""
        self.served.stop()
        if self.cluster is not None:
            self.cluster.stop()


def generate(job: Job) -> Outcome:
    """Run the load generator in a process of its own."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}/src:{ROOT}"}
    done = run(
        [sys.executable, "-m", "bench.server.load"],
        stdin=encode(job),
        timeout=job.seconds + 180,
        environment=environment,
    )
    return from_plain(Outcome, json.loads(done.text))


def tree_cpu(pid: int) -> float:
    """Processor seconds of a process and its children."""
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if pid in (int(stat.parent.name), int(fields[1])):
            total += (int(fields[11]) + int(fields[12])) / ticks
    return total


@contextmanager
def bench(folder: Path, database: str, hosts: int) -> Iterator[Bench]:
    """A bench that ends with the block."""
    made = Bench(folder, database, hosts)
    try:
        yield made
    finally:
        made.close()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _row(database: str, hosts: int, how: str, outcome: Outcome, cpu: float) -> None:
    median, _, p99, _, most = outcome.latencies
    errors = ", ".join(f"{kind}: {count}" for kind, count in outcome.errors.items()) or "none"
    share = outcome.cpu_seconds / outcome.seconds
    _say(
        f"{database:10} {hosts:7} hosts, {how:26} {outcome.answered / outcome.seconds:6.1f}/s  p50 {median:6.1f} ms  "
        f"p99 {p99:7.1f} ms  most {most:7.1f} ms  errors {errors}; CPU: server {cpu / outcome.seconds:.2f}, "
        f"generator {share:.2f} (late p99 {outcome.late:.1f} ms); {outcome.request_bytes} + {outcome.answer_bytes} octets"
    )


def check_ins(size: Size, folder: Path) -> None:
    """How many hosts, on which database, with new connections and with kept ones."""
    for database, rates in size.hosts.items():
        with bench(folder / database, database, max(rates)) as made:
            made.load(max(rates), 3, kept=50)  # warm
            for hosts in rates:
                for how, kept in (("a new connection each", 0), ("kept connections", 200)):
                    outcome, cpu = made.load(hosts, size.seconds, kept=kept)
                    _row(database, hosts, how, outcome, cpu)


def holding(size: Size, folder: Path) -> None:
    """Requests that are held, their memory, and how soon all are told."""
    with bench(folder / "held", "sqlite", size.held) as made:
        found = held.hold(made.served, made.server_id, size.held)
        _say(
            f"{found.held} requests held at once; {found.kib_each:.0f} KiB of the server's memory for each; connected at "
            f"{found.connected_per_second:.0f}/s; 99 % told of a new level {found.told_seconds:.1f} s after its publication "
            f"(all: {found.all_seconds:.1f} s)"
        )


def storm(size: Size, folder: Path) -> None:
    """Hosts that enrol all at once."""
    with bench(folder / "storm", "sqlite", 1) as made:
        key = made.served.command("keys", "create", "--expires", "1h", "--json")["secret"]
        found = held.enrol(made.served, key, size.storm)
        _say(
            f"{found.enrolled} of {size.storm} hosts enrolled in {found.seconds:.0f} s ({found.enrolled / found.seconds:.0f}/s), "
            f"p99 {found.p99:.0f} ms, refused and tried again {found.again} times, errors {found.errors or 'none'}"
        )


def restart(size: Size, folder: Path) -> None:
    """The server is stopped and started under load; what it had acknowledged is there."""
    with bench(folder / "restart", "sqlite", 20_000) as made:
        found = held.restart(made, 20.0)
        _say(
            f"restart under load: {found.acknowledged} check-ins acknowledged, {found.lost} of them lost, "
            f"{found.errors} not answered; {found.down_seconds:.1f} s without an answer"
        )


def octets(size: Size, folder: Path) -> None:
    """What hosts download from a large repository."""
    for found in repository.measure(folder / "repository", size.builds, 30):
        _say(
            f"{size.builds} kernel builds of 30 levels: {found.what}: {found.sent} + {found.received} octets, without TLS"
        )


PARTS = {"octets": octets, "check-ins": check_ins, "held": holding, "storm": storm, "restart": restart}


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; none for all")
    parser.add_argument("--full", action="store_true", help="the long form")
    options = parser.parse_args()
    size = FULL if options.full else QUICK
    for name in options.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="kmend-bench-") as folder:
            Path(folder).chmod(0o755)  # PostgreSQL has an account of its own
            began = time.monotonic()
            PARTS[name](size, Path(folder))
            _say(f"({name}: {time.monotonic() - began:.0f} s)\n")


if __name__ == "__main__":
    main()
