"""Hand a verified level to the kernel: preflight, intent, load, watch the transition, confirm."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from kmend.agent import (
    checking,
    examination,
    failpoint,
    health,
    hooks,
    kernellog,
    preflight,
    render,
    stopping,
    tending,
    tidying,
    transitions,
)
from kmend.agent.choice import Obstacle
from kmend.agent.errors import (
    BlockedError,
    PendingError,
    PreflightError,
    RefusedByKernelError,
    StoppedError,
    TerminatedError,
    UnconfirmedError,
)
from kmend.agent.quarantine import Entry
from kmend.agent.session import Session
from kmend.agent.states import State
from kmend.core.errors import MalformedError, SystemProblemError
from kmend.core.manifest import Manifest, sha256_hex
from kmend.trust import module_signature
from kmend.trust.errors import MismatchError
from kmend.trust.signer import signer_of

_KERNEL_SAYS = {
    errno.EACCES: (
        "a security module does not let this process load modules",
        "see its log (ausearch -m avc for SELinux), and kmend preflight",
    ),
    errno.EPERM: (
        "the kernel does not let this process load modules",
        "see what confines it: SystemCallFilter and ProtectKernelModules of its service, or a security module",
    ),
    errno.EBADMSG: ("the kernel cannot read the module's signature", "ask the publisher to sign it again"),
    errno.EBUSY: (
        "a transition is pending, or another tracer holds one of the functions",
        "wait for the transition to end (kmend status), and look for kprobes or BPF programs on patched functions",
    ),
    errno.EEXIST: (
        "a module of that name is resident",
        "it can be loaded again after it was removed, or after a reboot",
    ),
    errno.EINVAL: (
        "the kernel finds the livepatch not compatible with what is loaded, or with itself",
        "see the kernel's log; going back, kmend rollback --unload-first may help",
    ),
    errno.ENOENT: ("a symbol that the livepatch needs is not in this kernel", "see the kernel's log"),
    errno.ENOEXEC: ("the module is not of the form that this kernel loads", "see the kernel's log"),
    errno.ENOMEM: ("the kernel has no memory for the module", "free some and try again"),
}


_SIGNATURE_SAYS = {
    # What kernel/module/signing.c (module_sig_check) answers to a signature that does not satisfy it.
    errno.EPERM: "this kernel is locked down (Secure Boot), and does not trust the module's signature",
    errno.EKEYREJECTED: "the kernel rejects the module's signature",
    errno.ENOKEY: "the kernel has no key for the module's signature",
}


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply did.

    Attributes:
        seconds: from the system call to the end of the transition.
        replaced: modules that were active before.
    """

    level: int
    module: str
    cves: tuple[str, ...]
    seconds: float
    replaced: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """What `update` did: a level applied, or none and why.

    Attributes:
        level: the level in force afterwards, 0 if none.
        recalled: what was loaded before was recalled, and has been taken off.
    """

    level: int
    applied: Applied | None
    message: str
    recalled: bool = False


def update(session: Session, level: int | None) -> Update:
    """Load the newest level that this host may load, or the one that a person names.

    Raises:
        TrustError: the repository is not reachable or not trustworthy.
        NotSupportedError, BlockedError, PreflightError: nothing was changed.
        RefusedByKernelError: the kernel did not take it.
        PendingError: it is loaded, its transition goes on.
    """
    refuse_if_stopped(session)
    check_host(session)
    try:
        finish_pending(session)
    except PendingError as problem:
        stuck: PendingError | None = problem
    else:
        stuck = None
    session.journal.begin_check()
    with checking.recorded(session), checking.opened(session) as repository:
        answer, records = checking.find(session, repository)
        chosen = answer.manifest if level is None else checking.named(session, repository, level)
        view = session.kernel.view()
        if stuck is not None and (chosen is None or chosen.level <= session.journal.opened.level):
            raise stuck
        if chosen is None or (view.current is not None and view.current.name == chosen.module.name):
            return _nothing_to_do(session, answer.obstacles)
        session.journal.begin_fetch()
        kept = session.store.module(chosen)
        module = kept[0] if kept is not None else repository.module(records[chosen.level])
        signature = repository.signature(chosen.module.sha256, session.config.repository.signer)
    session.journal.accept()
    failpoint.reach("fetched")
    session.say(f"level {chosen.level}: {_closes(chosen)}")
    if stuck is not None:
        session.journal.come_to_rest(State.IDLE)
        old = session.journal.opened.level
        session.say(f"level {old} is still in transition: it is taken off again, then level {chosen.level} is loaded")
        transitions.reverse(session, f"level {chosen.level} came while level {old} was in transition")
    _let_its_module_go(session, chosen, module, signature)
    applied = apply(session, chosen, module, signature, cause="update")
    if level is not None:
        # A person named it, and it went in: what was held against it is answered.
        session.quarantine.clear(chosen.module.name)
    return Update(chosen.level, applied, f"level {chosen.level} is in force")


