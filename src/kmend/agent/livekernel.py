"""The running kernel as its own files show it: identity, livepatches, modules, and which tasks hold a transition up."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kmend.agent.paths import Paths
from kmend.core.errors import MalformedError, SystemProblemError
from kmend.core.kernel import build_id_from_notes

MAX_FILE_BYTES = 1024 * 1024
MAX_BLOCKING = 20
_PIECE = 16 * 1024
MAX_STACK_BYTES = 4096
_OURS = re.compile(r"kmend_([0-9]{1,6})_[0-9a-f]{8}")


def level_of(module: str) -> int | None:
    """The level in a kmend module's name; None if the name is not one of ours."""
    match = _OURS.fullmatch(module)
    return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class RunningKernel:
    """The kernel build that runs: its build ID, and what `uname` says."""

    build_id: str
    release: str
    version: str
    machine: str


@dataclass(frozen=True, slots=True)
class Patch:
    """One folder of `/sys/kernel/livepatch`.

    Attributes:
        enabled: False while it is being disabled.
        transition: tasks are still being switched, either way.
        functions: `(object, function,sympos)` as sysfs names them.
        unapplied: objects that are loaded but not patched, where the kernel tells (since 6.1).
    """

    name: str
    enabled: bool
    transition: bool
    functions: frozenset[tuple[str, str]]
    unapplied: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Module:
    """One line of `/proc/modules`."""

    name: str
    references: int
    state: str


@dataclass(frozen=True, slots=True)
class View:
    """Livepatches and modules at one moment."""

    boot_id: str
    patches: tuple[Patch, ...]
    modules: tuple[Module, ...]

    def patch(self, name: str) -> Patch | None:
        """The livepatch of that name, if the kernel has it."""
        return next((patch for patch in self.patches if patch.name == name), None)

    def module(self, name: str) -> Module | None:
        """The module of that name, if it is resident."""
        return next((module for module in self.modules if module.name == name), None)

    @property
    def ours(self) -> tuple[Patch, ...]:
        """kmend's livepatches: one, or two while one replaces the other."""
        return tuple(patch for patch in self.patches if level_of(patch.name) is not None)

    @property
    def foreign(self) -> tuple[str, ...]:
        """Livepatches of others."""
        return tuple(patch.name for patch in self.patches if level_of(patch.name) is None)

    @property
    def moving(self) -> Patch | None:
        """The livepatch whose transition is under way, if any."""
        return next((patch for patch in self.patches if patch.transition), None)

    @property
    def current(self) -> Patch | None:
        """The livepatch of ours that counts: the one arriving, else the one in force, else the one leaving."""
        ranked = sorted(self.ours, key=lambda patch: (patch.transition and patch.enabled, patch.enabled), reverse=True)
        return ranked[0] if ranked else None

    @property
    def idle_modules(self) -> tuple[str, ...]:
        """kmend's modules that are resident without being a livepatch any more."""
        active = {patch.name for patch in self.patches}
        live = (module.name for module in self.modules if module.state == "Live")
        return tuple(name for name in live if level_of(name) is not None and name not in active)


@dataclass(frozen=True, slots=True)
class BlockingTask:
    """A task that a transition waits for; `stack` is empty where it cannot be read, and `why` then says why."""

    process: int
    task: int
    name: str
    stack: tuple[str, ...]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Switching:
    """How far a transition is.

    Attributes:
        tasks: all tasks that the kernel switches, its own and idle ones without a `/proc` entry not counted.
        left: those that are not switched yet.
        blocking: the first of them, with what they are doing.
    """

    tasks: int
    left: int
    blocking: tuple[BlockingTask, ...]


