"""The states of the agent, and how a method becomes a change of state: named, its sources asserted, listed for the docs.

Three kinds of states. At rest nothing is open, and where the host stands follows from what is known (`standing`). On the way
to a load the command works in memory only: killed there, nothing has to be cleared up. From `armed` on the state is on disk
before the act that it announces (`kmend.agent.journal`).
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, Protocol, TypeVar, cast

from kmend.agent import failpoint

P = ParamSpec("P")


class State(str, enum.Enum):
    """Where the agent stands."""

    IDLE = "idle"
    STEADY = "steady"
    HELD = "held"
    QUARANTINED = "quarantined"
    DEAD_END = "dead-end"

    CHECKING = "checking"
    FETCHING = "fetching"
    VERIFIED = "verified"
    PREFLIGHT = "preflight"

    ARMED = "armed"
    LOADING = "loading"
    TRANSITIONING = "transitioning"
    SOAKING = "soaking"
    REVERTING = "reverting"

    @classmethod
    def _missing_(cls, value: object) -> State | None:
        """The word that intents carried before for a livepatch that is being taken off."""
        return cls.REVERTING if value == "disabling" else None


REST = (State.IDLE, State.STEADY, State.HELD, State.QUARANTINED, State.DEAD_END)
"""Nothing is open and nothing is being done."""
UNDER_WAY = (State.CHECKING, State.FETCHING, State.VERIFIED, State.PREFLIGHT)
"""A command works towards a load, in memory only."""
TRIED = (State.LOADING, State.TRANSITIONING, State.SOAKING)
"""The kernel has got a level, or may have got it, that has not proven itself."""
OPEN = (State.ARMED, *TRIED, State.REVERTING)
"""An intent is on disk."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the table of states, as docs/agent.md prints it.

    Attributes:
        targets: the state after it; several where the outcome depends on what is open.
        durable: it is on disk before the method returns, with fail points around its writes.
    """

    name: str
    sources: tuple[State, ...]
    targets: tuple[State, ...]
    meaning: str
    durable: bool


class WrongStateError(AssertionError):
    """A change was asked for in a state that does not allow it: our own fault, never the user's."""


class Standing(Protocol):
    """What has a state."""

    @property
    def state(self) -> State:
        """The state now."""


CHANGES: dict[str, Change] = {}
"""Every change there is, in the order of the source."""

S = TypeVar("S", bound=Standing)


def change(
    *sources: State, to: State | tuple[State, ...], durable: bool = True
) -> Callable[[Callable[Concatenate[S, P], None]], Callable[Concatenate[S, P], None]]:
    """Register a method as a change of state, assert its sources and targets, and put fail points around a durable one."""
    targets = (to,) if isinstance(to, State) else to

    def decorate(method: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
        name = method.__name__
        meaning = (method.__doc__ or "").strip().split("\n", 1)[0]
        CHANGES[name] = Change(name, sources, targets, meaning, durable)

        @functools.wraps(method)
        def checked(self: S, *args: P.args, **kwargs: P.kwargs) -> None:
            if self.state not in sources:
                raise WrongStateError(f"{name} in state {self.state.value}")
            if durable:
                failpoint.reach(f"{name}.before")
            method(self, *args, **kwargs)
            if durable:
                failpoint.reach(f"{name}.after")
            if self.state not in targets:
                raise WrongStateError(f"{name} led to {self.state.value}")

        return cast("Callable[Concatenate[S, P], None]", checked)

    return decorate


def fail_points() -> tuple[str, ...]:
    """Every point at which a test can let the agent die: three in each durable change, and those around the acts."""
    moments = ("before", "written", "after")
    durable = [item.name for item in CHANGES.values() if item.durable]
    return tuple(f"{name}.{moment}" for name in durable for moment in moments) + failpoint.ACTS


def standing(
    *, supported: bool | None, oopsed: bool, suspect: bool, quarantined: bool, held: bool, loaded: bool
) -> State:
    """Where a host stands while no intent is open.

    Args:
        supported: whether the repository has levels for the running kernel build; None if that is not known.
        oopsed: the kernel has reported an oops; nothing more is done to it on this boot.
        suspect: the level in force is itself in quarantine.
        quarantined: quarantine holds a newer level back.
        held: policy, or a regression, holds a newer level back.
        loaded: a level is in force.
    """
    if oopsed or (supported is False and not loaded):
        return State.DEAD_END
    if suspect or quarantined:
        return State.QUARANTINED
    if held:
        return State.HELD
    return State.STEADY if loaded else State.IDLE


def table() -> str:
    """The table of states for docs/agent.md."""
    lines = ["| change | from | to | meaning |", "|---|---|---|---|"]
    for item in CHANGES.values():
        sources = ", ".join(state.value for state in item.sources)
        targets = ", ".join(state.value for state in item.targets)
        lines.append(f"| `{item.name}`{'' if item.durable else ' (m)'} | {sources} | {targets} | {item.meaning} |")
    return "\n".join(lines)
