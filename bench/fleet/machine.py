"""A host without a kernel: the agent's states and decisions, and a kernel that takes some seconds and fails by script."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable

from bench.fleet.behaviour import Behaviour, Script, Timing
from bench.fleet.library import Library
from bench.fleet.memory import MemoryClock, MemoryJournal, MemoryQuarantine
from kmend.agent import choice, offers, recalled, recovery
from kmend.agent.choice import Choice
from kmend.agent.journal import Intent
from kmend.agent.livekernel import View
from kmend.agent.policy import Rule, Withheld
from kmend.agent.quarantine import Cause
from kmend.agent.recovery import TAINT_DIE, Action
from kmend.agent.states import TRIED, State, standing
from kmend.core.manifest import Manifest
from kmend.core.recall import Extent
from kmend.core.wire import Offer

SLOWNESS = 10


class Machine:
    """One host.

    Args:
        time: seconds since 1970-01-01 UTC; `step` must be called at `due`.

    Attributes:
        loaded: the level in force.
        off_until: when it comes up again; None while it runs.
        previous: the boot before; empty if there was none that anybody saw. clean: whether it ended in order.
        due: when something happens by itself; infinity for never.
    """

    def __init__(self, name: str, library: Library, script: Script, timing: Timing, time: Callable[[], float]) -> None:
        self.name = name
        self.accepts_return = script.accepts_return(name)
        self._library = library
        self._script = script
        self._timing = timing
        self._time = time
        self.clock = MemoryClock(time)
        self.quarantine = MemoryQuarantine()
        self.boot_id = str(uuid.uuid4())
        self.previous = ""
        self.clean: bool | None = None
        self.journal = MemoryJournal(self.quarantine, self.clock, self.boot_id)
        self.tainted = 0
        self.loaded: Manifest | None = None
        self._former: Manifest | None = None
        self._soaked: Manifest | None = None
        self.off_until: float | None = None
        self.due = math.inf
        self._then: Callable[[], None] = self._nothing

    @property
    def state(self) -> State:
        """Where the agent stands."""
        return self.journal.open_state or self._stands()

    @property
    def moving(self) -> bool:
        """Whether a transition is under way."""
        return self.journal.open_state in (State.TRANSITIONING, State.REVERTING)

    def step(self) -> None:
        """Let happen what is due."""
        while self.due <= self._time():
            then, self.due, self._then = self._then, math.inf, self._nothing
            then()

    def choose(self, offer: Offer | None) -> Choice:
        """The level that this host may load by itself, as the agent chooses it."""
        above = self.loaded.level if self.loaded is not None else 0

        def withheld(manifest: Manifest) -> tuple[Withheld, ...]:
            rule = offers.rule(offer, manifest.kernel.build_id, manifest.level)
            own = self._script.of(self.name, manifest.level) is Behaviour.WITHHOLDS
            held = (Withheld(Rule.HOLD, None, "held by its administrator"),) if own else ()
            return (*held, rule) if rule is not None else held

        newer = [manifest for manifest in self._library.levels if manifest.level > above]
        return choice.choose(newer, self.loaded, self.quarantine.entries(), withheld, self._library.recalls)

    def recalled(self) -> str:
        """Why the loaded level should no longer be loaded; empty if nothing says so."""
        return recalled.reason(self._library.recalls, self.loaded) if self.loaded is not None else ""

    def obey(self, offer: Offer | None) -> None:
        """Do what the loader does when it is asked: go back, obey recalls, load what may be loaded."""
        if self.off_until is not None or self.tainted & TAINT_DIE:
            return
        if offer is not None and offer.back and self._go_back(offer.back):
            return
        if self.moving:
            return
        if self.loaded is not None and self._library.recalls.of(self.loaded, (Extent.REVERT,)) is not None:
            self._take_off(self.loaded)
            return
        chosen = self.choose(offer).manifest
        if chosen is not None:
            self._load(chosen, "service")

    def _load(self, manifest: Manifest, cause: str) -> None:
        self._arm(manifest, "load", cause)
        self.journal.begin_loading()
        self.journal.begin_transition()
        behaviour = self._behaviour(manifest)
        seconds = self._timing.transition * (SLOWNESS if behaviour is Behaviour.SLOW else 1)
        if behaviour is not Behaviour.STICKS:
            self._after(seconds, lambda: self._in_force(manifest))

    def _arm(self, manifest: Manifest, action: str, cause: str) -> None:
        journal = self.journal
        if action == "load":
            journal.begin_check()
            journal.begin_fetch()
            journal.accept()
        journal.begin_preflight()
        if journal.open_state is State.SOAKING:
            journal.supersede()
        journal.arm(
            action="load" if action == "load" else "unload",
            cause=cause,
            build_id=manifest.kernel.build_id,
            level=manifest.level,
            module=manifest.module.name,
            sha256=manifest.module.sha256,
            fixes=tuple(fix.digest for fix in manifest.fixes),
            suspects=self._suspects(manifest),
            cves=manifest.cves,
            replaces=(self.loaded.module.name,) if self.loaded is not None else (),
            tainted=self.tainted,
        )

    def _suspects(self, manifest: Manifest) -> tuple[str, ...]:
        known = set(self.loaded.fix_digests) if self.loaded is not None else set()
        known |= self._soaked.fix_digests if self._soaked is not None else set()
        digests = tuple(fix.digest for fix in manifest.fixes)
        return tuple(digest for digest in digests if digest not in known) or digests

    def _in_force(self, manifest: Manifest) -> None:
        self._former, self.loaded = self.loaded, manifest
        self.journal.begin_soak(int(self.clock.uptime() + self._timing.soak))
        trouble = {
            Behaviour.OOPSES: self._oops,
            Behaviour.REVERTS: self._complain,
            Behaviour.PANICS: lambda: self._go_down(self._timing.restart, clean=False),
            Behaviour.DIES: lambda: self._go_down(math.inf, clean=False),
            Behaviour.RESTARTS: lambda: self._go_down(self._timing.restart, clean=True),
        }.get(self._behaviour(manifest))
        if trouble is not None:
            self._after(self._timing.trouble, trouble)
        else:
            self._after(self._timing.soak, self._settle)

    def _settle(self) -> None:
        self.journal.settle()
        self._soaked = self.loaded

    def _oops(self) -> None:
        self.tainted |= TAINT_DIE
        level = self.journal.opened.level
        self.journal.condemn(
            Cause.OOPSED, f"the kernel reported an oops after level {level} was loaded", recovered=True
        )

    def _complain(self) -> None:
        self._revert("the kernel warned while it soaked", Cause.COMPLAINED)

    def _go_back(self, level: int) -> bool:
        intent = self.journal.intent
        if intent is None or intent.level != level or intent.state not in TRIED or not self.accepts_return:
            return False
        self._revert("sent back by the server while it was being tried", Cause.RETURNED)
        return True

    def _revert(self, message: str, cause: Cause) -> None:
        soaking = self.journal.open_state is State.SOAKING
        kept = self._former if soaking else self.loaded
        self.journal.begin_reverting(message, cause=cause)
        self._after(self._timing.transition, lambda: self._reverted(kept))

    def _reverted(self, kept: Manifest | None) -> None:
        self.loaded, self._former = kept, None
        self.journal.finish_disabling()

    def _take_off(self, manifest: Manifest) -> None:
        self._arm(manifest, "unload", "recall")
        self.journal.begin_disabling()
        self._after(self._timing.transition, lambda: self._reverted(None))

    def _go_down(self, seconds: float, *, clean: bool) -> None:
        self.clean = clean
        self.off_until = self._time() + seconds
        self._after(seconds, self._come_up)

    def _come_up(self) -> None:
        intent = self.journal.intent
        self.previous, self.boot_id = self.boot_id, str(uuid.uuid4())
        self.off_until, self.tainted = None, 0
        self.loaded = self._former = None
        self.clock.started = self._time()
        self.journal = MemoryJournal(self.quarantine, self.clock, self.boot_id, intent)
        if intent is not None:
            self._recover(intent)
        if self._soaked is not None:
            again = choice.choose(
                [self._soaked], None, self.quarantine.entries(), recalls=self._library.recalls, extents=recalled.AT_BOOT
            )
            if again.manifest is not None:
                self._load(again.manifest, "boot")

    def _recover(self, intent: Intent) -> None:
        clean = self.previous if self.clean else ""
        decision = recovery.decide(intent, View(self.boot_id, (), ()), uptime=0, tainted=0, clean_shutdown=clean)
        if decision.action is Action.CONDEMN_CRASHED:
            self.journal.condemn(Cause.CRASHED, decision.message, recovered=True)
        elif decision.action is Action.CONCLUDE_NOTHING:
            self.journal.conclude_nothing(decision.message, recovered=True)
        else:
            self.journal.lapse(decision.message, undone=decision.undone)

    def _behaviour(self, manifest: Manifest) -> Behaviour:
        if self._soaked is not None and self._soaked.module == manifest.module:
            return Behaviour.GOOD
        return self._script.of(self.name, manifest.level)

    def _stands(self) -> State:
        entries = self.quarantine.entries()
        obstacles = self.choose(None).obstacles
        return standing(
            supported=bool(self._library.levels) or None,
            oopsed=bool(self.tainted & TAINT_DIE),
            suspect=self.loaded is not None and self.loaded.module.name in {entry.module for entry in entries},
            quarantined=any(obstacle.quarantined for obstacle in obstacles),
            held=any(not obstacle.by_server_alone for obstacle in obstacles),
            loaded=self.loaded is not None,
        )

    def _after(self, seconds: float, then: Callable[[], None]) -> None:
        self.due, self._then = self._time() + seconds, then

    def _nothing(self) -> None:
        pass
