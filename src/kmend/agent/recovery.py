"""What an open intent means when a command starts and finds one. Pure; `kmend.agent.session` carries it out."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kmend.agent.journal import Intent
from kmend.agent.livekernel import View
from kmend.agent.states import State

TAINT_DIE = 1 << 7
"""The kernel has died once since boot: an oops or BUG (`include/linux/panic.h`, TAINT_DIE)."""


class Action(enum.Enum):
    """What to do with the open intent."""

    KEEP = "keep"
    LAPSE = "lapse"
    CONDEMN_CRASHED = "condemn-crashed"
    CONDEMN_OOPSED = "condemn-oopsed"
    CONCLUDE_NOTHING = "conclude-nothing"
    ADOPT_TRANSITION = "adopt-transition"
    ADOPT_FINISHED = "adopt-finished"
    ADOPT_DISABLED = "adopt-disabled"
    RESUME = "resume"
    SETTLE = "settle"


@dataclass(frozen=True, slots=True)
class Recovery:
    """The decision.

    Attributes:
        message: its reason, for people.
        undone: the act never happened, so a hold that was written for it goes away again.
    """

    action: Action
    message: str = ""
    undone: bool = False


KEEP = Recovery(Action.KEEP)


def decide(intent: Intent, view: View, *, uptime: float, tainted: int, clean_shutdown: str) -> Recovery:
    """Decide from what is on disk and what the kernel shows.

    Args:
        view: the kernel now.
        uptime: seconds since boot.
        tainted: the kernel's taint flags now.
        clean_shutdown: the boot ID that last recorded a clean shutdown, empty if none did.
    """
    if intent.boot_id != view.boot_id:
        return _after_reboot(intent, clean=clean_shutdown == intent.boot_id)
    if intent.state is State.REVERTING:
        return _same_boot_reverting(intent, view)
    if intent.state is State.ARMED:
        return Recovery(Action.LAPSE, f"the agent was killed before it touched level {intent.level}", undone=True)
    return _same_boot_loading(intent, view, uptime, tainted)


def _after_reboot(intent: Intent, *, clean: bool) -> Recovery:
    level = intent.level
    if intent.state is State.ARMED:
        return Recovery(Action.LAPSE, f"the host restarted before level {level} was touched", undone=True)
    if intent.state is State.REVERTING and intent.action == "unload":
        return Recovery(
            Action.LAPSE, f"the host restarted while level {level} was being taken off; the restart took it off"
        )
    if clean:
        return Recovery(
            Action.CONCLUDE_NOTHING,
            f"the host was shut down while level {level} was {_doing(intent)}; that proves nothing",
        )
    return Recovery(
        Action.CONDEMN_CRASHED,
        f"the host went down without a clean shutdown while level {level} was {_doing(intent)}",
    )


def _doing(intent: Intent) -> str:
    words = {
        State.LOADING: "being loaded",
        State.TRANSITIONING: "in transition",
        State.REVERTING: "being taken off again",
    }
    return words.get(intent.state, "soaking")


def _same_boot_reverting(intent: Intent, view: View) -> Recovery:
    patch = view.patch(intent.module)
    if patch is None:
        return Recovery(Action.ADOPT_DISABLED, f"level {intent.level} went off after its command had ended")
    if patch.enabled and intent.action == "load":
        return Recovery(Action.RESUME, f"the agent was killed before level {intent.level} was taken off again")
    if patch.enabled:
        return Recovery(
            Action.LAPSE,
            f"the agent was killed before level {intent.level} was taken off; it is still in force",
            undone=True,
        )
    return KEEP


def _same_boot_loading(intent: Intent, view: View, uptime: float, tainted: int) -> Recovery:
    patch = view.patch(intent.module)
    if patch is None:
        if intent.state is State.LOADING:
            message = f"the agent was killed while it loaded level {intent.level}; the kernel does not have it"
            return Recovery(Action.LAPSE, message, undone=True)
        return Recovery(Action.LAPSE, f"level {intent.level} was taken off or replaced by somebody else")
    if tainted & TAINT_DIE and not intent.tainted & TAINT_DIE:
        return Recovery(Action.CONDEMN_OOPSED, f"the kernel reported an oops after level {intent.level} was loaded")
    if intent.state is State.SOAKING:
        return Recovery(Action.SETTLE) if uptime >= intent.soak_until else KEEP
    if not patch.enabled:
        return Recovery(Action.LAPSE, f"level {intent.level} is being taken off by somebody else")
    if not patch.transition:
        return Recovery(Action.ADOPT_FINISHED, f"level {intent.level} came into force after its command had ended")
    if intent.state is State.LOADING:
        return Recovery(Action.ADOPT_TRANSITION, f"level {intent.level} was loaded by a command that was then killed")
    return KEEP