class LiveKernel:
    """Reads the kernel's files.

    Args:
        paths: where they are.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._livepatch = paths.sys / "kernel/livepatch"

    def running(self) -> RunningKernel:
        """Identify the kernel build that runs.

        Raises:
            SystemProblemError: the kernel does not show its build ID.
        """
        try:
            notes = (self._paths.sys / "kernel/notes").read_bytes()[:MAX_FILE_BYTES]
            build_id = build_id_from_notes(notes)
        except OSError as problem:
            raise SystemProblemError(f"cannot read /sys/kernel/notes: {problem.strerror}") from problem
        except MalformedError as problem:
            raise SystemProblemError(f"/sys/kernel/notes: {problem.message}") from problem
        if build_id is None:
            raise SystemProblemError("the running kernel has no build ID", hint="kmend identifies kernels by it")
        uname = os.uname()
        release, version = self.setting("osrelease"), self.setting("version")
        return RunningKernel(build_id, release or uname.release, version or uname.version, uname.machine)

    def boot_id(self) -> str:
        """The random identifier of this boot.

        Raises:
            SystemProblemError: the kernel does not show it; without it a crash could not be told from a killed command.
        """
        boot_id = read_kernel_file(self._paths.proc / "sys/kernel/random/boot_id")
        if not boot_id:
            raise SystemProblemError("the kernel does not show its boot ID (/proc/sys/kernel/random/boot_id)")
        return boot_id

    def setting(self, name: str) -> str:
        """A value of `/proc/sys/kernel`, empty if the kernel does not have it."""
        return read_kernel_file(self._paths.proc / "sys/kernel" / name)

    def supports_livepatch(self) -> bool:
        """Whether the kernel has the livepatch interface (CONFIG_LIVEPATCH)."""
        return self._livepatch.is_dir()

    def view(self) -> View:
        """Livepatches and modules now."""
        patches = tuple(patch for path in _folders(self._livepatch) if (patch := self._patch(path)) is not None)
        return View(self.boot_id(), patches, tuple(self._modules()))

    def module_build_id(self, name: str) -> str | None:
        """The build ID of a loaded module; None if it is not loaded or does not show one."""
        try:
            notes = (self._paths.sys / "module" / name / "notes/.note.gnu.build-id").read_bytes()
            return build_id_from_notes(notes[:MAX_FILE_BYTES])
        except (OSError, MalformedError):
            return None

    def disable(self, name: str) -> None:
        """Ask the kernel to take a livepatch off; the transition then runs.

        Raises:
            SystemProblemError: it is not there, or the kernel refuses (a transition is pending).
        """
        try:
            (self._livepatch / name / "enabled").write_text("0")
        except OSError as problem:
            raise SystemProblemError(
                f"the kernel does not disable {name}: {problem.strerror}",
                hint="if a transition is pending, wait for its end: kmend status",
            ) from problem

    def traces(self, module: str) -> tuple[str, ...]:
        """What is still there of a module that was removed; empty if nothing is."""
        places = [self._livepatch / module, self._paths.sys / "module" / module]
        found = ["/" + str(place.relative_to(self._paths.root)) for place in places if place.exists()]
        if any(item.name == module for item in self._modules()):
            found.append("a line in /proc/modules")
        return tuple(found)

    def send_signal(self, name: str) -> bool:
        """Ask for the fake signal; False where the kernel has no such file, because it does so by itself (or the patch went)."""
        try:
            path = self._livepatch / name / "signal"
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            os.write(descriptor, b"1")
        except OSError:
            return False  # the transition has just ended (EINVAL)
        finally:
            os.close(descriptor)
        return True

    def switching(self, *, goal: int) -> Switching:
        """Which tasks' `patch_state` is not `goal` yet (1 while a livepatch is enabled, 0 while it is disabled)."""
        total = left = 0
        found: list[BlockingTask] = []
        for process in _numbered(self._paths.proc):
            for task in _numbered(process / "task"):
                state = read_kernel_file(task / "patch_state")
                total += bool(state)
                if state not in ("0", "1") or int(state) == goal:
                    continue
                left += 1
                if len(found) < MAX_BLOCKING:
                    stack, why = self._stack(task)
                    name = read_kernel_file(task / "comm")
                    found.append(BlockingTask(int(process.name), int(task.name), name, stack, why))
        return Switching(total, left, tuple(found))

    def _patch(self, folder: Path) -> Patch | None:
        enabled, transition = read_kernel_file(folder / "enabled"), read_kernel_file(folder / "transition")
        if not enabled or not transition:
            return None  # it went away while we were looking
        functions: set[tuple[str, str]] = set()
        unapplied = set()
        for target in _folders(folder):
            if read_kernel_file(target / "patched") == "0" and (
                target.name == "vmlinux" or self._is_loaded(target.name)
            ):
                unapplied.add(target.name)
            functions.update((target.name, function.name) for function in _folders(target))
        return Patch(folder.name, enabled == "1", transition == "1", frozenset(functions), frozenset(unapplied))

    def _is_loaded(self, module: str) -> bool:
        return read_kernel_file(self._paths.sys / "module" / module / "initstate") == "live"

    def _modules(self) -> Iterator[Module]:
        for line in read_kernel_file(self._paths.proc / "modules").splitlines():
            words = line.split()
            if len(words) >= 5:
                yield Module(words[0], int(words[2]) if words[2].isdigit() else 0, words[4])

    def _stack(self, task: Path) -> tuple[tuple[str, ...], str]:
        """The kernel stack of a task, or why it cannot be had (proc(5): CONFIG_STACKTRACE, and CAP_SYS_ADMIN)."""
        try:
            with (task / "stack").open("rb") as stream:
                text = stream.read(MAX_STACK_BYTES).decode(errors="replace")
        except PermissionError:
            return (), "its stack may not be read (CAP_SYS_ADMIN)"
        except FileNotFoundError:
            gone = not task.exists()
            return (), "it has just ended" if gone else "this kernel shows no stacks (CONFIG_STACKTRACE)"
        except OSError as problem:
            return (), f"its stack cannot be read: {problem.strerror}"
        lines = tuple(line.split("] ", 1)[-1].strip() for line in text.splitlines())
        return lines, "" if lines else "it runs right now, so that there is no stack to read"


def read_kernel_file(path: Path) -> str:
    """The text of a file of procfs or sysfs, stripped; empty if it cannot be read.

    Read in small pieces: sysctl files answer ENOMEM to a read as large as the largest allocation (`proc_sys_call_handler`).
    """
    content = b""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        while len(content) < MAX_FILE_BYTES and (piece := os.read(descriptor, _PIECE)):
            content += piece
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return content.decode(errors="replace").strip()


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink())
    except OSError:
        return []


def _numbered(path: Path) -> list[Path]:
    try:
        return sorted((entry for entry in path.iterdir() if entry.name.isdigit()), key=lambda entry: int(entry.name))
    except OSError:
        return []
