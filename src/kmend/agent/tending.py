"""What is done while nobody looks: measures that policy wants for a level that is being tried, and for a transition that hangs.

Called under the lock, after recovery, by whatever stays around: the detached child, or a service.
"""

from __future__ import annotations

from kmend.agent import hooks, transitions
from kmend.agent.health import Measure
from kmend.agent.quarantine import Cause, Entry
from kmend.agent.session import Session
from kmend.agent.states import State

HOOKS_EVENT = "hooks"


def tend(session: Session) -> None:
    """Take the measures that are due.

    Raises:
        SystemProblemError, PendingError: a level could not be taken off again; the next call tries again.
    """
    intent = session.journal.intent
    if intent is None or intent.boot_id != session.boot_id:
        return
    if intent.state in (State.TRANSITIONING, State.SOAKING):
        finding = session.finding()
        if finding.measure is Measure.REVERT:
            cause = Cause.OOPSED if finding.grave else Cause.COMPLAINED
            transitions.reverse(session, finding.message, cause=cause)
            return
    if intent.state is State.SOAKING:
        after_load(session)
    elif transitions.coming(session):
        _give_up(session)


def after_load(session: Session) -> str:
    """Run the administrator's commands for a level that has come into force, once; what failed, empty if nothing did."""
    intent = session.journal.opened
    configured = session.config.hooks
    manifest = session.store.manifest(intent.module)
    done = any((record.intent, record.event) == (intent.id, HOOKS_EVENT) for record in session.history.records()[-50:])
    if not configured.after or manifest is None or done:
        return ""
    failure = hooks.first_failure(configured.after, configured, manifest, intent.cause)
    session.journal.remark(HOOKS_EVENT, failure or "the hooks after the load are content")
    if failure and configured.on_failure == "revert":
        transitions.reverse(session, failure, cause=Cause.COMPLAINED)
    return failure


def _give_up(session: Session) -> None:
    intent, policy = session.journal.opened, session.config.policy
    waited = int(session.clock.uptime()) - intent.moving_since
    if policy.stuck_transition != "revert" or waited < session.config.timing.give_up:
        return
    message = f"its transition was not over after {waited} s"
    hold = Entry(
        build_id=intent.build_id,
        level=intent.level,
        module=intent.module,
        fixes=(),  # no fix is to blame: a later level may be tried
        cause=Cause.STUCK,
        message=message,
        at=session.clock.now(),
        boot_id=session.boot_id,
        intent=intent.id,
    )
    transitions.reverse(session, message, hold=hold)
