"""`kmend agent run`: stays resident, looks at the repository at this host's times, and asks the loader to act.

It needs no privilege: it reads what everybody may read, writes two small files and its own folder, and talks to the network.
Killed, nothing is lost. Whatever goes wrong in one look is said and counted, and the next look comes.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

from kmend.agent import checking, handover, schedule, stopping
from kmend.agent.config import Config
from kmend.agent.configfiles import read_config
from kmend.agent.errors import ConfigError, TerminatedError
from kmend.agent.handover import Fetch, Request
from kmend.agent.led import Led
from kmend.agent.livekernel import read_kernel_file
from kmend.agent.notifying import Notifier
from kmend.agent.session import Host, Session
from kmend.core.errors import KmendError, SystemProblemError

_NAP_SECONDS = 60.0
UNCONFIGURED_SECONDS = 60
"""How often a service that has no usable configuration looks whether it has one."""
REMIND_SECONDS = 20.0
"""A request that the loader has not dealt with for so long is made anew, twice as long after each time: systemd starts no loader
for one that came while the loader before was about to end."""
LIVELY_SECONDS = 300
"""How much longer than soak and transition take a led host looks each second what the loader does."""
_logger = logging.getLogger(__name__)


class _WokenError(Exception):
    """A signal came during a rest."""


class Service:
    """The resident part.

    Args:
        host: the world outside.
        notifier: is told how it goes.
        draw: uniform random numbers in [0, 1).
    """

    def __init__(self, host: Host, notifier: Notifier, draw: Callable[[], float] = random.random) -> None:
        self._host = host
        self._paths = host.paths
        self._clock = host.clock
        self._notifier = notifier
        self._draw = draw
        self._config: Config | None = None
        self._fetcher: object = None
        self._failures = 0
        self._tried: tuple[str, int, float] = ("", 0, 0.0)
        self._said = ""
        self._complaint = ""
        self._resting = False
        self._reload = False
        self._stop = False
        self._news = False
        self._frozen = False
        self._waits = False
        self._led = Led(host, self._tell, lambda: os.kill(os.getpid(), signal.SIGUSR1), draw)
        self._lively_until = 0.0
        self._asked: Request | None = None
        self._remind_at, self._remind_after = 0.0, REMIND_SECONDS

    def run(self) -> int:
        """Look at the repository until a signal says to stop; returns the exit status."""
        signal.signal(signal.SIGHUP, self._on_reload)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_news)
        self._waits = True
        try:
            self._configure()
            self._notifier.ready()
            self._go_on()
            self._rest(self._until_first())
            while not self._stop:
                if self._reload:
                    self._reload = False
                    self._close()  # files that the configuration names may have changed, too
                    self._configure()
                    self._notifier.ready()
                self._rest(self.look())
        except (TerminatedError, KeyboardInterrupt):
            pass
        self._notifier.stopping()
        self._close()
        return 0

    def once(self) -> int:
        """Look once, for a timer; returns the exit status."""
        self._config = read_config(self._paths.config)
        self.look()
        self._close()
        report = handover.read_fetch(self._paths)
        return 1 if report is None or report.kind else 0

    def look(self) -> float:
        """Look at the repository now; returns the seconds until the next look."""
        if self._config is None:
            self._configure()
        config = self._config
        if config is None:
            return UNCONFIGURED_SECONDS
        stop = stopping.stop(self._paths)
        if stop is not None and stop.extent is stopping.Extent.OFF:
            self._tell(f"nothing is done: {stop.source}")
            return config.service.interval
        self._news = False
        self._frozen = False
        try:
            delay, failed = self._follow(config) if config.server.url else (self._look(config), None)
            problem, kind = (failed.message, failed.kind) if failed is not None else ("", "")
            if failed is not None:
                self._tell(f"{problem}. {failed.hint}" if failed.hint else problem)
        except TerminatedError:
            raise
        except KmendError as caught:
            problem, kind = caught.message, caught.kind
            delay = self._failed(config, getattr(caught, "retry_after", None))
            self._tell(f"{problem}. {caught.hint}" if caught.hint else problem)
        except Exception as caught:
            # Whatever it is, the next look must come; the trace is what a person needs to report it.
            _logger.exception("a look at the repository failed")
            problem, kind = f"{type(caught).__name__}: {caught}", "internal"
            delay = self._failed(config, None)
        if kind:  # without the repository, too, what is open is seen through
            self._go_on()
        self._report(kind, problem, delay)
        return delay

    def _follow(self, config: Config) -> tuple[float, KmendError | None]:
        """Check in at the server, and look at the repository when that is due; the seconds until the next, and what failed.

        That the repository cannot be had delays no check-in: a host that is silent while it tries a level has failed.
        """
        session = Session(self._host, config, _logger.info)
        waits = self._waits and config.server.news
        if waits:
            self._led.hear(config)
        turn = self._led.check_in(session, config)
        problem, self._frozen = turn.problem, turn.frozen
        if turn.back:
            self._ask(update=False, back=turn.back)
        elif turn.look:
            failed = self._look_besides(config)
            self._led.looked(self._clock.uptime(), failed)
            problem = problem or failed
        else:
            self._go_on()
            problem = problem or self._led.look_problem
            if problem is None:
                self._tell("the server has nothing new")
        if session.journal.intent is not None:
            self._stay_lively(config)
        if waits and turn.problem is None:
            self._led.wait(config)
        return turn.next, problem

    def _look_besides(self, config: Config) -> KmendError | None:
        try:
            self._look(config)
        except TerminatedError:
            raise
        except KmendError as problem:
            return problem
        return None

    def _look(self, config: Config) -> float:
        from kmend.agent.fetching import Fetcher

        session = Session(self._host, config, _logger.info)
        if not isinstance(self._fetcher, Fetcher):
            self._fetcher = Fetcher(config, self._paths.fetched, self._notifier.alive)
        found = self._fetcher.fetch(session)
        _give_back()
        self._failures = 0
        wanted = self._due(found.wanted, config)
        if wanted or found.news:
            self._ask(update=True)
        else:
            self._go_on()
        now = self._clock.now()
        self._tell(f"level {found.wanted.split('_')[1]} is there" if found.wanted else "the repository has nothing new")
        delay = schedule.until_slot(now, config.service.interval, self._slot(config))
        if found.until is not None and now < found.until < now + delay:
            return found.until - now
        return delay

    def _due(self, module: str, config: Config) -> bool:
        """Whether the loader is to be asked for this module now; after failures less and less often."""
        if not module:
            self._tried = ("", 0, 0.0)
            return False
        before, attempts, due = self._tried
        if module != before:
            attempts, due = 0, 0.0
        if self._clock.uptime() < due:
            return False
        # The slots are not quite an interval apart when a clock is set.
        wait = schedule.before_attempt(attempts + 1, config.service.interval) - config.service.interval / 2
        self._tried = (module, attempts + 1, self._clock.uptime() + wait)
        return True

    def _go_on(self) -> None:
        """Have the loader see through what is open; it may have been killed, or never have been started on this boot."""
        try:
            session = Session(self._host, self._config or Config(), _logger.info)
            if session.journal.intent is not None:
                self._ask(update=False)
        except KmendError as problem:
            self._tell(problem.message)

    def _ask(self, *, update: bool, back: int = 0) -> None:
        request = Request(handover.next_number(self._paths), update, back)
        handover.write_request(self._paths, request)
        self._asked, self._remind_after = request, REMIND_SECONDS
        self._remind_at = self._clock.uptime() + REMIND_SECONDS
        if self._config is not None:
            self._stay_lively(self._config)

    def _remind(self) -> None:
        """Ask again for what the loader has not dealt with."""
        if self._asked is None or self._clock.uptime() < self._remind_at:
            return
        handled = handover.read_handled(self._paths)
        if handled is not None and handled.number == self._asked.number:
            self._asked = None
            return
        self._asked = replace(self._asked, number=handover.next_number(self._paths))
        self._remind_after *= 2
        self._remind_at = self._clock.uptime() + self._remind_after
        try:
            handover.write_request(self._paths, self._asked)
        except KmendError as problem:
            self._tell(problem.message)

    def _stay_lively(self, config: Config) -> None:
        """Notice soon what the loader does, so that the server hears of it."""
        self._lively_until = self._clock.uptime() + config.timing.soak + config.timing.transition + LIVELY_SECONDS

    def _failed(self, config: Config, retry_after: float | None) -> float:
        self._failures += 1
        return schedule.after_failure(self._failures, config.service.interval, self._draw(), retry_after)

    def _report(self, kind: str, message: str, delay: float) -> None:
        before = handover.read_fetch(self._paths)
        now = self._clock.now()
        good = now if not kind else (before.good_at if before is not None else 0)
        try:
            build_id = Session(self._host, Config(), _logger.info).running.build_id
            handover.write_fetch(
                self._paths,
                Fetch(build_id, now, good, kind, message[: handover.MAX_TEXT], now + int(delay), self._frozen),
            )
        except KmendError as problem:
            self._tell(problem.message)

    def _configure(self) -> None:
        """Read the configuration; one that cannot be used leaves the one before in force."""
        try:
            config = read_config(self._paths.config)
            if not config.repository.url:
                raise ConfigError("no repository is configured", hint="set repository.url in agent.toml")
        except ConfigError as problem:
            kept = "; what was configured before stays in force" if self._config is not None else ""
            self._complaint = f"{problem.message}{kept}"
            self._tell(self._complaint)
            if self._config is None:
                self._report(problem.kind, problem.message, UNCONFIGURED_SECONDS)
            return
        self._complaint = ""
        if config != self._config:
            self._close()
        self._config = config

    def _close(self) -> None:
        self._led.close()
        close = getattr(self._fetcher, "close", None)
        if close is not None:
            close()
        self._fetcher = None

    def _until_first(self) -> float:
        if self._config is None:
            return 0
        interval, last = self._config.service.interval, 0
        try:
            if self._config.server.url:
                return self._led.until_first(Session(self._host, self._config, _logger.info))
            found = checking.last_check(Session(self._host, self._config, _logger.info))
            last = found.at if found is not None else 0
        except KmendError as problem:
            self._tell(problem.message)
        return schedule.until_first(self._clock.now(), last, interval, self._slot(self._config), self._draw())

    def _slot(self, config: Config) -> int:
        identity = read_kernel_file(self._paths.root / "etc/machine-id")
        return schedule.slot(identity, config.service.interval)

    def _tell(self, message: str) -> None:
        """Say something once, not again at every look."""
        self._notifier.status(
            message if message == self._complaint or not self._complaint else f"{message}; {self._complaint}"
        )
        if message != self._said:
            _logger.warning("%s", message)
        self._said = message

    # Rest and signals

    def _rest(self, seconds: float) -> None:
        """Wait, in naps that keep the watchdog content; a suspended host wakes up on time."""
        longest = min(_NAP_SECONDS, self._notifier.watchdog / 3) if self._notifier.watchdog else _NAP_SECONDS
        end = self._clock.uptime() + seconds
        led = self._config is not None and bool(self._config.server.url)
        while not self._stop and not self._reload and not self._news:
            self._notifier.alive()
            left = end - self._clock.uptime()
            if left <= 0 or (led and self._led.changed()):
                return
            nap = 1.0 if led and self._clock.uptime() < self._lively_until else longest
            if self._asked is not None:
                nap = min(nap, max(1.0, self._remind_at - self._clock.uptime()))
            self._resting = True
            try:
                self._clock.sleep(min(left, nap))
            except _WokenError:
                return
            finally:
                self._resting = False
            self._remind()

    def _on_reload(self, number: int, frame: FrameType | None) -> None:
        self._reload = True
        if self._resting:
            self._resting = False
            raise _WokenError

    def _on_news(self, number: int, frame: FrameType | None) -> None:
        self._news = True
        if self._resting:
            self._resting = False
            raise _WokenError

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self._stop = True
        raise TerminatedError("stopped by a signal")


def _give_back() -> None:
    """Return to the system what a look took; without it the memory of the largest look stays taken."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library has no malloc_trim(3)
        ctypes.CDLL(None).malloc_trim(0)


def _refuse_foreign_folders(host: Host) -> None:
    """Root must not write where another account may put symbolic links; nor leave there what that account cannot replace."""
    for folder in (host.paths.fetched, host.paths.service):
        owner = folder.stat().st_uid if folder.is_dir() else 0
        if os.geteuid() == 0 and owner != 0:
            raise SystemProblemError(
                f"{folder} belongs to another account (user ID {owner}), and this is root",
                hint="let systemd do it: systemctl start kmend-fetch.service; or kmend update, which needs no service",
            )


def run(host: Host, act: str) -> int:
    """`kmend agent run|once`.

    Raises:
        ConfigError: for `once`.
        SystemProblemError: its folders are another account's; for `once`, they cannot be written either.
    """
    try:
        _refuse_foreign_folders(host)
        service = Service(host, Notifier())
        return service.run() if act == "run" else service.once()
    except SystemProblemError as problem:
        raise SystemProblemError(problem.message, hint=problem.hint or "run it as kmend-agent.service does") from None
