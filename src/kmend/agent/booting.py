"""`kmend boot`: early at boot, before the network, load again what this host had: a level that came through its soak here.

Everything comes from the record on this host: module, signature and manifest were verified when they were stored, and the
module's digest is compared again. No clock is asked (it may be dead), no repository, no key. What stops it: kmend's own stops
(`kmend.agent.stopping`), quarantine, a recall, a pin in the host's policy, and everything that preflight refuses.
"""

from __future__ import annotations

from dataclasses import dataclass

from kmend.agent import checking, choice, policy, recalled
from kmend.agent.applying import Applied, apply, check_host, refuse_if_stopped
from kmend.agent.errors import PendingError
from kmend.agent.policy import Publication
from kmend.agent.session import Session
from kmend.core.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Booted:
    """What `boot` did.

    Attributes:
        level: the level in force or on its way, 0 if none.
        applied: None if nothing was loaded, or if its transition goes on.
    """

    level: int
    applied: Applied | None
    message: str


def boot(session: Session) -> Booted:
    """Load the newest level that soaked on this host and that nothing holds back.

    Raises:
        StoppedError, PreflightError, RefusedByKernelError: the kernel runs what it ran before.
        UnconfirmedError: loaded, and the kernel shows something else than the manifest says.
    """
    refuse_if_stopped(session)
    current = session.kernel.view().current
    if current is not None:
        return Booted(0, None, f"{current.name} is loaded already")
    chosen, reason = _choose(session)
    if chosen is None:
        return Booted(0, None, reason)
    check_host(session)
    kept = session.store.module(chosen)
    if kept is None:
        return Booted(0, None, f"level {chosen.level} is not kept whole on this host; it is left to the next update")
    session.journal.accept()
    session.say(f"level {chosen.level}, which has run well on this host")
    try:
        applied = apply(session, chosen, *kept, cause="boot")
    except PendingError as problem:
        return Booted(chosen.level, None, problem.message)  # the kernel goes on with it, and the boot with it
    return Booted(chosen.level, applied, f"level {chosen.level} is in force")


def _choose(session: Session) -> tuple[Manifest | None, str]:
    """The level to load and, where there is none, why."""
    soaked = {item.module: item.sha256 for item in session.soaked_levels()}
    candidates = [
        manifest
        for manifest in session.store.manifests(session.running.build_id)
        if soaked.get(manifest.module.name) == manifest.module.sha256
    ]
    if not candidates:
        return None, "no level for this kernel build has come through its soak on this host"
    last = checking.last_check(session)
    known = {publication.level: publication for publication in (last.publications if last is not None else ())}

    def withheld(manifest: Manifest) -> tuple[policy.Withheld, ...]:
        publication = known.get(manifest.level, Publication(manifest.level, 0))
        return policy.pins(session.config.apply, publication)

    answer = choice.choose(
        reversed(candidates), None, session.quarantine.entries(), withheld, recalled.known(session), recalled.AT_BOOT
    )
    if answer.manifest is None:
        return None, f"level {answer.obstacles[0].level} is not loaded: {answer.obstacles[0].reason}"
    return answer.manifest, ""
