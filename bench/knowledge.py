"""`make bench-knowledge`: what importing CVEs does to check-ins, and how long questions about a large fleet take.

Two figures, on SQLite and on PostgreSQL: check-ins before, while and after a thousand new CVEs come in at one go, beside the real
server; and the time of `of_cve` and `of_host` with all the CNA's records, ten thousand hosts and forty kernel builds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import select, update
from tests.e2e.served import SERVER

from bench.server import population
from bench.server.__main__ import Bench, bench
from bench.server.cluster import Cluster
from bench.server.load import Outcome
from kmend.core.errors import SystemProblemError
from kmend.core.facts import KernelFacts
from kmend.core.kernel import KernelIdentity
from kmend.core.process import run
from kmend.intel.feeds import Cna, CveRecord, read_archive
from kmend.server import knowledge
from kmend.server.store import Store, initialise, migrate, open_store, tables

DATA = Path(__file__).parents[1].parent / "shared" / "data"
ARCHIVE = "vulns-2026-08-21.tar.xz"
DATABASES = ("sqlite", "postgresql")
FIRST = 90_000
"""Number of the first CVE that is made for the benchmark; none of that year is so high."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large.

    Attributes:
        records: of the CNA's that are there before; 0 for all.
        added: that come in at one go.
        rate_hosts: hosts that check in every 15 minutes meanwhile.
        seconds: of check-ins before, and after.
        hosts, builds: of the fleet that is asked about.
        questions: of each kind.
    """

    records: int
    added: int
    rate_hosts: int
    seconds: float
    hosts: int
    builds: int
    questions: int


FULL = Size(0, 1000, 20_000, 30, 10_000, 40, 20)
TRIAL = Size(300, 50, 2000, 4, 200, 3, 3)


def records(size: Size) -> Cna:
    """The CNA's tree, all of it or the newest of it.

    Raises:
        SystemProblemError: the data set is not beside the project.
    """
    path = DATA / ARCHIVE
    if not path.is_file():
        raise SystemProblemError(f"{path} is missing", hint="the data sets belong beside the project, in shared/data")
    whole = read_archive(path)
    chosen = sorted(whole.records)[-size.records :] if size.records else sorted(whole.records)
    return Cna({cve: whole.records[cve] for cve in chosen}, whole.rejected, whole.aside)


def more(tree: Cna, count: int) -> dict[str, CveRecord]:
    """New CVEs that are like those of the tree, which have the files and the ranges of real ones."""
    models = [tree.records[cve] for cve in sorted(tree.records)[-count:]]
    names = [f"CVE-2026-{FIRST + number}" for number in range(count)]
    return {cve: replace(models[number % len(models)], cve=cve) for number, cve in enumerate(names)}


def write_tree(folder: Path, found: dict[str, CveRecord]) -> None:
    """Write records as the CNA does."""
    for cve, record in found.items():
        place = folder / "cve/published" / cve.split("-")[1]
        place.mkdir(parents=True, exist_ok=True)
        cna = {"title": record.title, "affected": [{"programFiles": list(record.files)}]}
        document = {"containers": {"cna": cna}, "cveMetadata": {"cveID": cve}}
        (place / f"{cve}.json").write_text(json.dumps(document))
        (place / f"{cve}.dyad").write_text(knowledge.written(record.pairs) + "\n")
        (place / f"{cve}.sha1").write_text("\n".join(record.commits) + "\n")


def facts(tree: Cna, build_id: str, number: int) -> KernelFacts:
    """Facts of a kernel build that has two thirds of the files that the records name; each build other ones."""
    names = sorted({name for record in tree.records.values() for name in record.files if name.endswith(".c")})
    compiled: dict[str, tuple[str, ...]] = {}
    for place, name in enumerate(names):
        if (place + number) % 3:
            compiled[name] = ("vmlinux",)
    absent = tuple(name for place, name in enumerate(names) if not (place + number) % 3)
    package = f"6.1.{140 + number}-1"
    release = f"6.1.0-{number}-amd64"
    identity = KernelIdentity(build_id, release, f"#1 SMP Debian {package}", f"debian:{release}@{package}", "x86_64")
    return KernelFacts(identity, compiled, (), {}, absent)


def importing(size: Size, folder: Path, tree: Cna) -> None:
    """Check-ins before, while and after many new CVEs come in by the program that the operator runs."""
    for database in DATABASES:
        with bench(folder / database, database, size.rate_hosts) as made:
            store = open_store(made.url)
            now = int(time.time())
            knowledge.import_cna(store, tree, version="before", as_of=now, now=now)
            knowledge.import_facts(store, facts(tree, population.BUILD_ID, 36), now=now)
            knowledge.judge_builds(store)
            store.close()
            vulns = folder / f"{database}-vulns"
            write_tree(vulns, more(tree, size.added))
            made.load(size.rate_hosts, 3, kept=50)  # warm
            _row(database, "before", made.load(size.rate_hosts, size.seconds, kept=200)[0])
            done: list[tuple[float, str]] = []

            def bring(made: Bench = made, vulns: Path = vulns, done: list[tuple[float, str]] = done) -> None:
                began = time.monotonic()
                line = [SERVER, "feeds", "import", "cna", str(vulns), "--config", str(made.served.config), "--json"]
                found = run(line, timeout=3600, check=False)
                done.append((time.monotonic() - began, (found.stdout or found.stderr).decode().strip()))

            thread = threading.Thread(target=bring)
            time.sleep(0.2)
            thread.start()
            number = 0
            while thread.is_alive():
                number += 1
                outcome = made.load(size.rate_hosts, size.seconds, kept=200)[0]
                _row(database, f"while importing ({number})", outcome)
            thread.join()
            _row(database, "after", made.load(size.rate_hosts, size.seconds, kept=200)[0])
            seconds, told = done[0]
            _say(f"{database:10} {size.added} CVEs beside {len(tree.records)} others took {seconds:.1f} s: {told}")


def asking(size: Size, folder: Path, tree: Cna) -> None:
    """How long it takes to say who is exposed to a CVE, and what is true of a host."""
    for database in DATABASES:
        with _store(folder / f"{database}-asked", database) as store:
            now = int(time.time())
            builds = [f"{number:040x}" for number in range(1, size.builds + 1)]
            population.populate(store, size.hosts, now)
            with store.read() as connection:
                names = list(connection.execute(select(tables.hosts.c.id).order_by(tables.hosts.c.id)).scalars())
            for place, build_id in enumerate(builds):
                mine = names[place :: len(builds)]
                with store.write() as connection:
                    for first in range(0, len(mine), 500):
                        table = tables.hosts
                        chosen = table.c.id.in_(mine[first : first + 500])
                        connection.execute(update(table).where(chosen).values(build_id=build_id))
            began = time.monotonic()
            knowledge.import_cna(store, tree, version="bench", as_of=now, now=now)
            imported = time.monotonic() - began
            for number, build_id in enumerate(builds):
                knowledge.import_facts(store, facts(tree, build_id, number), now=now)
            began = time.monotonic()
            judged = knowledge.judge_builds(store)
            _say(
                f"{database:10} {len(tree.records)} records imported in {imported:.1f} s; {judged} answers for "
                f"{size.builds} builds in {time.monotonic() - began:.1f} s"
            )
            step = max(1, len(tree.records) // size.questions)
            chosen_cves = sorted(tree.records)[::step][: size.questions]
            chosen_hosts = names[:: max(1, len(names) // size.questions)][: size.questions]
            cve_seconds = [
                _timed(store, lambda connection, cve=cve: knowledge.of_cve(connection, cve)) for cve in chosen_cves
            ]
            host_seconds = [
                _timed(store, lambda connection, host=host, now=now: knowledge.of_host(connection, host, now))
                for host in chosen_hosts
            ]
            for what, found in (("of_cve", sorted(cve_seconds)), ("of_host", sorted(host_seconds))):
                _say(
                    f"{database:10} {what:8} of {size.hosts} hosts on {size.builds} builds: median "
                    f"{found[len(found) // 2]:.3f} s, most {found[-1]:.3f} s ({len(found)} questions)"
                )


def _timed(store: Store, work: Callable[..., object]) -> float:
    began = time.monotonic()
    with store.read() as connection:
        work(connection)
    return time.monotonic() - began


@contextmanager
def _store(folder: Path, database: str) -> Iterator[Store]:
    folder.mkdir()
    cluster = Cluster(folder / "pg") if database == "postgresql" else None
    if cluster is not None:
        folder.chmod(0o755)
        cluster.create()
    url = cluster.url if cluster is not None else f"sqlite:///{folder}/kmend.sqlite"
    try:
        migrate(url)
        store = open_store(url)
        initialise(store, "be" * 16, int(time.time()))
        try:
            yield store
        finally:
            store.close()
    finally:
        if cluster is not None:
            cluster.stop()


def _row(database: str, when: str, outcome: Outcome) -> None:
    median, _, p99, _, most = outcome.latencies
    errors = ", ".join(f"{kind}: {count}" for kind, count in outcome.errors.items()) or "none"
    _say(
        f"{database:10} {when:22} {outcome.answered / outcome.seconds:6.1f}/s  p50 {median:6.1f} ms  p99 {p99:7.1f} ms  "
        f"most {most:7.1f} ms  errors {errors} (generator late p99 {outcome.late:.1f} ms)"
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


PARTS = {"importing": importing, "asking": asking}


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; none for all")
    parser.add_argument("--trial", action="store_true", help="small numbers, to see that it works")
    options = parser.parse_args()
    size = TRIAL if options.trial else FULL
    _say(f"machine: {run(['uname', '-srm']).text.strip()}")
    tree = records(size)
    for name in options.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="kmend-bench-", dir="/tmp") as folder:  # a short path, for a socket
            Path(folder).chmod(0o755)  # PostgreSQL has an account of its own
            PARTS[name](size, Path(folder), tree)


if __name__ == "__main__":
    main()
