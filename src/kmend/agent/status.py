"""What is true of this host now: one document, its exit code, and the files published in `/run/kmend`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kmend import __version__
from kmend.agent import (
    checking,
    conditions,
    effective,
    failpoint,
    handover,
    metrics,
    offers,
    preflight,
    rebooting,
    recalled,
    stopping,
)
from kmend.agent.checking import LevelSummary
from kmend.agent.choice import Obstacle
from kmend.agent.conditions import Condition, Seen
from kmend.agent.livekernel import BlockingTask, RunningKernel, Switching, View, level_of
from kmend.agent.quarantine import Entry
from kmend.agent.rebooting import Reboot
from kmend.agent.recovery import TAINT_DIE
from kmend.agent.session import Session
from kmend.agent.states import TRIED, State, standing
from kmend.core import durable
from kmend.core.document import encode
from kmend.core.errors import KmendError
from kmend.core.manifest import Manifest
from kmend.trust.addresses import shown

NOTED_SECONDS = 7 * 86_400
MAX_NOTES = 5


@dataclass(frozen=True, slots=True)
class FixStatus:
    """A fix in the loaded level."""

    title: str
    digest: str
    cves: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LivepatchStatus:
    """The loaded livepatch.

    Attributes:
        state: `in-force`, `coming`, `leaving`.
        known: its manifest is on this host; without it there are no fixes to name.
        blocking: tasks that hold its transition up, the first of them.
        tasks, left: how many tasks there are, and how many are not switched yet; 0 when no transition is under way.
        moving_seconds: for how long its transition has been under way, as far as that is known.
    """

    level: int
    module: str
    state: str
    known: bool
    pinned: tuple[str, ...]
    functions: int
    fixes: tuple[FixStatus, ...]
    blocking: tuple[BlockingTask, ...]
    tasks: int = 0
    left: int = 0
    moving_seconds: int = 0


@dataclass(frozen=True, slots=True)
class CveStatus:
    """What is true of one CVE on this host: `live-patched`, `pending`, or `blocked` where the kernel has not patched its code."""

    cve: str
    verdict: str


@dataclass(frozen=True, slots=True)
class CheckStatus:
    """The last check.

    Attributes:
        good_at: when the last successful one was, 0 for never.
        kind: of its error, empty if it succeeded.
        stale: the last good one is too long ago.
    """

    at: int
    good_at: int
    kind: str
    message: str
    stale: bool


@dataclass(frozen=True, slots=True)
class Note:
    """Something that happened and that a person should know."""

    at: int
    message: str


@dataclass(frozen=True, slots=True)
class Status:
    """`kmend status --json`; `format` names this form, which only ever gains members.

    Attributes:
        summary: `current`, `update-available`, `blocked`, `pending`, `reboot-needed`, `not-supported`, `error`.
        exit_code: what `--exit-code` ends with.
        state: where the agent stands (`kmend.agent.states`).
        supported: whether the repository has levels for this kernel build; None if that is not known.
        stopped: what keeps kmend from loading anything, empty if nothing does.
        conditions: what is not as it should be, the worst first (`kmend.agent.conditions`).
        reboot: whether a restart is still needed.
        effective_release: `kernel.release` with the level in force (`kmend.agent.effective`).
    """

    generated: int
    agent: str
    summary: str
    exit_code: int
    kernel: RunningKernel
    boot_id: str
    supported: bool | None
    state: str
    livepatch: LivepatchStatus | None
    cves: tuple[CveStatus, ...]
    available: LevelSummary | None
    blocked: tuple[Obstacle, ...]
    quarantine: tuple[Entry, ...]
    other_livepatches: tuple[str, ...]
    resident_modules: tuple[str, ...]
    last_check: CheckStatus | None
    repository: str
    notes: tuple[Note, ...]
    stopped: str = ""
    conditions: tuple[Condition, ...] = ()
    reboot: Reboot | None = None
    effective_release: str = ""
    format: str = "kmend-status/1"


def describe(session: Session, *, repository: str) -> Status:
    """Read everything and say what is true.

    Args:
        repository: the configured URL, for the report.
    """
    view = session.kernel.view()
    now = session.clock.now()
    loaded = session.loaded(view)
    last = checking.last_check(session)
    check = None
    if last is not None:
        stale = now - last.good_at > session.config.timing.stale_after_hours * 3600
        check = CheckStatus(last.at, last.good_at, last.kind, last.message, stale)
    livepatch = _livepatch(session, view, loaded)
    outlook = checking.outlook(session, view, last)
    entries = session.quarantine.entries()
    stopped = stopping.stop(session.paths)
    suspects = {entry.module for entry in entries}
    open_state = session.journal.open_state
    oopsed = bool(preflight.tainted(session.kernel) & TAINT_DIE)
    stands = standing(
        supported=last.supported if last is not None else None,
        oopsed=oopsed,
        suspect=livepatch is not None and livepatch.module in suspects,
        quarantined=any(obstacle.quarantined for obstacle in outlook.obstacles),
        held=any(not obstacle.by_server_alone for obstacle in outlook.obstacles)
        or (stopped is not None and outlook.manifest is not None),
        loaded=livepatch is not None,
    )
    in_force = {entry.module for entry in entries if entry.cause.value == "unconfirmed"}
    said, told = _check_condition(check)
    found = conditions.judge(
        Seen(
            check=said,
            check_message=told,
            unconfirmed=livepatch is not None and livepatch.module in in_force,
            supported=last.supported if last is not None else None,
            oopsed=oopsed,
            moving=view.moving.name if view.moving is not None else "",
            stopped=stopped.source if stopped is not None else "",
            obstacles=outlook.obstacles,
            waiting=outlook.manifest.level if outlook.manifest is not None else None,
            recalled=recalled.reason(recalled.known(session), loaded) if loaded is not None else "",
            refused=_refused(session, loaded),
            frozen=_frozen(session),
        )
    )
    code, word = conditions.summary(found)
    in_force_level = livepatch.level if livepatch is not None and livepatch.state == "in-force" else 0
    return Status(
        generated=now,
        agent=__version__,
        summary=word,
        exit_code=code,
        kernel=session.running,
        boot_id=session.boot_id,
        supported=last.supported if last is not None else None,
        state=(open_state or stands).value,
        livepatch=livepatch,
        cves=_cves(livepatch, loaded.cves_in(view.current.unapplied) if loaded and view.current else frozenset()),
        available=LevelSummary.of(outlook.manifest) if outlook.manifest is not None else None,
        blocked=outlook.obstacles,
        quarantine=entries,
        other_livepatches=view.foreign,
        resident_modules=view.idle_modules,
        last_check=check,
        repository=shown(repository),
        notes=_notes(session, now),
        stopped=stopped.source if stopped is not None else "",
        conditions=found,
        reboot=rebooting.judge(
            rebooting.asked(session.paths), oopsed=oopsed, current=word == "current", level=in_force_level
        ),
        effective_release=effective.effective(session).effective_release,
    )


def publish(session: Session, status: Status) -> None:
    """Write what others read: `/run/kmend/state.json`, `cvelist` (one live-patched CVE a line), and what [publish] asks for.

    Raises:
        SystemProblemError: one could not be written; it is then what it was before.
    """
    failpoint.reach("publish.before")
    run, wanted = session.paths.run, session.config.publish
    durable.write_durably(run / "state.json", encode(status) + b"\n")
    patched = "".join(f"{item.cve}\n" for item in status.cves if item.verdict == "live-patched")
    durable.write_durably(run / "cvelist", patched.encode())
    if wanted.effective_version:
        durable.write_durably(run / "effective_version", f"{status.effective_release}\n".encode())
    elif (run / "effective_version").exists():
        durable.remove_durably(run / "effective_version")
    if wanted.prometheus:
        path = session.paths.root / Path(wanted.prometheus).relative_to("/")
        durable.write_durably(path, metrics.text(status).encode())


def announce(session: Session) -> None:
    """Publish what is true now, while a command is still at work; what cannot be written is said, and stops nothing."""
    try:
        publish(session, describe(session, repository=session.config.repository.url))
    except KmendError as problem:
        session.say(f"cannot publish the state: {problem.message}")


def _refused(session: Session, loaded: Manifest | None) -> int:
    """The loaded level, if the server wants it taken off and it stays all the same."""
    offer = offers.read(session.paths) if session.config.server.url else None
    if offer is None or loaded is None or (offer.build_id, offer.back) != (session.running.build_id, loaded.level):
        return 0
    intent = session.journal.intent
    tried = intent is not None and intent.level == loaded.level and intent.state in (*TRIED, State.REVERTING)
    return 0 if tried and session.config.policy.server_return == "allow" else loaded.level


def _frozen(session: Session) -> bool:
    said = handover.read_fetch(session.paths) if session.config.server.url else None
    return said is not None and said.frozen


def _check_condition(check: CheckStatus | None) -> tuple[str, str]:
    if check is None:
        return "never-checked", "the repository was never asked"
    failed = f"the last check failed: {check.message}" if check.kind else ""
    if check.stale:
        return "stale", "the last good check is too long ago" + (f"; {failed}" if failed else "")
    if failed:
        return "check-failed", failed
    return "", ""


def _livepatch(session: Session, view: View, loaded: Manifest | None) -> LivepatchStatus | None:
    current = view.current
    if current is None:
        return None
    state = "in-force"
    switching, moving = Switching(0, 0, ()), 0
    if current.transition or not current.enabled:
        state = "coming" if current.enabled else "leaving"
        switching = session.kernel.switching(goal=1 if current.enabled else 0)
        intent = session.journal.intent
        if intent is not None and intent.module == current.name and intent.moving_since:
            moving = max(0, int(session.clock.uptime()) - intent.moving_since)
    fixes = loaded.fixes if loaded is not None else ()
    return LivepatchStatus(
        level=level_of(current.name) or 0,
        module=current.name,
        state=state,
        known=loaded is not None,
        pinned=loaded.pinned if loaded is not None else (),
        functions=len(current.functions),
        fixes=tuple(FixStatus(fix.title, fix.digest, fix.cves) for fix in fixes),
        blocking=switching.blocking,
        tasks=switching.tasks,
        left=switching.left,
        moving_seconds=moving,
    )


def _cves(livepatch: LivepatchStatus | None, unpatched: frozenset[str]) -> tuple[CveStatus, ...]:
    if livepatch is None:
        return ()
    names = sorted({cve for fix in livepatch.fixes for cve in fix.cves})
    if livepatch.state != "in-force":
        return tuple(CveStatus(name, "pending") for name in names)
    return tuple(CveStatus(name, "blocked" if name in unpatched else "live-patched") for name in names)


def _notes(session: Session, now: int) -> tuple[Note, ...]:
    recovered = [
        record for record in session.history.records() if record.recovered and now - record.at <= NOTED_SECONDS
    ]
    return tuple(Note(record.at, record.message) for record in recovered[-MAX_NOTES:])
