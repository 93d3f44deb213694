"""The part of the service that is led by a server: when to check in, when to look at the repository all the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kmend.agent import schedule
from kmend.agent.config import Config
from kmend.agent.session import Host, Session
from kmend.agent.states import TRIED
from kmend.core.errors import KmendError

if TYPE_CHECKING:
    from kmend.agent.waiting import Waiter

LEAST_LOOK_SECONDS, LOOKS_AT_ONCE = 60, 5
"""A look at the repository in so many seconds at most, whatever the server says; some at once, when there were none for long."""
MOST_LEAVING = 1
"""So many threads that have been told to end may still be there when another one begins."""
LOOK_SECONDS = 86_400
"""So often the repository is looked at whatever the server says of its timestamp."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a check-in comes to.

    Attributes:
        next: seconds until the next.
        look: the repository is to be looked at.
        back: a level that is being tried here, and that the server wants taken off; 0 for none.
        frozen: the server's timestamp of the repository is older than what this host has verified.
        problem: why the check-in failed; None if it did not.
    """

    next: float
    look: bool
    back: int = 0
    frozen: bool = False
    problem: KmendError | None = None


class Led:
    """Keeps the connection to the server, and the request that is held there.

    Args:
        tell: told what a person should know.
        wake: called from another thread when there is news.
        draw: uniform random numbers in [0, 1).
    """

    def __init__(
        self, host: Host, tell: Callable[[str], None], wake: Callable[[], None], draw: Callable[[], float]
    ) -> None:
        self._host = host
        self._tell = tell
        self._wake = wake
        self._draw = draw
        self._transport: object = None
        self._waiter: Waiter | None = None
        self._leaving: list[Waiter] = []
        """Those that were closed, and whose threads may not have noticed yet."""
        self._failures = 0
        self._look_due = 0.0
        self._look_failures = 0
        self._look_earliest = 0.0
        self._look_wanted = False
        """Stays until a look has succeeded: the answer that brought it is not given a second time."""
        self._looks: list[float] = []
        self._look_problem: KmendError | None = None
        self._quiet_until = 0.0
        self._state = 0

    @property
    def look_problem(self) -> KmendError | None:
        """Why the last look at the repository failed, which is not tried again yet; None if it did not."""
        return self._look_problem

    def check_in(self, session: Session, config: Config) -> Turn:
        """Check in once; a failure comes back as a value, since the repository is looked at then, too."""
        from kmend.agent import checking, conversation, link
        from kmend.trust.transport import Transport

        self._state = self._published()
        if not isinstance(self._transport, Transport):
            self._transport = Transport(link.network(config, checking.network(config)))
        speaking = link.Link(self._host.paths, config.server.url, self._transport)
        uptime = session.clock.uptime()
        try:
            done = speaking.check_in(session)
        except KmendError as problem:
            return Turn(self._failed(session, problem), look=uptime >= self._look_earliest, problem=problem)
        self._failures = 0
        kept, now = link.mirrored(self._host.paths), session.clock.now()
        version, mine = conversation.version_of(done.timestamp), conversation.version_of(kept)
        frozen = 0 < version < mine
        if frozen:
            self._tell("the server gives an older timestamp of the repository than this host has verified")
        other = bool(done.timestamp) and done.timestamp != kept
        self._look_wanted |= done.changed or other or conversation.expired(kept, now) or uptime >= self._look_due
        back = self._back(session, done.offer.back if done.offer is not None else 0)
        due = min(done.next, LOOK_SECONDS)
        if self._look_wanted and uptime < self._look_earliest and self._look_problem is None:
            due = min(due, int(self._look_earliest - uptime) + 1)
        return Turn(
            max(schedule.LEAST_CHECK_IN_SECONDS, due),
            look=self._look_wanted and uptime >= self._look_earliest,
            back=back,
            frozen=frozen,
        )

    def hear(self, config: Config) -> None:
        """Before the first check-in: ask what there is, which it then sees, so that nothing comes unheard between the two."""
        if self._prepare(config) and self._waiter is not None:
            with contextlib.suppress(KmendError):
                self._waiter.ask()

    def wait(self, config: Config) -> None:
        """Hold a request at the server, in a thread, as the host that this one is now; once it has checked in.

        While more of those before are still there than `MOST_LEAVING`, none is added: the next check-in will do.
        """
        self._prepare(config)
        self._leaving = [waiter for waiter in self._leaving if waiter.alive]
        if self._waiter is not None and len(self._leaving) <= MOST_LEAVING:
            self._waiter.start()

    def _prepare(self, config: Config) -> bool:
        """Have a waiter of the host that this one is now; whether it is another than before."""
        from kmend.agent import checking, link
        from kmend.agent.identity import Credentials
        from kmend.agent.waiting import HeldTransport, Waiter

        credentials = Credentials(self._host.paths)
        identity = credentials.identity()
        if identity is None or identity.url != config.server.url.rstrip("/"):
            return False
        if self._waiter is not None:
            if self._waiter.identity == identity:
                return False
            self._leave()
        transport = HeldTransport(link.network(config, checking.network(config)))
        self._waiter = Waiter(transport, identity, credentials.seed(), self._wake, self._host.clock.now, self._draw)
        return True

    def looked(self, uptime: float, problem: KmendError | None) -> None:
        """The repository was looked at; after failures less and less often, however often the host checks in."""
        self._look_problem = problem
        if problem is None:
            self._look_wanted, self._look_failures, self._look_due = False, 0, uptime + LOOK_SECONDS
            self._looks = [*self._looks, uptime][-LOOKS_AT_ONCE:]
            full = len(self._looks) == LOOKS_AT_ONCE
            self._look_earliest = self._looks[0] + LOOKS_AT_ONCE * LEAST_LOOK_SECONDS if full else 0.0
            return
        self._look_failures += 1
        retry_after = getattr(problem, "retry_after", None)
        self._look_earliest = uptime + schedule.after_failure(
            self._look_failures, 0, self._draw(), retry_after, longest=schedule.CHECK_IN_RETRY_SECONDS
        )

    def until_first(self, session: Session) -> float:
        """Seconds until a service that has just started checks in."""
        from kmend.agent.identity import Credentials

        before = Credentials(self._host.paths).last_boot()
        return schedule.until_check_in(self._draw(), other_boot=before != session.boot_id)

    def changed(self) -> bool:
        """Whether another state was published since the last check-in; while the server wants to be left alone, nothing was."""
        return self._host.clock.uptime() >= self._quiet_until and self._published() != self._state

    def close(self) -> None:
        """Close the connections."""
        self._leave()
        close = getattr(self._transport, "close", None)
        if close is not None:
            close()
        self._transport = None

    def _leave(self) -> None:
        if self._waiter is not None:
            self._waiter.close()
            self._leaving = [waiter for waiter in (*self._leaving, self._waiter) if waiter.alive]
        self._waiter = None

    def _failed(self, session: Session, problem: KmendError) -> float:
        self._failures += 1
        intent = session.journal.intent
        tried = intent is not None and intent.state in TRIED
        longest = schedule.TRIED_RETRY_SECONDS if tried else schedule.CHECK_IN_RETRY_SECONDS
        retry_after = getattr(problem, "retry_after", None)
        wait = schedule.after_failure(self._failures, 0, self._draw(), retry_after, longest=longest)
        if retry_after:
            self._quiet_until = session.clock.uptime() + wait
        return wait

    def _back(self, session: Session, level: int) -> int:
        """The level, if it is being tried; of any other the status says that taking it off was refused."""
        if not level:
            return 0
        intent = session.journal.intent
        if intent is not None and intent.level == level and intent.state in TRIED:
            return level
        loaded = session.loaded(session.kernel.view())
        if loaded is not None and loaded.level == level:
            self._tell(f"the server wants level {level} taken off, which runs steadily here: refused")
        return 0

    def _published(self) -> int:
        with contextlib.suppress(OSError):
            return (self._host.paths.run / "state.json").stat().st_mtime_ns
        return 0
