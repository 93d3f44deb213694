"""One command's hold on the host: everything it works with, brought up to date by recovery before it begins."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import kmend
from kmend.agent import failpoint, health, kernellog, machine, preflight, recovery, residents, schema, statefile
from kmend.agent.clock import Clock
from kmend.agent.config import Config
from kmend.agent.health import Finding, Measure
from kmend.agent.history import History
from kmend.agent.journal import Intent, Journal
from kmend.agent.livekernel import LiveKernel, View
from kmend.agent.paths import Paths
from kmend.agent.quarantine import Cause, Quarantine
from kmend.agent.recovery import Action
from kmend.agent.residents import Residents
from kmend.agent.states import State
from kmend.agent.store import Store
from kmend.agent.syscalls import Loader, SystemCalls
from kmend.core import durable
from kmend.core.errors import SystemProblemError
from kmend.core.manifest import Manifest

_logger = logging.getLogger(__name__)

KEEP_SOAKED = 16
WATCH_SECONDS = 15
"""How often something looks at a transition that was left to the kernel."""


@dataclass(frozen=True, slots=True)
class CleanShutdown:
    """Written when the host shuts down in order."""

    boot_id: str
    at: int
    format: str = "kmend-clean-shutdown/1"


@dataclass(frozen=True, slots=True)
class SoakedLevel:
    """A level that came through its soak on this host, so that `boot` may load it; the digest is of the unsigned module."""

    build_id: str
    level: int
    module: str
    sha256: str
    at: int


@dataclass(frozen=True, slots=True)
class Soaked:
    """The last level that ran through its soak on this host: its fixes are not suspects when the host crashes later.

    Attributes:
        levels: this one and those before it, newest first.
    """

    build_id: str
    level: int
    fixes: tuple[str, ...]
    levels: tuple[SoakedLevel, ...] = ()
    format: str = "kmend-soaked/1"


def _spawn_settler() -> None:
    """Start the detached child that settles the soak and removes replaced modules; the next command does it otherwise."""
    folder = str(Path(kmend.__file__).resolve().parents[1])
    script = (
        f"import sys; sys.path.insert(0, {folder!r}); from kmend.agent.main import main; sys.exit(main(sys.argv[1:]))"
    )
    # Isolated: neither the environment nor the working directory decides what root runs.
    flags = ["-I", "-S"] if sys.flags.no_site else ["-I"]
    command = [sys.executable, *flags, "-c", script, "internal", "settle"]
    try:
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
    except OSError as problem:
        _logger.warning("cannot start %s: %s", " ".join(command), problem.strerror)


@dataclass(frozen=True, slots=True)
class Host:
    """The world outside: files, time, the kernel's system calls, and the child that cleans up. Tests have another.

    Attributes:
        source: URL that stands in for the configured repository's: what the service has fetched. Empty for none.
    """

    paths: Paths = field(default_factory=Paths)
    clock: Clock = field(default_factory=Clock)
    loader: Callable[[], Loader] = SystemCalls
    spawn_settler: Callable[[], None] = _spawn_settler
    source: str = ""


class Session:
    """What the commands work with.

    Args:
        host: the world outside.
        config: how this host is configured.
        say: told, line by line, what is going on.

    Raises:
        StateSchemaError: the state on this host is too new for this version.
    """

    def __init__(self, host: Host, config: Config, say: Callable[[str], None]) -> None:
        schema.admit(host.paths.state)
        self.host = host
        self.paths = host.paths
        self.clock = host.clock
        self.config = config
        self.say = say
        self.announce: Callable[[], None] = lambda: None  # what a command does with news while it is at work
        self.kernel = LiveKernel(host.paths)
        self.running = self.kernel.running()
        self.history = History(host.paths.state / "history.jsonl")
        self.quarantine = Quarantine(host.paths.state / "quarantine.json")
        self.store = Store(host.paths.state / "levels")
        self.boot_id = self.kernel.boot_id()
        self.journal = Journal(host.paths.state, self.history, self.quarantine, host.clock, self.boot_id)

    def loaded(self, view: View) -> Manifest | None:
        """The manifest of the livepatch in force; None if none is, or if this host does not know it."""
        current = view.current
        return self.store.manifest(current.name) if current is not None else None

    def facts(self) -> preflight.Facts:
        """What preflight looks at, read now."""
        return preflight.gather(self.paths, self.kernel)

    def pinned(self, module: str) -> bool:
        """Whether a module must stay on this boot; unknown ones count as pinned."""
        manifest = self.store.manifest(module)
        return manifest is None or bool(manifest.pinned)

    def suspects(self, manifest: Manifest, loaded: Manifest | None) -> tuple[str, ...]:
        """The fixes to blame if the host crashes while `manifest` is new: those that it did not run well with before."""
        known = set(loaded.fix_digests) if loaded is not None else set()
        soaked = statefile.load(self.paths.state / "soaked.json", Soaked)
        if soaked is not None and soaked.build_id == manifest.kernel.build_id:
            known.update(soaked.fixes)
        digests = tuple(fix.digest for fix in manifest.fixes)
        return tuple(digest for digest in digests if digest not in known) or digests

    def soaked_levels(self) -> tuple[SoakedLevel, ...]:
        """Levels of the running kernel build that came through their soak on this host, the last first."""
        soaked = statefile.load(self.paths.state / "soaked.json", Soaked)
        levels = soaked.levels if soaked is not None else ()
        return tuple(item for item in levels if item.build_id == self.running.build_id)

    def finding(self) -> Finding:
        """How the host does with the level that is being tried."""
        intent = self.journal.opened
        records = kernellog.read_after(self.paths.log, intent.log) if intent.log >= 0 else ()
        return health.judge(
            kernellog.troubles(records),
            taint_before=intent.tainted,
            taint=preflight.tainted(self.kernel),
            on_oops=self.config.policy.on_oops,
            on_warning=self.config.policy.on_warning,
        )

    # Recovery

    def recover(self) -> None:
        """Make an open intent agree with what the kernel shows, and remove modules that are due; every command starts so."""
        schema.bring_up(self.paths.state)
        while (intent := self.journal.intent) is not None:
            decision = self._decide(intent)
            self._carry_out(decision)
            if decision.action is not Action.RESUME:  # which only tells that another one is to be taken
                break
        self.remove_due()

    def _decide(self, intent: Intent) -> recovery.Recovery:
        shutdown = statefile.load(self.paths.state / "shutdown.json", CleanShutdown)
        return recovery.decide(
            intent,
            self.kernel.view(),
            uptime=self.clock.uptime(),
            # By policy an oops may be answered by taking the level off, which is not recovery's (`kmend.agent.tending`).
            tainted=preflight.tainted(self.kernel) if self.config.policy.on_oops == "report" else intent.tainted,
            clean_shutdown=shutdown.boot_id if shutdown is not None else "",
        )

    def _carry_out(self, decision: recovery.Recovery) -> None:
        journal, message = self.journal, decision.message
        tried = journal.open_state in (State.TRANSITIONING, State.SOAKING)
        if decision.action in (Action.KEEP, Action.SETTLE) and tried and not self._is_well():
            return
        if message:
            self.say(f"recovered: {message}")
        if decision.action is Action.LAPSE:
            journal.lapse(message, undone=decision.undone)
        elif decision.action is Action.CONDEMN_CRASHED:
            journal.condemn(Cause.CRASHED, message, recovered=True)
        elif decision.action is Action.CONDEMN_OOPSED:
            journal.condemn(Cause.OOPSED, message, recovered=True)
        elif decision.action is Action.CONCLUDE_NOTHING:
            journal.conclude_nothing(message, recovered=True)
        elif decision.action is Action.ADOPT_TRANSITION:
            journal.begin_transition(found=message)
        elif decision.action is Action.RESUME:
            journal.resume_transition(found=message)
        elif decision.action is Action.ADOPT_FINISHED:
            if journal.state is State.LOADING:
                journal.begin_transition()
            self.confirm(found=message)
        elif decision.action is Action.ADOPT_DISABLED:
            journal.finish_disabling(found=message)
        elif decision.action is Action.SETTLE:
            self.settle()

    def _is_well(self) -> bool:
        """Look after the level that is being tried; False if it went into quarantine, or is to be taken off."""
        finding = self.finding()
        if finding.measure is Measure.CONDEMN:
            self.say(finding.message)
            self.journal.condemn(Cause.OOPSED, finding.message, recovered=True)
            return False
        if finding.measure is Measure.REPORT:
            self.journal.remark("complaint", finding.message)
        return finding.measure is not Measure.REVERT

    def confirm(self, *, found: str = "") -> str:
        """Hold what the kernel shows against the manifest, and begin the soak; returns what is wrong, empty if nothing."""
        intent = self.journal.opened
        manifest = self.store.manifest(intent.module)
        patch = self.kernel.view().patch(intent.module)
        problem = ""
        if manifest is None:
            problem = f"the manifest of level {intent.level} is not on this host any more"
        elif patch is None or not patch.enabled or patch.transition:
            problem = f"the kernel does not show level {intent.level} in force"
        else:
            expected = {
                (target.name, function.sysfs_name) for target in manifest.objects for function in target.functions
            }
            if patch.functions != expected:
                odd = sorted(patch.functions.symmetric_difference(expected))
                problem = f"the kernel does not patch exactly what the manifest says: {odd[:5]}"
            elif patch.unapplied:
                problem = f"the kernel has not patched {', '.join(sorted(patch.unapplied))}"
        failpoint.reach("confirmed")
        if problem:
            self.journal.condemn(Cause.UNCONFIRMED, problem, recovered=bool(found))
        else:
            self.journal.begin_soak(int(self.clock.uptime()) + self.config.timing.soak, found=found)
        return problem

    def settle(self) -> None:
        """Close a soak that went well."""
        intent = self.journal.opened
        path = self.paths.state / "soaked.json"
        before = statefile.load(path, Soaked)
        this = SoakedLevel(intent.build_id, intent.level, intent.module, intent.sha256, self.clock.now())
        others = tuple(item for item in (before.levels if before is not None else ()) if item.module != intent.module)
        levels = (this, *others)[:KEEP_SOAKED]
        statefile.save(path, Soaked(intent.build_id, intent.level, intent.fixes, levels))
        changed = health.deltas(intent.vitals, health.vitals(self.paths))
        self.journal.settle(f"soaked without trouble{'; ' + changed if changed else ''}")

    # Replaced modules

    def residents(self) -> Residents:
        """Modules out of use and since when, brought up to date and stored."""
        path = self.paths.run / "residents.json"
        known = residents.load(path)
        seen = residents.observe(self.kernel.view(), known, self.clock.uptime())
        if seen != known:
            try:
                statefile.save(path, seen)
            except SystemProblemError as problem:  # then their delay only counts from a later command on
                _logger.warning("%s", problem.message)
        return seen

    def remove_due(self) -> None:
        """Remove replaced modules whose delay is over; what cannot be removed now is tried again later."""
        seen = self.residents()
        if not seen.modules or not self.facts().may_load:
            return
        due = residents.removable(
            seen, self.kernel.view(), self.clock.uptime(), self.config.timing.remove_after, self.pinned
        )
        for name in due:
            self._remove(name)
        if due:
            self.residents()

    def _remove(self, name: str) -> None:
        failpoint.reach("remove.before")
        try:
            self.host.loader().remove(name)
        except OSError as problem:
            _logger.warning("cannot remove the replaced module %s yet: %s", name, problem.strerror)
        failpoint.reach("remove.after")
        for trace in self.kernel.traces(name):
            self.say(f"module {name} has left something behind: {trace}")

    def note_shutdown(self) -> None:
        """Record that the host shuts down in order, so that an open intent is not taken for a crash."""
        failpoint.reach("note.before")
        statefile.save(self.paths.state / "shutdown.json", CleanShutdown(self.boot_id, self.clock.now()))
        failpoint.reach("note.after")

    def soaking_until(self) -> int | None:
        """The uptime at which the soak ends; None if no level soaks."""
        intent = self.journal.intent
        return intent.soak_until if intent is not None and intent.state is State.SOAKING else None

    def next_deadline(self) -> int | None:
        """The uptime at which `recover` has something to do; None if it never has on this boot."""
        seen = self.residents()
        due = residents.next_due(seen, self.config.timing.remove_after, self.pinned)
        if self.journal.open_state in (State.TRANSITIONING, State.REVERTING):
            return int(self.clock.uptime()) + WATCH_SECONDS
        return min((time for time in (due, self.soaking_until()) if time is not None), default=None)


def prepare_folders(paths: Paths) -> None:
    """Create the state and run-time folders.

    Raises:
        SystemProblemError: they cannot be created; mostly for want of privilege.
    """
    try:
        durable.make_folder(paths.state, mode=0o755)
        durable.make_folder(paths.run, mode=0o755)
        machine.note(paths)
    except SystemProblemError as problem:
        raise SystemProblemError(problem.message, hint="run kmend as root") from None