def check_host(session: Session) -> None:
    """Refuse early what no level could change.

    Raises:
        PreflightError: this host must not touch its kernel.
    """
    _refuse(preflight.host_refusals(session.facts(), session.config.policy))


def refuse_if_stopped(session: Session) -> None:
    """Refuse to load anything while the administrator says so.

    Raises:
        StoppedError: nothing was changed.
    """
    found = stopping.stop(session.paths)
    if found is not None:
        raise StoppedError(
            f"nothing is loaded: {found.source}",
            hint="what is loaded stays in force, and kmend unload takes it off; remove the parameter or the file to go on",
        )


def finish_pending(session: Session) -> None:
    """Watch a transition that an earlier command left, so that the next step can be taken.

    Raises:
        PendingError: it is still not over.
        UnconfirmedError: it is over, and wrong.
    """
    if session.journal.state is State.TRANSITIONING:
        session.say(f"level {session.journal.opened.level} is still in transition")
        watch_transition(session)


def apply(
    session: Session, manifest: Manifest, module: bytes, signature: bytes, *, cause: str, hold: Entry | None = None
) -> Applied:
    """Load a level whose parts were verified, and see its transition through.

    Args:
        module: unsigned.
        signature: the kernel's detached signature, empty for none.
        cause: the command that wants it.
        hold: goes into quarantine with the intent, and out again if the level is not loaded after all.

    Raises:
        PreflightError, RefusedByKernelError: the kernel runs what it ran before.
        PendingError: loaded, the transition goes on.
        UnconfirmedError: loaded, and the kernel shows something else than the manifest says.
    """
    session.journal.begin_preflight()
    view = session.kernel.view()
    refuse_if_stopped(session)
    examined = examination.examine(session, manifest, signed=bool(signature))
    for finding in examined.findings:
        if not finding.fatal and not finding.code.endswith("-unknown"):
            session.say(finding.message)
    _refuse(tuple(finding for finding in examined.findings if finding.fatal))
    if sha256_hex(module) != manifest.module.sha256:
        raise MismatchError(f"the module of level {manifest.level} is not the one that its manifest names")
    joined = module_signature.join(module, signature) if signature else module
    digest = sha256_hex(joined)
    failure = hooks.first_failure(session.config.hooks.before, session.config.hooks, manifest, cause)
    if failure:
        raise PreflightError(failure, hint="the level is loaded when every command of [hooks] before succeeds")
    refuse_if_stopped(session)
    session.store.keep(manifest, module, signature)
    loaded = session.loaded(view)
    if session.journal.open_state is State.SOAKING:
        session.journal.supersede()
    session.journal.arm(
        action="load",
        cause=cause,
        build_id=manifest.kernel.build_id,
        level=manifest.level,
        module=manifest.module.name,
        sha256=manifest.module.sha256,
        fixes=tuple(fix.digest for fix in manifest.fixes),
        suspects=session.suspects(manifest, loaded),
        cves=manifest.cves,
        replaces=tuple(patch.name for patch in view.patches),
        tainted=preflight.tainted(session.kernel),
        log=kernellog.newest(session.paths.log),
        vitals=health.vitals(session.paths),
        intent_id=hold.intent if hold is not None else "",
    )
    if hold is not None:
        place_hold(session, hold)
    start = session.clock.uptime()
    try:
        _load(session, manifest, joined, digest, signature)
        watch_transition(session)
    except (TerminatedError, KeyboardInterrupt):
        if session.journal.intent is not None:
            session.journal.conclude_nothing("the agent was asked to stop")
        raise
    replaced = tuple(patch.name for patch in view.patches)
    tidying.tidy(session)
    return Applied(
        manifest.level, manifest.module.name, manifest.cves, round(session.clock.uptime() - start, 3), replaced
    )


def place_hold(session: Session, hold: Entry) -> None:
    """Store a hold durably."""
    failpoint.reach("hold.before")
    session.quarantine.add(hold)
    failpoint.reach("hold.after")


