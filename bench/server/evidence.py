"""A pack of evidence of a large fleet: how long it takes to make and to verify, how large it is, and how much memory it needs.

    python -m bench.server.evidence [HOSTS [BUILDS [CVES]]]

Every host has reported four times: it came, took a level, lost it by a reboot, and took it again; each report names the one
before it. Each build knows all CVEs, every other one in a module alone. Every other host says which modules it can load, in one
of twenty ways.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert
from tests.unit.sample_livepatch import KERNEL, livepatch, write_build

from kmend.core.document import encode
from kmend.core.kernel import KernelIdentity
from kmend.core.manifest import sha256_hex
from kmend.core.wire import (
    NO_LINK,
    CheckIn,
    HeldLevel,
    HostFacts,
    ModuleReport,
    Purpose,
    RunningBuild,
    StateReport,
    link,
    signed_bytes,
)
from kmend.server.access import audit
from kmend.server.config import ServerConfig, ServerSection
from kmend.server.evidence import making, signing
from kmend.server.evidence.gathering import Wanted
from kmend.server.evidence.verifying import Trusted, verify
from kmend.server.repository.importing import import_repository
from kmend.server.store import Store, initialise, migrate, open_store, tables
from kmend.trust.signing import keyfiles
from kmend.trust.signing.keyfiles import KeyFolder, KeyPlan
from kmend.trust.signing.publishing import Publisher, read_build

SERVER = "5e" * 16
DAY = 86_400
PORTION = 1000
MODULES, WAYS = 300, 20
CLOSES = 40
"""CVEs that a level closes."""


def _no_passphrase(path: Path) -> bytes:
    raise AssertionError(path)


def _kernel(number: int) -> KernelIdentity:
    build_id = hashlib.sha1(f"build {number}".encode()).hexdigest()  # noqa: S324 - the form of a build ID
    return KernelIdentity(
        build_id, f"6.1.0-{number}-amd64", KERNEL.version, f"debian:6.1.0-{number}-amd64@6.1.{number}-1"
    )


def _module(place: int) -> str:
    return f"module_{place % MODULES}"


def _says(number: int) -> ModuleReport | None:
    """What a host says of its modules."""
    if number % 2:
        return None
    out = [_module(place) for place in range(number % WAYS, MODULES, 10)]
    loaded = tuple(sorted(_module(place) for place in range(1, MODULES, 3)))
    return ModuleReport(loaded, barred=tuple(sorted(out[::2])), absent=tuple(sorted(out[1::2])))


def _cves(count: int) -> list[str]:
    return [f"CVE-2026-{1000 + number}" for number in range(count)]


def _fill(store: Store, folder: Path, kernels: list[KernelIdentity], cves: list[str], now: int) -> list[HeldLevel]:
    """Levels and meanings; the level of each build, as its hosts report it."""
    keys = folder / "keys"
    keyfiles.create(keys, KeyPlan(bin_bits=2, module_key_bits=2048), now=datetime.datetime.now(datetime.timezone.utc))
    moment = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
    publisher = Publisher(folder / "data" / "repository", KeyFolder(keys, _no_passphrase), now=moment)
    held, builds = [], []
    for kernel in kernels:
        manifest, module = livepatch(1, cves[:CLOSES], kernel=kernel)
        builds.append(read_build(write_build(folder / kernel.build_id[:8], manifest, module)))
        held.append(HeldLevel(1, manifest.module.name, manifest.module.sha256))
    publisher.publish(builds)
    root = (keys / "root.json").read_bytes()
    (folder / "data" / "root.json").write_bytes(root)
    url = (folder / "data" / "repository").as_uri()
    import_repository(store, url, root, folder / "mirror", now, begin=lambda *_: None)
    for kernel in kernels:
        rows = [
            {"build_id": kernel.build_id, "cve": cve, "affected": True, "reason": "affected",
             "presence": "module" if place % 2 else "built in", "complete": True, "in_c": True,
             "objects": json.dumps([_module(place) if place % 2 else "vmlinux"]),
             "evidence": '["6.1.170 has it, 6.1.192 does not"]'}
            for place, cve in enumerate(cves)
        ]  # fmt: skip
        with store.write() as connection:
            connection.execute(insert(tables.applicability), rows)
    return held


def _host(
    number: int, kernel: KernelIdentity, level: HeldLevel, begin: int
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """A host's row, and its reports."""
    host = hashlib.sha256(f"host {number}".encode()).hexdigest()[:32]
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"key {number}".encode()).digest())
    facts = HostFacts(
        f"host-{number:06}", sha256_hex(f"machine {number}".encode()), "QEMU Standard PC", "web", "debian 12"
    )
    running = RunningBuild(kernel.build_id, kernel.release, kernel.version, "x86_64")
    reports = []
    last, said = NO_LINK, _says(number)
    for counter, (day, loaded, boot) in enumerate(((-1, None, 1), (2, level, 1), (5, None, 2), (6, level, 2)), start=1):
        at = begin + day * DAY + number % 3600
        boot_id = f"{boot:08x}-0000-4000-8000-{number:012x}"
        report = StateReport(at, boot_id, running, facts, "idle", loaded, supported=True)
        digest = sha256_hex(encode(report))
        message = CheckIn(host, counter, boot_id, digest, report, after=last)
        if said is not None:
            tag = sha256_hex(encode(said))[:16]
            message = replace(message, modules=tag, module_report=said if counter == 1 else None)
        last = link(message)
        body = encode(message)
        signature = key.sign(signed_bytes(Purpose.CHECK_IN, SERVER, body)).hex()
        reports.append(
            {"host": host, "counter": counter, "received_at": at + 1, "digest": digest, "body": body, "signature": signature}
        )  # fmt: skip
    row = {
        "id": host, "public_key": signing.public_of(key), "name": facts.name, "ring": "default", "state": "enrolled",
        "enrolled_at": begin - 2 * DAY, "last_seen": begin + 7 * DAY, "report": digest, "machine": facts.machine,
        "build_id": kernel.build_id, "release": kernel.release, "level": 1,
    }  # fmt: skip
    return row, reports


