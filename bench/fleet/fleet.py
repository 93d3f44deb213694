"""Runs simulated hosts in one event loop: when each checks in, what wakes it, and what is counted."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import resource
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.fleet.behaviour import Script, Timing
from bench.fleet.connection import FAILURES, Connections
from bench.fleet.counters import Counters, Snapshot, tally
from bench.fleet.library import Library
from bench.fleet.member import Member
from kmend.agent import conversation, exchange, schedule, waiting
from kmend.agent.conversation import ServerError
from kmend.agent.exchange import CheckedIn, Message
from kmend.agent.states import TRIED
from kmend.core.errors import KmendError
from kmend.core.wire import CHECK_IN_PATH, NEWS_PATH, News
from kmend.trust.transport import Reply

T = TypeVar("T")
LEAST_SECONDS = 1.0
"""Between two check-ins of a host to which something happens."""


@dataclass(frozen=True, slots=True)
class Group:
    """Hosts that enrol with the same key.

    Attributes:
        key: of enrolment; it decides the ring.
        prefix: of their names, which are `<prefix>-<number>`.
    """

    key: str
    count: int
    prefix: str = "sim"


class Fleet:
    """Simulated hosts of one server.

    Args:
        url: the server's.
        ca: file of its authority; empty for the usual ones.
        library: what the repository holds.
        script: how hosts fare; its seed decides everything that is not the server's doing or the network's.
        news: hold a request at the server for every host.
        kept: keep connections for the next check-in of whichever host; else a new one each time.
        at_once: so many requests, besides the held ones, are under way at most.
        told: called with each CheckedIn and the host's name; for tests and benchmarks.
    """

    def __init__(
        self,
        url: str,
        *,
        ca: str = "",
        groups: Sequence[Group],
        library: Library,
        script: Script | None = None,
        timing: Timing | None = None,
        news: bool = True,
        kept: bool = False,
        at_once: int = 64,
        told: Callable[[str, CheckedIn], None] | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._library = library
        self._script = script or Script()
        self._news = news
        self._told = told
        self._connections = Connections(self._url, ca, kept=kept)
        self._free = asyncio.Semaphore(at_once)
        self._random = random.Random(self._script.seed)  # noqa: S311 - spreads requests, hides nothing
        self._started = time.monotonic()
        self._waiting = 0
        self._refreshed = ""
        self._refreshing: asyncio.Lock = asyncio.Lock()
        self.counters = Counters()
        self.keys: dict[str, str] = {}
        self.members: dict[str, Member] = {}
        for group in groups:
            for number in range(group.count):
                name = f"{group.prefix}-{number:05}"
                self.keys[name] = group.key
                self.members[name] = Member(name, library, self._script, timing or Timing(), time.time)

    async def enrol(self) -> None:
        """Have every host taken in that is not yet; who is refused stays out, and is counted."""
        missing = [member for member in self.members.values() if member.member is None]
        await asyncio.gather(*(self._enrol(member) for member in missing))

    async def run(self, seconds: float = math.inf, stop: asyncio.Event | None = None) -> Snapshot:
        """Enrol who is not, and let all hosts live for so long, or until `stop` is set."""
        _allow_files()
        self._started = time.monotonic()
        stop = stop or asyncio.Event()
        tasks = [asyncio.create_task(self._live(member)) for member in self.members.values()]
        end = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({end}, timeout=None if seconds == math.inf else seconds)
        finally:
            end.cancel()
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            self._connections.close()
        for outcome in done:
            if isinstance(outcome, Exception):
                raise outcome
        return self.snapshot()

    def snapshot(self) -> Snapshot:
        """What there is to say now."""
        counters, machines = self.counters, [member.machine_state for member in self.members.values()]
        up = [machine for machine in machines if machine.off_until is None]
        return Snapshot(
            seconds=round(time.monotonic() - self._started, 3),
            hosts=len(machines),
            enrolled=counters.enrolled,
            requests=dict(counters.requests),
            answered=counters.answered,
            errors=dict(counters.errors),
            told=counters.told,
            waiting=self._waiting,
            p50_ms=counters.latency.quantile(0.5),
            p99_ms=counters.latency.quantile(0.99),
            levels=tally(machine.loaded.level if machine.loaded is not None else 0 for machine in up),
            states=tally(machine.state.value if machine.off_until is None else "off" for machine in machines),
            failures=tally(entry.cause.value for machine in machines for entry in machine.quarantine.entries()),
            cpu_seconds=round(time.process_time(), 3),
        )

    async def _enrol(self, member: Member) -> bool:
        facts = member.facts(member.machine())
        course = exchange.enrol(self.keys[member.name], self._url, member.public_key, facts, member.sign)
        try:
            member.member, _ = await self._drive(course)
        except FAILURES as problem:
            self._count(problem)
            return False
        except ServerError as problem:
            self.counters.errors[problem.word or "unreadable"] += 1
            return False
        self.counters.enrolled += 1
        return True

    async def _live(self, member: Member) -> None:
        failures = 0
        while member.member is None and not await self._enrol(member):
            failures += 1
            await asyncio.sleep(schedule.after_failure(failures, 0, self._random.random(), longest=60))
        woken, heard = asyncio.Event(), asyncio.Event()
        listening = asyncio.create_task(self._listen(member, woken, heard)) if self._news else None
        try:
            if listening is not None:
                await heard.wait()
            await self._check_in_always(member, woken)
        finally:
            if listening is not None:
                listening.cancel()

    async def _check_in_always(self, member: Member, woken: asyncio.Event) -> None:
        host = member.machine_state
        due = time.monotonic() + schedule.until_check_in(self._random.random(), other_boot=True)
        failures, last, boot = 0, -math.inf, host.boot_id
        while True:
            before = (host.state, host.loaded, host.boot_id)
            host.step()
            if host.off_until is None:
                if host.boot_id != boot:
                    boot = host.boot_id
                    due = time.monotonic() + schedule.until_check_in(self._random.random(), other_boot=True)
                elif before != (host.state, host.loaded, host.boot_id) or woken.is_set():
                    due = min(due, max(time.monotonic(), last + LEAST_SECONDS))
                woken.clear()
                if due <= time.monotonic():
                    last = time.monotonic()
                    wait, failures = await self._check_in(member, failures)
                    due = time.monotonic() + wait
                    if before[:2] != (host.state, host.loaded):
                        due = min(due, last + LEAST_SECONDS)  # the loader has been at work since
            await self._pause(host.due - time.time(), due - time.monotonic(), woken, up=host.off_until is None)

    async def _pause(self, event: float, due: float, woken: asyncio.Event, *, up: bool) -> None:
        seconds = max(0.0, min(event, due if up else math.inf))
        if seconds == math.inf:
            await asyncio.Event().wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(woken.wait() if up else asyncio.Event().wait(), seconds)

    async def _check_in(self, member: Member, failures: int) -> tuple[float, int]:
        """Check in once; the seconds until the next time, and the failures in a row by now."""
        host = member.machine_state
        try:
            done = await self._drive(exchange.check_in(member))
        except FAILURES as problem:
            self._count(problem)
            retry_after = None
        except ServerError as problem:
            self.counters.errors[problem.word or "unreadable"] += 1
            retry_after = problem.retry_after
        else:
            self.counters.answered += 1
            await self._look(member, done.timestamp.decode())
            host.obey(done.offer)
            if self._told is not None:
                self._told(member.name, done)
            return max(schedule.LEAST_CHECK_IN_SECONDS, done.next), 0
        intent = host.journal.intent
        tried = intent is not None and intent.state in TRIED
        longest = schedule.TRIED_RETRY_SECONDS if tried else schedule.CHECK_IN_RETRY_SECONDS
        wait = schedule.after_failure(failures + 1, 0, self._random.random(), retry_after, longest=longest)
        return wait, failures + 1

    async def _look(self, member: Member, timestamp: str) -> None:
        """Know what the repository holds, when the server names a timestamp that is not known; once for all hosts."""
        if timestamp and timestamp != self._refreshed:
            async with self._refreshing:
                if timestamp != self._refreshed:
                    try:
                        await asyncio.to_thread(self._library.refresh, timestamp)
                        self._refreshed = timestamp
                    except KmendError as problem:
                        self.counters.errors[problem.kind] += 1
                        return
        member.seen = timestamp.encode()

    async def _listen(self, member: Member, woken: asyncio.Event, heard: asyncio.Event) -> None:
        """Hold a request at the server, as `kmend.agent.waiting` does; `heard` is set after the first time."""
        seen, failures = "", 0
        while True:
            if member.machine_state.off_until is not None:
                await asyncio.sleep(1)
                continue
            message = exchange.news(member.identity(), seen, member.now(), waiting.HOLD_SECONDS, member.sign)
            try:
                answer = await self._hold(message, first=not seen)
            except (*FAILURES, ServerError) as problem:
                heard.set()
                failures += 1
                self.counters.errors[f"news: {getattr(problem, 'word', '') or type(problem).__name__}"] += 1
                longest = int(waiting.LONGEST_PAUSE)
                after = getattr(problem, "retry_after", None)
                await asyncio.sleep(schedule.after_failure(failures, 0, self._random.random(), after, longest=longest))
                continue
            spread = waiting.LONGEST_PAUSE if failures and not seen else answer.spread
            failures = 0
            if answer.seen != seen and heard.is_set():
                await asyncio.sleep(self._random.random() * min(spread, waiting.MAX_SPREAD))
                self.counters.told += 1
                woken.set()
            heard.set()
            await asyncio.sleep(waiting.PACE_SECONDS if seen else 0)
            seen = answer.seen

    async def _hold(self, message: Message, *, first: bool) -> News:
        self.counters.requests[NEWS_PATH] += 1
        self._waiting += 1
        try:
            wait = 0.0 if first else waiting.HOLD_SECONDS
            reply = await self._connections.post(message, wait=wait, own=True)
        finally:
            self._waiting -= 1
        if reply.status != 200:
            raise conversation.refused(reply.status, reply.content, reply.retry_after)
        return conversation.read(News, reply.content)

    async def _drive(self, course: Generator[Message, Reply, T]) -> T:
        message = next(course)
        while True:
            reply = await self._send(message)
            try:
                message = course.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result

    async def _send(self, message: Message) -> Reply:
        async with self._free:
            self.counters.requests[message.path] += 1
            start = time.perf_counter()
            reply = await self._connections.post(message)
            if message.path == CHECK_IN_PATH:
                self.counters.latency.add(time.perf_counter() - start)
            return reply

    def _count(self, problem: BaseException) -> None:
        self.counters.errors[type(problem).__name__] += 1


def _allow_files() -> None:
    """As many connections as the system lets this process have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
