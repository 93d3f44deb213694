"""Fills a server's database with hosts that have been there for a while, so that a benchmark need not enrol them one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from sqlalchemy import create_engine, insert, text

from bench.server.identities import BOOT_ID, host_id, public_keys
from kmend.core.document import encode
from kmend.core.manifest import sha256_hex
from kmend.core.wire import HostFacts, RunningBuild, StateReport
from kmend.server.store import Store, tables

BUILD_ID = "5ca1ab1e" * 5
RELEASE = "6.1.0-50-cloud-amd64"
VERSION = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-04)"
RING = "default"
CHUNK = 5000


def report() -> StateReport:
    """What every host of the benchmark reports."""
    facts = HostFacts("bench", "0" * 64, hardware="QEMU Standard PC", distro="debian 12", agent="0.1.0")
    kernel = RunningBuild(BUILD_ID, RELEASE, VERSION, "x86_64")
    return StateReport(at=0, boot_id=BOOT_ID, kernel=kernel, facts=facts, state="idle", supported=True)


def digest() -> str:
    """Of that report."""
    return sha256_hex(encode(report()))


def populate(store: Store, count: int, now: int) -> None:
    """Insert hosts 0 to `count` - 1, enrolled and seen, and the levels' ring that they are in."""
    rows = _rows(count, now)
    while chunk := list(itertools.islice(rows, CHUNK)):
        with store.write() as connection:
            connection.execute(insert(tables.hosts), chunk)
    if store.postgresql:  # as a database is that has been at work for a while
        settle(store.url)


def settle(url: str) -> None:
    """Let PostgreSQL do now what it would do in the background during the measurement."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("VACUUM ANALYZE hosts"))
        connection.execute(text("CHECKPOINT"))
    engine.dispose()


def _rows(count: int, now: int) -> Iterator[dict[str, object]]:
    seen = digest()
    for number, key in enumerate(public_keys(count)):
        yield {
            "id": host_id(number),
            "public_key": key,
            "name": f"bench-{number:06}",
            "ring": RING,
            "state": "enrolled",
            "enrolled_at": now,
            "last_seen": now,
            "boot_id": BOOT_ID,
            "report": seen,
            "machine": "0" * 64,
            "build_id": BUILD_ID,
            "release": RELEASE,
            "version": VERSION,
            "architecture": "x86_64",
            "phase": "idle",
            "supported": True,
            "hardware": "QEMU Standard PC",
            "distro": "debian 12",
            "agent": "0.1.0",
        }
