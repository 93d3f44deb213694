"""The agent as a state machine whose state is on disk before the act that it announces.

There is at most one open intent: to load a level, or to take one off. Every change of it is one method of `Journal` whose
allowed source states are asserted; each stores the intent (fsync), then appends to the history. After a crash the open
intent says how far the agent had come; `kmend.agent.recovery` decides what that means.
"""

from __future__ import annotations

import enum
import functools
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Concatenate, Literal, ParamSpec, cast

from kmend.agent import failpoint, statefile
from kmend.agent.clock import Clock
from kmend.agent.history import History, Record
from kmend.agent.quarantine import Cause, Entry, Quarantine
from kmend.core import durable

_logger = logging.getLogger(__name__)
P = ParamSpec("P")


class State(str, enum.Enum):
    """Where the agent stands."""

    IDLE = "idle"
    ARMED = "armed"
    LOADING = "loading"
    TRANSITIONING = "transitioning"
    SOAKING = "soaking"
    DISABLING = "disabling"


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
    format: str = "kmend-intent/1"


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the table of states, as docs/agent.md prints it."""

    name: str
    sources: tuple[State, ...]
    target: State
    meaning: str


class WrongStateError(AssertionError):
    """A change was asked for in a state that does not allow it: our own fault, never the user's."""


CHANGES: dict[str, Change] = {}


def _change(
    *sources: State, to: State
) -> Callable[[Callable[Concatenate[Journal, P], None]], Callable[Concatenate[Journal, P], None]]:
    """Register a method as a change of state, assert its sources, and put fail points around it."""

    def decorate(method: Callable[Concatenate[Journal, P], None]) -> Callable[Concatenate[Journal, P], None]:
        name = method.__name__
        meaning = (method.__doc__ or "").strip().split("\n", 1)[0]
        CHANGES[name] = Change(name, sources, to, meaning)

        @functools.wraps(method)
        def checked(self: Journal, *args: P.args, **kwargs: P.kwargs) -> None:
            if self.state not in sources:
                raise WrongStateError(f"{name} in state {self.state.value}")
            failpoint.reach(f"{name}.before")
            method(self, *args, **kwargs)
            failpoint.reach(f"{name}.after")
            if self.state is not to:
                raise WrongStateError(f"{name} led to {self.state.value}")

        return cast("Callable[Concatenate[Journal, P], None]", checked)

    return decorate


def fail_points() -> tuple[str, ...]:
    """Every point at which a test can let the agent die."""
    moments = ("before", "written", "after")
    return tuple(f"{name}.{moment}" for name in CHANGES for moment in moments) + failpoint.ACTS


LOADED = (State.LOADING, State.TRANSITIONING, State.SOAKING)
OPEN = (State.ARMED, *LOADED, State.DISABLING)


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

    @property
    def state(self) -> State:
        """The state that is on disk."""
        return self.intent.state if self.intent is not None else State.IDLE

    @property
    def opened(self) -> Intent:
        """The open intent, where there must be one."""
        if self.intent is None:
            raise WrongStateError("there is no open intent")
        return self.intent

    @_change(State.IDLE, to=State.ARMED)
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
        intent_id: str = "",
    ) -> None:
        """An intent is on disk; nothing has been done yet."""
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
        )
        self._store("arm", intent, f"{cause}: about to {action} level {level}")

    @_change(State.ARMED, to=State.LOADING)
    def begin_loading(self) -> None:
        """The module is being handed to the kernel."""
        self._advance("begin_loading", State.LOADING, "handing the module to the kernel")

    @_change(State.LOADING, to=State.TRANSITIONING)
    def begin_transition(self, *, found: str = "") -> None:
        """The kernel took the module and switches tasks over."""
        self._advance("begin_transition", State.TRANSITIONING, "the kernel took the module", found)

    @_change(State.TRANSITIONING, to=State.SOAKING)
    def begin_soak(self, soak_until: int, *, found: str = "") -> None:
        """The transition is over and confirmed; the level is in force, and being tried."""
        self.intent = replace(self.opened, soak_until=soak_until)
        self._advance("begin_soak", State.SOAKING, f"level {self.intent.level} is in force", found)

    @_change(State.SOAKING, to=State.IDLE)
    def settle(self) -> None:
        """The soak is over without an oops; the level counts as good on this host."""
        self._close("settle", "soaked without trouble")

    @_change(State.SOAKING, to=State.IDLE)
    def supersede(self) -> None:
        """Another command takes over before the soak is over."""
        self._close("supersede", "another command took over before the soak was over")

    @_change(State.ARMED, State.LOADING, State.DISABLING, to=State.IDLE)
    def refuse(self, message: str) -> None:
        """The kernel refused to load, or to take off; it runs what it ran before."""
        self._take_back()
        self._close("refuse", message)

    @_change(State.ARMED, to=State.DISABLING)
    def begin_disabling(self) -> None:
        """The livepatch is being taken off."""
        self._advance("begin_disabling", State.DISABLING, "taking the livepatch off")

    @_change(State.DISABLING, to=State.IDLE)
    def finish_disabling(self, *, found: str = "") -> None:
        """The livepatch is off."""
        self._close("finish_disabling", found or "the livepatch is off", recovered=bool(found))

    @_change(*OPEN, to=State.IDLE)
    def lapse(self, message: str, *, undone: bool) -> None:
        """Found out later: the agent was killed, and the kernel does not do what was intended (any more)."""
        if undone:
            self._take_back()
        self._close("lapse", message, recovered=True)

    @_change(*OPEN, to=State.IDLE)
    def conclude_nothing(self, message: str, *, recovered: bool = False) -> None:
        """Asked to stop, or shut down cleanly: neither success nor failure."""
        self._close("conclude_nothing", message, recovered=recovered)

    @_change(*LOADED, to=State.IDLE)
    def condemn(self, cause: Cause, message: str, *, recovered: bool = False) -> None:
        """The level goes into quarantine: a crash while it was new, an oops, or a kernel that shows something else."""
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
        self._close("condemn", message, recovered=recovered)

    def _take_back(self) -> None:
        """A hold that was written for an act which then did not happen goes away again."""
        self._quarantine.remove_by_intent(self.opened.id)

    def _advance(self, event: str, state: State, message: str, found: str = "") -> None:
        intent = replace(self.opened, state=state, changed=self._clock.now())
        self._store(event, intent, found or message, recovered=bool(found))

    def _store(self, event: str, intent: Intent, message: str, *, recovered: bool = False) -> None:
        statefile.save(self._path, intent)
        self.intent = intent
        failpoint.reach(f"{event}.written")
        self._record(event, message, recovered=recovered)

    def _close(self, event: str, message: str, *, recovered: bool = False) -> None:
        # The record first: an intent without a record would be lost, a record twice is recognised.
        self._record(event, message, recovered=recovered)
        failpoint.reach(f"{event}.written")
        durable.remove_durably(self._path)
        self.intent = None

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
    return uuid.uuid4().hex
