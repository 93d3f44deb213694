"""The agent as a state machine (`kmend.agent.states`) whose state is on disk before the act that it announces.

There is at most one open intent: to load a level, or to take one off. Every change of it is one method of `Journal` whose
allowed source states are asserted; each stores the intent (fsync), then appends to the history. After a crash the open
intent says how far the agent had come; `kmend.agent.recovery` decides what that means.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kmend.agent import failpoint, statefile
from kmend.agent.clock import Clock
from kmend.agent.history import History, Record
from kmend.agent.quarantine import Cause, Entry, Quarantine
from kmend.agent.states import OPEN, REST, TRIED, UNDER_WAY, State, WrongStateError, change
from kmend.core import durable

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Vitals:
    """How a host is doing: its load over the last minute, and its available memory in bytes."""

    load: float
    available: int


@dataclass(frozen=True, slots=True)
class Intent:
    """What the agent is about to do, or is doing.

    Attributes:
        action: `load` or `unload`.
        cause: the command that wanted it.
        sha256: of the unsigned module.
        fixes: all fixes of the level.
        suspects: the fixes to blame if the host crashes: those that it did not run well with before.
        replaces: livepatch modules that were active before.
        tainted: the kernel's taint flags before.
        soak_until: uptime in seconds at which the soak is over; 0 before.
        moving_since: uptime in whole seconds at which the kernel began to switch tasks, 0 before.
        log: number of the kernel log's newest record before (`/dev/kmsg`), -1 if the log cannot be read.
        vitals: what the host was like before; None in an intent of an earlier kmend.
    """

    id: str
    action: str
    cause: str
    state: State
    build_id: str
    boot_id: str
    level: int
    module: str
    sha256: str
    fixes: tuple[str, ...]
    suspects: tuple[str, ...]
    cves: tuple[str, ...]
    replaces: tuple[str, ...]
    tainted: int
    opened: int
    changed: int
    soak_until: int = 0
    moving_since: int = 0
    log: int = -1
    vitals: Vitals | None = None
    format: str = "kmend-intent/1"


class Journal:
    """The one open intent, on disk.

    `found` is what a later command says when it finds out that a change has happened without anybody recording it.

    Args:
        folder: where `intent.json` lies.
        boot_id: of this boot; records carry it.
    """

    def __init__(self, folder: Path, history: History, quarantine: Quarantine, clock: Clock, boot_id: str) -> None:
        self._path = folder / "intent.json"
        self._history = history
        self._quarantine = quarantine
        self._clock = clock
        self._boot_id = boot_id
        self.intent: Intent | None = statefile.load(self._path, Intent)
        self._step: State | None = None
        self._rest = State.IDLE

    @property
    def state(self) -> State:
        """What a command is doing, else what is on disk, else where the host was found to stand."""
        if self._step is not None:
            return self._step
        return self.intent.state if self.intent is not None else self._rest

    @property
    def open_state(self) -> State | None:
        """The state of the open intent; None if there is none."""
        return self.intent.state if self.intent is not None else None

    @property
    def opened(self) -> Intent:
        """The open intent, where there must be one."""
        if self.intent is None:
            raise WrongStateError("there is no open intent")
        return self.intent

    @change(*REST, State.TRANSITIONING, State.SOAKING, to=State.CHECKING, durable=False)
    def begin_check(self) -> None:
        """The repository is asked what is new; what is open stays open."""
        self._step = State.CHECKING

    @change(State.CHECKING, *REST, State.SOAKING, to=State.FETCHING, durable=False)
    def begin_fetch(self) -> None:
        """The parts of a level that this host may load are fetched."""
        self._step = State.FETCHING

    @change(State.FETCHING, *REST, State.SOAKING, to=State.VERIFIED, durable=False)
    def accept(self) -> None:
        """Every byte of a level is the one that was signed; from the repository, or kept here since it was."""
        self._step = State.VERIFIED

    @change(State.VERIFIED, *REST, State.SOAKING, to=State.PREFLIGHT, durable=False)
    def begin_preflight(self) -> None:
        """The host is examined: may it load, or take off, this level now?"""
        self._step = State.PREFLIGHT

    @change(*UNDER_WAY, to=(*REST, State.TRANSITIONING, State.SOAKING), durable=False)
    def come_to_rest(self, standing: State) -> None:
        """There is nothing to do, or it failed or was refused; what was open goes on, else the host stands where it stands."""
        self._step = None
        self._rest = standing

    @change(State.PREFLIGHT, to=State.PREFLIGHT)
    def supersede(self) -> None:
        """Another command takes over before the soak is over."""
        if self.open_state is not State.SOAKING:
            raise WrongStateError("supersede without a soak")
        self._close("supersede", "another command took over before the soak was over")

    @change(State.PREFLIGHT, to=State.ARMED)
    def arm(
        self,
        *,
        action: Literal["load", "unload"],
        cause: str,
        build_id: str,
        level: int,
        module: str,
        sha256: str,
        fixes: tuple[str, ...],
        suspects: tuple[str, ...],
        cves: tuple[str, ...],
        replaces: tuple[str, ...],
        tainted: int,
        log: int = -1,
        vitals: Vitals | None = None,
        intent_id: str = "",
    ) -> None:
        """An intent is on disk; nothing has been done yet."""
        if self.intent is not None:
            raise WrongStateError(f"arm while level {self.intent.level} is {self.intent.state.value}")
        now = self._clock.now()
        intent = Intent(
            id=intent_id or new_id(),
            action=action,
            cause=cause,
            state=State.ARMED,
            build_id=build_id,
            boot_id=self._boot_id,
            level=level,
            module=module,
            sha256=sha256,
            fixes=fixes,
            suspects=suspects,
            cves=cves,
            replaces=replaces,
            tainted=tainted,
            opened=now,
            changed=now,
            log=log,
            vitals=vitals,
        )
        self._store("arm", intent, f"{cause}: about to {action} level {level}")

    @change(State.ARMED, to=State.LOADING)
    def begin_loading(self) -> None:
        """The module is being handed to the kernel."""
        self._advance("begin_loading", State.LOADING, "handing the module to the kernel")

    @change(State.LOADING, to=State.TRANSITIONING)
    def begin_transition(self, *, found: str = "") -> None:
        """The kernel took the module and switches tasks over."""
        self.intent = replace(self.opened, moving_since=int(self._clock.uptime()))
        self._advance("begin_transition", State.TRANSITIONING, "the kernel took the module", found)

    @change(State.TRANSITIONING, to=State.SOAKING)
    def begin_soak(self, soak_until: int, *, found: str = "") -> None:
        """The transition is over and confirmed; the level is in force, and being tried."""
        self.intent = replace(self.opened, soak_until=soak_until)
        self._advance("begin_soak", State.SOAKING, f"level {self.intent.level} is in force", found)

    @change(State.SOAKING, to=State.STEADY)
    def settle(self, message: str = "soaked without trouble") -> None:
        """The soak is over without an oops; the level counts as good on this host."""
        self._close("settle", message, rest=State.STEADY)

    @change(State.ARMED, State.LOADING, State.REVERTING, to=State.IDLE)
    def refuse(self, message: str) -> None:
        """The kernel refused to load, or to take off; it runs what it ran before."""
        self._take_back()
        self._close("refuse", message)

    @change(State.ARMED, to=State.REVERTING)
    def begin_disabling(self) -> None:
        """A livepatch in force is being taken off."""
        self._advance("begin_disabling", State.REVERTING, "taking the livepatch off")

    @change(State.TRANSITIONING, State.SOAKING, to=State.REVERTING)
    def begin_reverting(self, message: str, *, cause: Cause | None = None, hold: Entry | None = None) -> None:
        """A level that is coming, or that soaks, is being taken off again; with a cause it goes into quarantine first."""
        if cause is not None:
            self._blame(cause, message)
        if hold is not None:
            self._quarantine.add(replace(hold, intent=self.opened.id))
        self._advance("begin_reverting", State.REVERTING, message)

    @change(State.REVERTING, to=State.TRANSITIONING)
    def resume_transition(self, *, found: str = "") -> None:
        """It was not taken off after all, and comes."""
        self._advance("resume_transition", State.TRANSITIONING, "the transition goes on", found)

    @change(State.REVERTING, to=State.IDLE)
    def finish_disabling(self, *, found: str = "") -> None:
        """The livepatch is off."""
        self._close("finish_disabling", found or "the livepatch is off", recovered=bool(found))

    @change(*OPEN, to=State.IDLE)
    def lapse(self, message: str, *, undone: bool) -> None:
        """Found out later: the agent was killed, and the kernel does not do what was intended (any more)."""
        if undone:
            self._take_back()
        self._close("lapse", message, recovered=True)

    @change(*OPEN, to=State.IDLE)
    def conclude_nothing(self, message: str, *, recovered: bool = False) -> None:
        """Asked to stop, or shut down cleanly: neither success nor failure."""
        self._close("conclude_nothing", message, recovered=recovered)

    @change(*TRIED, State.REVERTING, to=State.QUARANTINED)
    def condemn(self, cause: Cause, message: str, *, recovered: bool = False) -> None:
        """The level goes into quarantine: a crash while it was new, an oops, or a kernel that shows something else."""
        self._blame(cause, message)
        self._close("condemn", message, recovered=recovered, rest=State.QUARANTINED)

    def _blame(self, cause: Cause, message: str) -> None:
        intent = self.opened
        self._quarantine.add(
            Entry(
                build_id=intent.build_id,
                level=intent.level,
                module=intent.module,
                fixes=intent.suspects or intent.fixes,
                cause=cause,
                message=message,
                at=self._clock.now(),
                boot_id=intent.boot_id,
                intent=intent.id,
            )
        )

    def remark(self, event: str, message: str) -> None:
        """Record something about the open intent that changes no state; the same event is recorded once."""
        self._record(event, message, recovered=True)

    def _take_back(self) -> None:
        """A hold that was written for an act which then did not happen goes away again."""
        self._quarantine.remove_by_intent(self.opened.id)

    def _advance(self, event: str, state: State, message: str, found: str = "") -> None:
        intent = replace(self.opened, state=state, changed=self._clock.now())
        self._store(event, intent, found or message, recovered=bool(found))

    def _store(self, event: str, intent: Intent, message: str, *, recovered: bool = False) -> None:
        statefile.save(self._path, intent)
        self.intent = intent
        self._step = None
        failpoint.reach(f"{event}.written")
        self._record(event, message, recovered=recovered)

    def _close(self, event: str, message: str, *, recovered: bool = False, rest: State = State.IDLE) -> None:
        # The record first: an intent without a record would be lost, a record twice is recognised.
        self._record(event, message, recovered=recovered)
        failpoint.reach(f"{event}.written")
        durable.remove_durably(self._path)
        self.intent = None
        self._rest = rest

    def _record(self, event: str, message: str, *, recovered: bool) -> None:
        intent = self.opened
        _logger.debug("%s: level %d: %s", event, intent.level, message)
        self._history.append(
            Record(
                at=self._clock.now(),
                boot_id=self._boot_id,
                event=event,
                intent=intent.id,
                level=intent.level,
                module=intent.module,
                message=message,
                recovered=recovered,
                cves=intent.cves,
                replaces=intent.replaces,
            )
        )


def new_id() -> str:
    """A new intent's identifier."""
    return os.urandom(16).hex()
