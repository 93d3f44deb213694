"""Obeying a recall that says `revert`: the level that is loaded goes, to one that is not recalled, or to none."""

from __future__ import annotations

from kmend.agent import recalled, transitions
from kmend.agent.applying import Update, update
from kmend.agent.errors import BlockedError, NotPossibleError
from kmend.agent.returning import rollback, unload
from kmend.agent.session import Session
from kmend.agent.states import UNDER_WAY, State
from kmend.core.manifest import Manifest, missing_fixes
from kmend.core.recall import Extent


def update_obeying(session: Session, level: int | None) -> Update:
    """`update`, and then what a recall wants of the level that is loaded.

    Raises:
        KmendError: as `update`, or the recalled level could not be taken off.
    """
    outcome: Update | BlockedError
    try:
        outcome = update(session, level)
    except BlockedError as problem:
        outcome = problem
    if session.journal.state in UNDER_WAY:
        session.journal.come_to_rest(State.IDLE)
    if level is None and (done := obey(session)):
        current = session.loaded(session.kernel.view())
        return Update(current.level if current is not None else 0, None, done)
    if isinstance(outcome, BlockedError):
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
            rollback(session, target.level, unload_first=False)
        except NotPossibleError as problem:
            session.say(problem.message)
        else:
            session.quarantine.clear(loaded.module.name)  # the recall holds it back from now on
            return f"level {loaded.level} is recalled; level {target.level} is in force"
    unload(session, wait=False)
    session.quarantine.clear(loaded.module.name)
    return f"level {loaded.level} is recalled, and was taken off"


def _target(session: Session, loaded: Manifest) -> Manifest | None:
    """The newest earlier level on this host that loses nothing but what is recalled; None if there is none."""
    recalls = recalled.known(session)
    entries = session.quarantine.entries()
    held = {entry.module for entry in entries}
    for manifest in sorted(session.store.manifests(session.running.build_id), key=lambda item: -item.level):
        if (
            manifest.level < loaded.level
            and manifest.module.name not in held
            and recalls.of(manifest) is None
            and missing_fixes(loaded, manifest) <= recalls.fixes
            and session.store.module(manifest) is not None
        ):
            return manifest
    return None
