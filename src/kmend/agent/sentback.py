"""Going back because the server says so: only from a level that is still being tried, and only if this host's policy allows it.

Everything else that a server might want taken off is refused here, with what it was, so that it can be seen: lowering a steady
host takes a recall, which the publisher signs (DESIGN, section 5).
"""

from __future__ import annotations

from kmend.agent import transitions
from kmend.agent.errors import NotPossibleError
from kmend.agent.quarantine import Cause
from kmend.agent.returning import RETURN, rollback
from kmend.agent.session import Session
from kmend.agent.states import State

TRIED = (State.LOADING, State.TRANSITIONING, State.SOAKING)


def go_back(session: Session, level: int) -> str:
    """Leave a level that is being tried, for the one before, or for none; returns what was done, for people.

    Raises:
        NotPossibleError: it is not that level which is being tried, or policy forbids it; nothing was changed.
        PendingError: it is on its way off.
    """
    intent = session.journal.intent
    if intent is None or intent.level != level or intent.state not in TRIED or intent.boot_id != session.boot_id:
        raise NotPossibleError(
            f"the server wants level {level} taken off, which is not being tried here; nothing was changed",
            hint="what a host runs steadily is only taken off by a person here, or by a recall of its publisher",
        )
    if session.config.policy.server_return != "allow":
        raise NotPossibleError(
            f"the server wants level {level} taken off; this host's policy refuses (policy.server_return)",
            hint="by hand: kmend rollback",
        )
    try:
        done = rollback(session, None, unload_first=False, cause=RETURN)
    except NotPossibleError as problem:
        session.say(problem.message)
    else:
        return f"sent back by the server: level {done.level} is in force instead of level {level}"
    transitions.reverse(session, "sent back by the server while it was being tried", cause=Cause.RETURNED)
    return f"sent back by the server: level {level} is off, and there was none before it"
