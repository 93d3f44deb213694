"""Care for a transition: watch it, help it along with the kernel's fake signal, turn it round. It is never forced.

While tasks are being switched the kernel itself tries again every second, for as long as it takes
(`kernel/livepatch/transition.c`, `klp_transition_work_fn`), and since Linux 5.1 it sends the fake signal by itself every 15 s
(commit 0b3d52790e1c), which is why `signal` is gone from sysfs there; older kernels are asked for it. Writing 0 to `enabled`
meanwhile turns the transition round (`klp_reverse_transition`): the task that holds it up has not been switched, so that it
does not hold up the way back.
"""

from __future__ import annotations

from kmend.agent import failpoint
from kmend.agent.errors import PendingError
from kmend.agent.livekernel import BlockingTask, Switching
from kmend.agent.quarantine import Cause, Entry
from kmend.agent.session import Session
from kmend.agent.states import State
from kmend.core.errors import KmendError

_FIRST_POLL = 0.02
_LAST_POLL = 0.5
_TELL_AFTER = 5.0
_TELL_EVERY = 15.0


def wait(session: Session, module: str, *, goal: int) -> tuple[BlockingTask, ...] | None:
    """Wait for a livepatch to reach `goal` (1 enabled, 0 gone); None once it did, else the tasks that hold it up."""
    start = session.clock.uptime()
    pause, tell, signal = _FIRST_POLL, _TELL_AFTER, float(session.config.timing.signal)
    while True:
        patch = session.kernel.view().patch(module)
        # A livepatch that was taken off is freed by a work item a moment after its transition (klp_free_patch_async).
        if patch is None or (goal == 1 and not patch.transition):
            return None
        waited = session.clock.uptime() - start
        if waited >= session.config.timing.transition:
            return session.kernel.switching(goal=goal).blocking
        if waited >= signal:
            session.kernel.send_signal(module)
            signal += session.config.timing.signal or float(_TELL_EVERY)
        if waited >= tell:
            session.say(progress(session.kernel.switching(goal=goal)))
            session.announce()
            tell += _TELL_EVERY
        session.clock.sleep(pause)
        pause = min(pause * 1.5, _LAST_POLL)


def progress(switching: Switching) -> str:
    """How far a transition is, for people."""
    return f"{switching.tasks - switching.left} of {switching.tasks} tasks are switched; waiting for {names(switching.blocking)}"


def names(tasks: tuple[BlockingTask, ...]) -> str:
    """Tasks in words, the first few."""
    if not tasks:
        return "no task that can be seen"
    shown = ", ".join(f"{task.name} ({task.task})" for task in tasks[:5])
    return shown + (f" and {len(tasks) - 5} more" if len(tasks) > 5 else "")


def reverse(session: Session, message: str, *, cause: Cause | None = None, hold: Entry | None = None) -> float:
    """Take off a level that is coming, or that soaks; what it was about to replace stays in force. Returns the seconds.

    Args:
        message: why, for the record.
        cause: puts the level into quarantine.
        hold: the entry of a person who asked for it.

    Raises:
        SystemProblemError: the kernel does not; the level goes on as it was.
        PendingError: that is not over within the configured time either.
    """
    intent = session.journal.opened
    start = session.clock.uptime()
    session.journal.begin_reverting(message, cause=cause, hold=hold)
    failpoint.reach("reverse.before")
    try:
        session.kernel.disable(intent.module)
    except KmendError:
        session.journal.resume_transition()
        raise
    failpoint.reach("reverse.after")
    blocking = wait(session, intent.module, goal=0)
    if blocking is not None:
        raise PendingError(
            f"level {intent.level} is not off again after {session.config.timing.transition} s",
            hint=f"the kernel goes on with it; held up by {names(blocking)}. Look again with kmend status",
        )
    session.journal.finish_disabling()
    session.residents()
    return round(session.clock.uptime() - start, 3)


def coming(session: Session) -> bool:
    """Whether a level of ours is on its way in, so that it can be turned round."""
    intent = session.journal.intent
    if intent is None or intent.state is not State.TRANSITIONING:
        return False
    patch = session.kernel.view().patch(intent.module)
    return patch is not None and patch.enabled and patch.transition