def _enrol(store: Store, hosts: int, kernels: list[KernelIdentity], held: list[HeldLevel], begin: int) -> None:
    for first in range(0, hosts, PORTION):
        found = [
            _host(number, kernels[number % len(kernels)], held[number % len(kernels)], begin)
            for number in range(first, min(first + PORTION, hosts))
        ]
        with store.write() as connection:
            connection.execute(insert(tables.hosts), [row for row, _ in found])
            connection.execute(insert(tables.reports), [report for _, reports in found for report in reports])
            for row, _ in found:
                detail = {"name": row["name"], "ring": "default", "public_key": row["public_key"]}
                actor, subject = f"host:{row['id']}", str(row["id"])
                audit.append(
                    connection, at=begin - 2 * DAY, actor=actor, action="host.enrol", subject=subject, detail=detail
                )


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _took(begun: tuple[float, float]) -> dict[str, float]:
    return {"seconds": round(time.monotonic() - begun[0], 1), "cpu_seconds": round(time.process_time() - begun[1], 1)}


def main(hosts: int = 10_000, builds: int = 40, count: int = 2500) -> None:
    """Make the fleet, a pack of it, and verify that; figures as JSON."""
    with tempfile.TemporaryDirectory(prefix="kmend-bench-") as name:
        folder = Path(name)
        (folder / "data").mkdir()
        url = f"sqlite:///{folder / 'kmend.sqlite'}"
        migrate(url)
        store = open_store(url)
        now = int(time.time())
        begin = now - 10 * DAY
        initialise(store, SERVER, now)
        kernels = [_kernel(number) for number in range(builds)]
        _enrol(store, hosts, kernels, _fill(store, folder, kernels, _cves(count), now), begin)
        before = _peak_mib()
        config = ServerConfig(server=ServerSection(data=str(folder / "data")))
        path = folder / "pack.tar"
        begun = time.monotonic(), time.process_time()
        with path.open("wb") as stream:
            making.make(store, config, Wanted(SERVER, begin, now, "", "token:1", now, 400), stream.write)
        made = {**_took(begun), "peak_mib": _peak_mib()}
        begun = time.monotonic(), time.process_time()
        found = verify(path, Trusted((folder / "data" / "root.json").read_bytes(), {}, server_alone=True))
        figures = {
            "hosts": hosts, "builds": builds, "cves": count, "reports": hosts * 4, "pack_mib": path.stat().st_size >> 20,
            "peak_mib_before": before, "made": made, "verified": {**_took(begun), "peak_mib": _peak_mib()},
            "findings": {item.check: item.message for item in found.findings}, "good": found.verified,
        }  # fmt: skip
        store.close()
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
