"""What a forecast and a ranking of a whole fleet cost: `python -m bench.deadlines [--hosts N]`, on SQLite.

Forty kernel builds one after the other, each with what the ones after it mend; three levels on each; four rings; hosts that came
at any time of a year, and of which half have run three levels on two boots.
"""

from __future__ import annotations

import argparse
import datetime
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, insert

from kmend.intel.deadlines import Assumptions
from kmend.intel.frameworks import rows_of
from kmend.server.compliance import policies
from kmend.server.compliance.answers import forecast_of, ranked
from kmend.server.compliance.standing import fleet
from kmend.server.store import Store, initialise, migrate, open_store, tables

T = TypeVar("T")
NOW, DAY = 1_790_000_000, 86_400
BUILDS, LEVELS, RINGS = 40, 3, ("default", "web", "db", "edge")
PORTION = 5000
_ALWAYS = (datetime.date.min, datetime.date.max)


def main() -> None:
    """Fill a database, ask, and print seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--cves", type=int, default=2600)
    parser.add_argument(
        "--apart", action="store_true", help="levels of different builds close different CVEs, at random"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'bench.sqlite'}"
        migrate(url)
        store = open_store(url)
        initialise(store, "5e" * 16, NOW)
        _fill(store, given.hosts, given.cves, given.apart)
        _say(f"{given.hosts:,} hosts, {BUILDS} builds, {given.cves:,} CVEs, {len(RINGS)} rings under 3 policies each")
        with store.read() as connection:
            found = _timed("fleet", lambda: fleet(connection, NOW))
            pairs = sum(item.hosts for item in found.open)
            _say(f"  {len(found.open):,} open CVEs, {pairs:,} of host and CVE")
            told = _timed("forecast", lambda: forecast_of(connection, NOW, days=14)).forecast
            _say(
                f"  {sum(item.hosts for item in told.overdue):,} overdue, {sum(item.hosts for item in told.due):,} due"
            )
            _timed("ranking", lambda: ranked(connection, NOW))
        store.close()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _timed(name: str, work: Callable[[], T]) -> T:
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    _say(f"{name}: {time.process_time() - cpu:.2f} CPU seconds, {time.perf_counter() - wall:.2f} s")
    return found


def _fill(store: Store, hosts: int, cves: int, apart: bool) -> None:
    draw = random.Random(1)  # noqa: S311 - a fleet, not a secret
    names = [f"CVE-2026-{number:05d}" for number in range(cves)]
    builds = [f"{number:040x}" for number in range(BUILDS)]
    with store.write() as connection:
        for position, ring in enumerate(RINGS[1:]):
            connection.execute(
                insert(tables.rings).values(name=ring, position=position, description="", created_at=NOW)
            )
        _put(connection, tables.cves, [
            {"cve": cve, "title": "", "cvss": "CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H" if number % 3 else "",
             "files": "[]", "commits": "[]", "pairs": "", "rejected": False, "changed_at": NOW,
             "first_seen_at": NOW - draw.randrange(400) * DAY}
            for number, cve in enumerate(names)
        ])  # fmt: skip
        # A CVE is mended in one build, and open on those before it.
        mended = {cve: draw.randrange(1, BUILDS + 1) for cve in names}
        rows = [
            {"build_id": build_id, "cve": cve, "affected": True, "reason": "present",
             "presence": draw.choice(("built in", "module")), "objects": "[]", "evidence": "[]", "in_c": True}
            for number, build_id in enumerate(builds) for cve in names if number < mended[cve]
        ]  # fmt: skip
        _put(connection, tables.applicability, rows)
        for number, build_id in enumerate(builds):
            connection.execute(
                insert(tables.kernel_facts).values(
                    build_id=build_id, package=f"6.1.{number}-1", imported_at=NOW, facts=b""
                )
            )
            _levels(connection, build_id, [cve for cve in names if number < mended[cve]], draw, apart)
        _hosts(connection, hosts, builds, draw)
        for ring in RINGS:
            for framework in ("pci-dss", "cisa-bod-26-04", "essential-eight"):
                policies.put(
                    connection, ring, framework, framework=framework, rows=rows_of(framework), assumed=Assumptions(),
                    valid_from=_ALWAYS[0], valid_to=_ALWAYS[1], approved_by="bench", actor="server", now=NOW,
                )  # fmt: skip


def _levels(connection: Connection, build_id: str, names: list[str], draw: random.Random, apart: bool) -> None:
    connection.execute(
        insert(tables.kernel_builds).values(
            build_id=build_id, release="6.1", version="v", ref="r", architecture="x86_64", first_seen=NOW
        )
    )
    for level in range(1, LEVELS + 1):
        # Levels are made of the same updates on every build, so they close the same CVEs, unless they are to be apart.
        share = (lambda cve: draw.randrange(4)) if apart else (lambda cve: int(cve[-5:]) % 7 % 4)
        taken = [cve for cve in names if share(cve) < level]
        at = NOW - (LEVELS - level + 1) * 30 * DAY
        connection.execute(
            insert(tables.levels).values(
                build_id=build_id, level=level, module=f"kmend_{level}", manifest_sha256="0", module_sha256="0",
                published=at, channel="", pinned=False, imported_at=at, manifest=b"{}",
            )
        )  # fmt: skip
        _put(connection, tables.level_cves, [{"build_id": build_id, "level": level, "cve": cve} for cve in taken])
    for ring in RINGS:
        connection.execute(
            insert(tables.ring_levels).values(ring=ring, build_id=build_id, level=LEVELS - 1, rollout="", since=NOW)
        )


def _hosts(connection: Connection, count: int, builds: list[str], draw: random.Random) -> None:
    rows, periods = [], []
    for number in range(count):
        came = NOW - draw.randrange(365 * DAY)
        build_id, level, ring = draw.choice(builds), draw.randrange(LEVELS + 1), draw.choice(RINGS)
        stand = {"state": "enrolled", "ring": ring, "build_id": build_id, "level": level, "refuses": "[]"}
        host = f"{number:032x}"
        rows.append({"id": host, "public_key": host, "name": host, "enrolled_at": came, "boot_id": "", **stand})
        states = [*range(level + 1), *([0, level] if number % 2 else [])]
        periods += [
            {"host": host, "at": came + place * 3600, "transition": 0, "boot_id": "", **stand, "level": state}
            for place, state in enumerate(states)
        ]
    _put(connection, tables.hosts, rows)
    _put(connection, tables.host_periods, periods)


def _put(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    for first in range(0, len(rows), PORTION):
        connection.execute(insert(table), rows[first : first + PORTION])


if __name__ == "__main__":
    main()