def watch_transition(session: Session) -> None:
    """Wait for the open intent's transition to end, then confirm it.

    Raises:
        PendingError: not within the configured time; the kernel goes on with it.
        UnconfirmedError: it ended, but the kernel shows something else than the manifest says; the level is in quarantine.
    """
    intent = session.journal.opened
    blocking = transitions.wait(session, intent.module, goal=1)
    if blocking is not None:
        raise PendingError(
            f"level {intent.level} is loaded, and its transition is not over after {session.config.timing.transition} s",
            hint=f"the kernel goes on with it; held up by {transitions.names(blocking)}. Look again with kmend status",
        )
    problem = session.confirm()
    if problem:
        raise UnconfirmedError(
            f"{problem}; level {intent.level} is in quarantine and still loaded", hint="take it off with kmend unload"
        )
    session.residents()
    failure = tending.after_load(session)
    if failure and session.journal.intent is None:
        raise UnconfirmedError(
            f"{failure}; level {intent.level} was taken off again and is in quarantine",
            hint="policy hooks.on_failure wants it so; kmend quarantine clear lifts it",
        )
    if failure:
        session.say(f"level {intent.level} is in force, but {failure}")


def wait_until_gone(session: Session, module: str) -> None:
    """Wait, for somewhat longer than the delay, until a module out of use is removed; it may still be there afterwards."""
    deadline = session.clock.uptime() + session.config.timing.remove_after + 10
    while session.clock.uptime() < deadline:
        session.remove_due()
        if session.kernel.view().module(module) is None:
            return
        session.clock.sleep(0.5)


def _let_its_module_go(session: Session, manifest: Manifest, module: bytes, signature: bytes) -> None:
    """Wait until a level's own module, which lingers from before, is removed: a resident one cannot be loaded again."""
    name = manifest.module.name
    if name not in session.kernel.view().idle_modules or manifest.pinned:
        return
    # Whether it may be removed stands in the manifest that is kept.
    session.store.keep(manifest, module, signature)
    session.say(f"module {name} is still resident from before; once it is removed it can be loaded again")
    wait_until_gone(session, name)


def _load(session: Session, manifest: Manifest, joined: bytes, digest: str, signature: bytes) -> None:
    session.journal.begin_loading()
    failpoint.reach("finit.before")
    try:
        session.host.loader().load(joined, digest)
    except OSError as problem:
        says, hint = _kernel_says(session, problem.errno or 0, signature)
        code = errno.errorcode.get(problem.errno or 0, str(problem.errno))
        message = f"level {manifest.level} was not loaded: {says} ({code})"
        session.journal.refuse(message)
        raise RefusedByKernelError(message, hint=hint) from problem
    except SystemProblemError as problem:
        session.journal.refuse(problem.message)
        raise
    failpoint.reach("finit.after")
    session.journal.begin_transition()


def _kernel_says(session: Session, number: int, signature: bytes) -> tuple[str, str]:
    """What the kernel's answer means, and what to do.

    EPERM has two meanings, and preflight has excluded the other one: this process may load modules.
    """
    about_signature = number in _SIGNATURE_SAYS and (number != errno.EPERM or session.facts().signatures_enforced)
    if not about_signature:
        return _KERNEL_SAYS.get(number, ("the kernel refuses the module", "see the kernel's log"))
    try:
        signer = signer_of(signature)
    except MalformedError:
        return _SIGNATURE_SAYS[number], "the signature cannot be read: have the module signed again"
    hint = (
        "enrol that certificate as a machine owner key (mokutil --import, then restart) or in the firmware's db, "
        "or set repository.signer to a signer whose certificate is enrolled; the kernel's log may say more"
    )
    return (
        f"{_SIGNATURE_SAYS[number]}, which is by the certificate {signer.name!r} with serial number {signer.serial}",
        hint,
    )


def _refuse(refusals: tuple[preflight.Refusal, ...]) -> None:
    if refusals:
        raise PreflightError(
            "; ".join(refusal.message for refusal in refusals),
            hint="; ".join(refusal.hint for refusal in refusals if refusal.hint),
        )


def _nothing_to_do(session: Session, obstacles: tuple[Obstacle, ...]) -> Update:
    current = session.kernel.view().current
    loaded = session.loaded(session.kernel.view())
    level = loaded.level if loaded is not None else 0
    if obstacles:
        first = obstacles[0]
        if first.by_server_alone:
            here = f"level {level} is in force" if level else "no level is in force"
            return Update(level, None, f"{here}, and level {first.level} waits: {first.reason}")
        raise BlockedError(
            f"level {first.level} is not loaded by itself: {render.held_back(first, session.clock.now())}"
            + (f"; withheld with it: {', '.join(first.cves)}" if first.cves else ""),
            hint="its publisher takes a recall back, or publishes a level that clears it"
            if first.recalled
            else f"to load it all the same: kmend update --level {first.level}"
            + ("; to lift the quarantine: kmend quarantine clear" if first.quarantined else ""),
        )
    if current is None:
        return Update(0, None, "the repository has no level for this kernel build yet")
    return Update(level, None, f"level {level} is the newest and in force")


def _closes(manifest: Manifest) -> str:
    return ", ".join(manifest.cves) or "; ".join(fix.title for fix in manifest.fixes)
