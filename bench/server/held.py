"""Held requests, an enrolment storm, and a restart under load; the generators are processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import ssl
import subprocess
import sys
import time
from array import array
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from sqlalchemy import select
from tests.e2e.served import Served

from bench.server import population
from bench.server.identities import host_id, private_key
from bench.server.load import Job, Outcome
from kmend.core.document import decode, encode, from_plain
from kmend.core.manifest import sha256_hex
from kmend.core.wire import (
    ENROL_PATH,
    HOST_HEADER,
    NEWS_PATH,
    SIGNATURE_HEADER,
    Enrolment,
    HostFacts,
    News,
    NewsRequest,
    Purpose,
    signed_bytes,
)
from kmend.server.store import open_store, tables

if TYPE_CHECKING:
    from bench.server.__main__ import Bench

ROOT = Path(__file__).parents[2]
CONNECTING_AT_ONCE = 64
MAX_TRIES = 20


@dataclass(frozen=True, slots=True)
class Task:
    """What a generator is to do.

    Attributes:
        act: `hold` or `enrol`.
        key: an enrolment key's secret.
    """

    act: str
    port: int
    certificate: str
    server: str
    count: int
    key: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """How requests were held.

    Attributes:
        told_seconds, all_seconds: from the publication until 99 % and all had been told.
    """

    held: int
    kib_each: float
    connected_per_second: float
    told_seconds: float
    all_seconds: float


@dataclass(frozen=True, slots=True)
class Stormed:
    """How a storm of enrolments went; `p99` in milliseconds."""

    enrolled: int
    seconds: float
    p99: float
    again: int
    errors: dict[str, int]


@dataclass(frozen=True, slots=True)
class Restarted:
    """What a restart under load cost."""

    acknowledged: int
    lost: int
    errors: int
    down_seconds: float


class _Client:
    """One connection to the server, with TLS."""

    def __init__(self, task: Task, context: ssl.SSLContext) -> None:
        self._task = task
        self._context = context
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, float]:
        """Send a message; status, content, and the seconds of Retry-After."""
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(
                "127.0.0.1", self._task.port, ssl=self._context, server_hostname="localhost"
            )
        told = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._writer.write(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{told}Content-Length: {len(body)}\r\n\r\n".encode() + body
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        content = await self._reader.readexactly(int(fields.get("content-length", "0")))
        return int(head.split()[1]), content, float(fields.get("retry-after", "0"))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


async def _hold(task: Task) -> None:
    """Hold a request for each host; say when all are held, and after how many seconds each was told."""
    context = ssl.create_default_context(cafile=task.certificate)
    gate = asyncio.Semaphore(CONNECTING_AT_ONCE)
    told: list[float] = []
    waiting = 0
    began = time.monotonic()

    async def one(number: int) -> None:
        nonlocal waiting
        client = _Client(task, context)
        key = private_key(number)

        async def news(seen: str) -> News:
            body = encode(NewsRequest(host_id(number), seen, int(time.time()), 300))
            signature = key.sign(signed_bytes(Purpose.NEWS, task.server, body)).hex()
            status, content, _ = await client.ask(
                NEWS_PATH, body, {HOST_HEADER: host_id(number), SIGNATURE_HEADER: signature}
            )
            if status != 200:
                raise RuntimeError(f"status {status}: {content[:200]!r}")
            return decode(News, content)

        async with gate:
            first = await news("")
        waiting += 1
        if waiting == task.count:
            sys.stdout.write(json.dumps({"connected": time.monotonic() - began}) + "\n")
            sys.stdout.flush()
        await news(first.seen)
        told.append(time.monotonic())
        client.close()

    await asyncio.gather(*(one(number) for number in range(task.count)))
    sys.stdout.write(json.dumps({"told": sorted(told)}) + "\n")


async def _enrol(task: Task) -> None:
    """Enrol hosts, all at once; where the server wants to be left alone, they come again."""
    context = ssl.create_default_context(cafile=task.certificate)
    gate = asyncio.Semaphore(256)
    latencies = array("d")
    errors: Counter[str] = Counter()
    again = 0
    began = time.monotonic()

    async def one(number: int) -> None:
        nonlocal again
        key = private_key(1_000_000 + number)
        facts = HostFacts(f"storm-{number}", sha256_hex(b"%d" % number), agent="0.1.0")
        body = encode(Enrolment(task.key, key.public_key().public_bytes_raw().hex(), facts))
        signature = key.sign(signed_bytes(Purpose.ENROL, "", body)).hex()
        for _ in range(MAX_TRIES):
            async with gate:
                client = _Client(task, context)
                start = time.monotonic()
                try:
                    status, _, after = await client.ask(ENROL_PATH, body, {SIGNATURE_HEADER: signature})
                except (OSError, asyncio.IncompleteReadError) as problem:
                    errors[type(problem).__name__] += 1
                    status, after = 0, 1.0
                finally:
                    client.close()
            if status == 200:
                latencies.append(time.monotonic() - start)
                return
            again += 1
            await asyncio.sleep(after or 1.0)
        errors["given up"] += 1

    await asyncio.gather(*(one(number) for number in range(task.count)))
    found = sorted(latencies)
    p99 = 1000 * found[int(0.99 * len(found))] if found else 0.0
    result = Stormed(len(found), time.monotonic() - began, p99, again, dict(errors))
    sys.stdout.write(encode(result).decode() + "\n")


def _start(task: Task) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}/src:{ROOT}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.server.held"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    if process.stdin is not None:
        process.stdin.write(encode(task).decode())
        process.stdin.close()
    return process


def _line(process: subprocess.Popen[str]) -> dict[str, object]:
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise RuntimeError("the generator ended early")
    found: dict[str, object] = json.loads(line)
    return found


def resident_kib(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def hold(served: Served, server: str, count: int) -> Held:
    """Hold requests for hosts that are in the database, then publish a recall, which concerns all of them."""
    before = resident_kib(served.pid)
    process = _start(Task("hold", served.port, str(served.authority), server, count))
    connected = float(str(_line(process)["connected"]))
    time.sleep(3)
    memory = resident_kib(served.pid)
    served.publish(2)
    published = time.monotonic()
    served.recall(build_id=population.BUILD_ID, level=2)
    told = [float(str(at)) for at in _list(_line(process)["told"])]
    process.wait(60)
    return Held(
        held=len(told),
        kib_each=(memory - before) / count,
        connected_per_second=count / connected,
        told_seconds=told[int(0.99 * (len(told) - 1))] - published,
        all_seconds=told[-1] - published,
    )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def enrol(served: Served, key: str, count: int) -> Stormed:
    """Have so many hosts enrol at once."""
    process = _start(Task("enrol", served.port, str(served.authority), "", count, key))
    found = from_plain(Stormed, _line(process))
    process.wait(60)
    return found


def restart(made: Bench, seconds: float) -> Restarted:
    """Stop and start the server in the middle of a load; compare what was acknowledged with what is in the database."""
    file = made.served.folder / "acknowledged"
    count = 4000
    job = Job(
        port=made.served.port, certificate=str(made.served.authority), server=made.server_id, first=0, count=count,
        rate=100, seconds=seconds, kept=0, counter=made.counter, report=population.digest(), acknowledged=str(file),
    )  # fmt: skip
    environment = os.environ | {"PYTHONPATH": f"{ROOT}/src:{ROOT}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.server.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the generator has no pipes")
    process.stdin.write(encode(replace(job)).decode())
    process.stdin.close()
    time.sleep(seconds / 2)
    began = time.monotonic()
    made.served.stop()
    made.served.start()
    down = time.monotonic() - began
    outcome = from_plain(Outcome, json.loads(process.stdout.readline()))
    process.wait(60)
    acknowledged = array("q", file.read_bytes())
    store = open_store(made.url)
    with store.read() as connection:
        rows = connection.execute(select(tables.hosts.c.id, tables.hosts.c.counter))
        counters = {row.id: row.counter for row in rows}
    store.close()
    lost = sum(counters[host_id(number)] < counter for number, counter in enumerate(acknowledged) if counter)
    return Restarted(outcome.answered, lost, sum(outcome.errors.values()), down)


def main() -> None:
    """Read the task from standard input, and do it."""
    task = from_plain(Task, json.load(sys.stdin))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(_hold(task) if task.act == "hold" else _enrol(task))


if __name__ == "__main__":
    main()
