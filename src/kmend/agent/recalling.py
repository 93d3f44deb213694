"""Obeying a recall that says `revert`: the level that is loaded goes, to one that is not recalled, or to none."""

from __future__ import annotations

from kmend.agent import recalled, transitions
from kmend.agent.applying import Update, update
from kmend.agent.errors import AgentError, BusyError, ConfigError, NotPossibleError, StoppedError, TerminatedError
from kmend.agent.quarantine import blocking
from kmend.agent.returning import RECALL, rollback, unload
from kmend.agent.session import Session
from kmend.agent.states import UNDER_WAY, State
from kmend.core.manifest import Manifest
from kmend.core.recall import Extent

_STOPS = (TerminatedError, BusyError, StoppedError, ConfigError)
"""What keeps a recall from being obeyed too."""


def update_obeying(session: Session, level: int | None) -> Update:
    """`update`, and then what a recall wants of the level that is loaded, whether or not another could be loaded.

    Raises:
        KmendError: as `update`, or the recalled level could not be taken off.
    """
    outcome: Update | AgentError
    try:
        outcome = update(session, level)
    except _STOPS:
        raise
    except AgentError as problem:
        outcome = problem
    if session.journal.state in UNDER_WAY:
        session.journal.come_to_rest(State.IDLE)
    if level is None and (done := obey(session)):
        current = session.loaded(session.kernel.view())
        return Update(current.level if current is not None else 0, None, done, recalled=True)
    if isinstance(outcome, AgentError):
        raise outcome
    return outcome


def obey(session: Session) -> str:
    """Take the loaded level off if that is wanted and there was no better one to load; returns what was done, for people.

    Raises:
        KmendError: it could not be taken off; what is loaded stays, and the next update tries again.
    """
    loaded = session.loaded(session.kernel.view())
    recalls = recalled.known(session)
    if loaded is None or (why := recalled.reason(recalls, loaded, (Extent.REVERT,))) == "":
        return ""
    if session.config.policy.recall != "revert":
        session.say(f"level {loaded.level}: {why}; this host's policy leaves it loaded")
        return ""
    session.say(f"level {loaded.level}: {why}")
    if transitions.coming(session):
        transitions.reverse(session, why)
        return f"level {loaded.level} is recalled, and was turned round on its way"
    target = _target(session, loaded)
    if target is not None:
        try:
            rollback(session, target.level, unload_first=False, cause=RECALL)
        except NotPossibleError as problem:
            session.say(problem.message)
        else:
            return f"level {loaded.level} is recalled; level {target.level} is in force"
    unload(session, wait=False, cause=RECALL)
    return f"level {loaded.level} is recalled, and was taken off"


def _target(session: Session, loaded: Manifest) -> Manifest | None:
    """The newest earlier level on this host that is neither recalled nor in quarantine; None if there is none."""
    recalls, entries = recalled.known(session), session.quarantine.entries()
    for manifest in sorted(session.store.manifests(session.running.build_id), key=lambda item: -item.level):
        if (
            manifest.level < loaded.level
            and recalls.of(manifest) is None
            and not blocking(entries, manifest)
            and session.store.module(manifest) is not None
        ):
            return manifest
    return None
