"""A load generator: checks in for many hosts at a steady rate, in a process of its own: `python -m bench.server.load < JOB`.

Requests are sent when they are due, whether or not the ones before are answered, and a latency counts from when the request was
due: a server that stalls is not spared the requests that it keeps waiting.
"""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import sys
import time
from array import array
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from bench.server.identities import BOOT_ID, host_id, private_key
from kmend.core.document import decode, encode, from_plain
from kmend.core.wire import CHECK_IN_PATH, HOST_HEADER, SIGNATURE_HEADER, Answer, CheckIn, Purpose, signed_bytes

TIMEOUT_SECONDS = 30.0
MAX_HEAD = 8192


@dataclass(frozen=True, slots=True)
class Job:
    """What to do.

    Attributes:
        first, count: the hosts that check in, one after the other, round and round.
        rate: check-ins a second.
        kept: connections that are kept and shared; 0: a new one for each check-in.
        counter: of each host's first check-in.
        report: digest of the state report that the server has of every host.
        acknowledged: file that receives each host's last acknowledged counter (64-bit, native order).
    """

    port: int
    certificate: str
    server: str
    first: int
    count: int
    rate: float
    seconds: float
    kept: int
    counter: int
    report: str
    acknowledged: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it went.

    Attributes:
        latencies: milliseconds at the 50th, 90th, 99th, 99.9th and 100th percentile, of what was answered.
        late: milliseconds by which the generator itself sent requests late, at the 99th percentile.
        errors: by kind.
        request_bytes, answer_bytes: HTTP of one check-in with nothing new, headers included.
    """

    sent: int
    answered: int
    seconds: float
    cpu_seconds: float
    latencies: tuple[float, ...]
    late: float
    errors: dict[str, int]
    request_bytes: int
    answer_bytes: int


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@dataclass(slots=True)
class _Tally:
    latencies: array[float] = field(default_factory=lambda: array("d"))
    lateness: array[float] = field(default_factory=lambda: array("d"))
    errors: Counter[str] = field(default_factory=Counter)
    request_bytes: int = 0
    answer_bytes: int = 0


class Generator:
    """Checks in for the hosts of a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._context = ssl.create_default_context(cafile=job.certificate)
        self._keys = [private_key(job.first + number) for number in range(job.count)]
        self._ids = [host_id(job.first + number) for number in range(job.count)]
        self._counters = array("q", [job.counter - 1]) * job.count
        self.acknowledged = array("q", [0]) * job.count
        self._tag = ""
        self._idle: deque[_Connection] = deque()
        self._open = 0
        self._free = asyncio.Semaphore(job.kept or 1)
        self.tally = _Tally()

    async def run(self) -> Outcome:
        """Check in at the job's rate for the job's time, and wait for the last answers."""
        job = self._job
        await self._check_in(0, time.perf_counter())  # learns the tag of what everybody is offered
        self.tally = _Tally()
        tasks: set[asyncio.Task[None]] = set()
        cpu = time.process_time()
        start = time.perf_counter()
        total = int(job.rate * job.seconds)
        for number in range(total):
            due = start + number / job.rate
            delay = due - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            task = asyncio.create_task(self._check_in((number + 1) % job.count, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=TIMEOUT_SECONDS)
        for connection in self._idle:
            connection.writer.close()
        found = sorted(self.tally.latencies)
        return Outcome(
            sent=total,
            answered=len(found),
            seconds=time.perf_counter() - start,
            cpu_seconds=time.process_time() - cpu,
            latencies=tuple(1000 * _at(found, share) for share in (0.5, 0.9, 0.99, 0.999, 1.0)),
            late=1000 * _at(sorted(self.tally.lateness), 0.99),
            errors=dict(self.tally.errors),
            request_bytes=self.tally.request_bytes,
            answer_bytes=self.tally.answer_bytes,
        )

    async def _check_in(self, number: int, due: float) -> None:
        self.tally.lateness.append(time.perf_counter() - due)
        self._counters[number] += 1
        counter = self._counters[number]
        message = CheckIn(self._ids[number], counter, BOOT_ID, self._job.report, answer=self._tag, timestamp=1)
        body = encode(message)
        signature = self._keys[number].sign(signed_bytes(Purpose.CHECK_IN, self._job.server, body)).hex()
        request = (
            f"POST {CHECK_IN_PATH} HTTP/1.1\r\nHost: localhost\r\n{HOST_HEADER}: {message.host}\r\n"
            f"{SIGNATURE_HEADER}: {signature}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"{'' if self._job.kept else 'Connection: close' + chr(13) + chr(10)}\r\n"
        ).encode() + body
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                status, answer, size = await self._exchange(request)
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError, TimeoutError, ValueError) as problem:
            self.tally.errors[type(problem).__name__] += 1
            return
        if status != 200:
            self.tally.errors[f"status {status}"] += 1
            return
        self.acknowledged[number] = counter
        if not self._tag:
            self._tag = decode(Answer, answer).answer
        self.tally.latencies.append(time.perf_counter() - due)
        self.tally.request_bytes, self.tally.answer_bytes = len(request), size

    async def _exchange(self, request: bytes) -> tuple[int, bytes, int]:
        if not self._job.kept:
            connection = await self._connect()
            try:
                return await _talk(connection, request)
            finally:
                connection.writer.close()
        async with self._free:
            connection = self._idle.popleft() if self._idle else await self._connect()
            try:
                done = await _talk(connection, request)
            except BaseException:
                connection.writer.close()
                raise
            self._idle.append(connection)
            return done

    async def _connect(self) -> _Connection:
        made = await asyncio.open_connection(
            "127.0.0.1", self._job.port, ssl=self._context, server_hostname="localhost"
        )
        return _Connection(*made)


async def _talk(connection: _Connection, request: bytes) -> tuple[int, bytes, int]:
    connection.writer.write(request)
    head = await connection.reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    length = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:"))
    body = await connection.reader.readexactly(length)
    return int(lines[0].split()[1]), body, len(head) + length


def _at(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def main() -> None:
    """Read the job from standard input; print the outcome as JSON."""
    job = from_plain(Job, json.load(sys.stdin))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def work() -> None:
        generator = Generator(job)
        outcome = await generator.run()
        if job.acknowledged:
            Path(job.acknowledged).write_bytes(generator.acknowledged.tobytes())
        sys.stdout.write(encode(outcome).decode() + "\n")

    uvloop.run(work())


if __name__ == "__main__":
    main()
