"""The ways back: `rollback` to an earlier level, and `unload`. Both leave a hold, so that no update goes forward by itself."""

from __future__ import annotations

from dataclasses import dataclass

from kmend.agent import checking, choice, failpoint, recalled, transitions
from kmend.agent.applying import (
    Applied,
    apply,
    check_host,
    finish_pending,
    place_hold,
    refuse_if_stopped,
    wait_until_gone,
)
from kmend.agent.choice import RollbackPlan, Way
from kmend.agent.errors import NotPossibleError, PendingError, TerminatedError
from kmend.agent.journal import new_id
from kmend.agent.preflight import pending_refusal, tainted
from kmend.agent.quarantine import Cause, Entry
from kmend.agent.session import Session
from kmend.agent.states import State
from kmend.core.errors import KmendError
from kmend.core.manifest import Manifest

RECALL = "recall"
"""The cause of who goes back because the publisher says so."""
RETURN = Cause.RETURNED.value
"""The cause of who goes back because the server that leads it says so."""


@dataclass(frozen=True, slots=True)
class Unloaded:
    """What `unload` did.

    Attributes:
        reopened: CVEs that are open again.
        seconds: until the livepatch was off.
        resident: the module stays in memory on this boot.
    """

    level: int
    module: str
    reopened: tuple[str, ...]
    seconds: float
    resident: bool


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What `rollback` did.

    Attributes:
        way: `replace`, `unload-then-load`, or `reverse` where the level that is left was still coming.
        unprotected_seconds: for how long no fix was in force; 0 when it was replaced.
    """

    left: int
    level: int
    way: str
    reopened: tuple[str, ...]
    unprotected_seconds: float
    applied: Applied


def rollback(session: Session, to: int | None, *, unload_first: bool, cause: str = "rollback") -> RolledBack:
    """Go back to an earlier level.

    Args:
        to: the level; None for the one that was replaced.
        unload_first: take the loaded level off before, where the kernel refuses to replace it.
        cause: for the record; `recall` leaves nothing in quarantine, since the recall itself holds the level back; `returned`
            is the server's doing.

    Raises:
        NotPossibleError: there is no such way on this boot.
        PreflightError, RefusedByKernelError, PendingError: as for `update`.
    """
    check_host(session)
    if transitions.coming(session):  # takes something off only, which no stop forbids
        return _turn_round(session, to, cause)
    refuse_if_stopped(session)
    _refuse_while_moving(session)
    loaded = _loaded(session)
    target, module, signature = _target(session, loaded, to)
    if why := recalled.reason(recalled.known(session), target):
        raise NotPossibleError(
            f"level {target.level} is not loaded any more: {why}", hint="kmend unload takes off what is loaded"
        )
    # Kept before the plan is made: whether its module may be removed and loaded again stands in its manifest.
    session.store.keep(target, module, signature)
    plan = choice.plan_rollback(
        loaded=loaded,
        target=target,
        view=session.kernel.view(),
        residents=session.residents(),
        uptime=session.clock.uptime(),
        delay=session.config.timing.remove_after,
        pinned=session.pinned,
        unload_first=unload_first,
    )
    if plan.way is Way.NOT_ON_THIS_BOOT:
        raise NotPossibleError(
            f"going back to level {target.level} is not possible on this boot: {plan.reason}",
            hint=f"reboot and run kmend update --level {target.level}, or go on to a newer level",
        )
    session.say(f"{loaded.level} -> {target.level}: {plan.reason}")
    session.say(f"open again: {', '.join(plan.reopens) or 'no CVE by name'}")
    _wait_for_removal(session, plan)
    hold = (
        _hold(session, loaded, target, Cause(cause) if cause == RETURN else Cause.ROLLED_BACK)
        if cause != RECALL
        else None
    )
    gap_from = session.clock.uptime()
    if plan.way is Way.UNLOAD_THEN_LOAD:
        _take_off(session, loaded, cause=cause, hold=hold)
        applied = apply(session, target, module, signature, cause=cause)
    else:
        applied = apply(session, target, module, signature, cause=cause, hold=hold)
    gap = session.clock.uptime() - gap_from if plan.way is Way.UNLOAD_THEN_LOAD else 0.0
    return RolledBack(loaded.level, target.level, plan.way.value, plan.reopens, round(gap, 3), applied)


def unload(session: Session, *, wait: bool, cause: str = "unload") -> Unloaded:
    """Take the livepatch off, and remove its module once that is safe.

    Args:
        cause: as for `rollback`.
        wait: stay until the module is removed; else the detached child does it.

    Raises:
        NotPossibleError: no level is loaded.
        PendingError: the transition is not over in time; the kernel goes on with it.
    """
    check_host(session)
    if transitions.coming(session):
        return _unload_coming(session)
    _refuse_while_moving(session)
    loaded = _loaded(session)
    reopened = choice.reopened(loaded, None)
    session.say(f"taking level {loaded.level} off; open again: {', '.join(reopened) or 'no CVE by name'}")
    hold = _hold(session, loaded, None, Cause.UNLOADED) if cause != RECALL else None
    seconds = _take_off(session, loaded, cause=cause, hold=hold)
    name = loaded.module.name
    if session.pinned(name):
        session.say(f"module {name} stays resident until reboot: {'; '.join(loaded.pinned)}")
    elif wait:
        session.say(
            f"module {name} is removed in {session.config.timing.remove_after} s, when no task can return into it"
        )
        wait_until_gone(session, name)
    resident = session.kernel.view().module(name) is not None
    return Unloaded(loaded.level, name, reopened, seconds, resident)


def _turn_round(session: Session, to: int | None, cause: str) -> RolledBack:
    """Go back while the level that is left is still coming: the one before is still there, and stays."""
    left = _loaded(session)
    view = session.kernel.view()
    before = [patch.name for patch in view.ours if patch.name != left.module.name]
    target = session.store.manifest(before[0]) if before else None
    if target is None:
        raise NotPossibleError(
            f"level {left.level} is still coming, and there is no level before it in force",
            hint="to take it off again: kmend unload",
        )
    if to not in (None, target.level):
        raise NotPossibleError(
            f"level {left.level} is still coming; the way back leads to level {target.level} only",
            hint=f"kmend rollback, and then on to level {to}",
        )
    session.say(f"level {left.level} is turned round on its way; level {target.level} was never off")
    hold = _hold(session, left, target, Cause.RETURNED if cause == RETURN else Cause.ROLLED_BACK)
    seconds = transitions.reverse(session, f"{hold.message}, while it was coming", hold=hold)
    applied = Applied(target.level, target.module.name, target.cves, seconds, (left.module.name,))
    return RolledBack(left.level, target.level, "reverse", choice.reopened(left, target), 0.0, applied)


def _unload_coming(session: Session) -> Unloaded:
    """Take off a level that is still coming; one that it was about to replace stays in force and is then unloaded too."""
    left = _loaded(session)
    session.say(f"level {left.level} is turned round on its way")
    seconds = transitions.reverse(
        session, "unloaded by a person while it was coming", hold=_hold(session, left, None, Cause.UNLOADED)
    )
    before = session.loaded(session.kernel.view())
    if before is not None:
        seconds += _take_off(session, before, cause="unload", hold=_hold(session, before, None, Cause.UNLOADED))
    resident = session.kernel.view().module(left.module.name) is not None
    return Unloaded(left.level, left.module.name, choice.reopened(left, None), round(seconds, 3), resident)


def _loaded(session: Session) -> Manifest:
    current = session.kernel.view().current
    if current is None:
        raise NotPossibleError("no livepatch of kmend is loaded")
    loaded = session.loaded(session.kernel.view())
    if loaded is None:
        raise NotPossibleError(
            f"{current.name} is loaded, but its manifest is not on this host",
            hint="kmend check fetches what the repository knows; else reboot",
        )
    return loaded


def _refuse_while_moving(session: Session) -> None:
    finish_pending(session)
    refusal = pending_refusal(session.kernel.view())
    if refusal is not None:
        raise PendingError(refusal.message, hint=refusal.hint)


def _target(session: Session, loaded: Manifest, to: int | None) -> tuple[Manifest, bytes, bytes]:
    """The level to go back to, verified: from this host if it is kept here, else from the repository."""
    number = to if to is not None else _previous(session, loaded)
    if number is not None and number >= loaded.level:
        raise NotPossibleError(
            f"level {number} is not older than level {loaded.level}, which is in force",
            hint=f"kmend update --level {number}" if number > loaded.level else "",
        )
    for manifest in session.store.manifests(session.running.build_id):
        kept = session.store.module(manifest)
        if manifest.level == number and kept is not None:
            return manifest, *kept
    with checking.opened(session) as repository:
        records = {record.level: record for record in checking.levels_of(session, repository).levels}
        if number is None:
            number = max((level for level in records if level < loaded.level), default=None)
        if number is None:
            raise NotPossibleError(
                f"there is no level before level {loaded.level}", hint="to run without any livepatch: kmend unload"
            )
        if number not in records:
            raise NotPossibleError(f"the repository has no level {number} for this kernel build")
        manifest = repository.manifest(session.running.build_id, records[number])
        module = repository.module(records[number])
        return manifest, module, repository.signature(manifest.module.sha256, session.config.repository.signer)


def _previous(session: Session, loaded: Manifest) -> int | None:
    """The level that the loaded one replaced here; None if it replaced none."""
    for record in reversed(session.history.records()):
        if record.module == loaded.module.name and record.event == "begin_soak":
            kept = [session.store.manifest(name) for name in record.replaces]
            older = [manifest.level for manifest in kept if manifest is not None and manifest.level < loaded.level]
            return max(older, default=None)
    return None


def _wait_for_removal(session: Session, plan: RollbackPlan) -> None:
    if not plan.wait_for:
        return
    if plan.wait_seconds:
        session.say(
            f"module {plan.wait_for} of that level is still resident from before; it can be removed in "
            f"{plan.wait_seconds} s, then loaded again"
        )
    wait_until_gone(session, plan.wait_for)
    if session.kernel.view().module(plan.wait_for) is not None:
        raise NotPossibleError(
            f"module {plan.wait_for} cannot be removed, so it cannot be loaded again",
            hint="somebody uses it; see lsmod",
        )


def _take_off(session: Session, loaded: Manifest, *, cause: str, hold: Entry | None) -> float:
    """Disable the loaded livepatch and watch it go; returns the seconds it took."""
    session.journal.begin_preflight()
    if session.journal.open_state is State.SOAKING:
        session.journal.supersede()
    session.journal.arm(
        action="unload",
        cause=cause,
        build_id=loaded.kernel.build_id,
        level=loaded.level,
        module=loaded.module.name,
        sha256=loaded.module.sha256,
        fixes=tuple(fix.digest for fix in loaded.fixes),
        suspects=(),
        cves=loaded.cves,
        replaces=(),
        tainted=tainted(session.kernel),
        intent_id=hold.intent if hold is not None else "",
    )
    start = session.clock.uptime()
    try:
        if hold is not None:
            place_hold(session, hold)
        session.journal.begin_disabling()
        failpoint.reach("disable.before")
        try:
            session.kernel.disable(loaded.module.name)
        except KmendError as problem:
            session.journal.refuse(problem.message)
            raise
        failpoint.reach("disable.after")
        blocking = transitions.wait(session, loaded.module.name, goal=0)
    except (TerminatedError, KeyboardInterrupt):
        if session.journal.intent is not None:
            session.journal.conclude_nothing("the agent was asked to stop")
        raise
    if blocking is not None:
        raise PendingError(
            f"level {loaded.level} is not off after {session.config.timing.transition} s",
            hint=f"the kernel goes on with it; held up by {transitions.names(blocking)}. Look again with kmend status",
        )
    session.journal.finish_disabling()
    session.residents()
    return round(session.clock.uptime() - start, 3)


def _hold(session: Session, left: Manifest, target: Manifest | None, cause: Cause) -> Entry:
    """What keeps `update` from going forward by itself again: the level that is left, and the fixes that go with it."""
    kept = target.fix_digests if target is not None else frozenset()
    words = {
        Cause.ROLLED_BACK: "rolled back by a person",
        Cause.UNLOADED: "unloaded by a person",
        Cause.RETURNED: "sent back by the server while it was being tried",
    }[cause]
    return Entry(
        build_id=left.kernel.build_id,
        level=left.level,
        module=left.module.name,
        fixes=tuple(fix.digest for fix in left.fixes if fix.digest not in kept),
        cause=cause,
        message=words,
        at=session.clock.now(),
        boot_id=session.boot_id,
        intent=new_id(),
    )
