"""A livepatch tried on its kernel in a virtual machine: probe, load, probe again, take off; and the kernel must be content."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kmend import lab
from kmend.core.errors import KmendError
from kmend.factory.build import Built
from kmend.factory.build.resolve import VMLINUX
from kmend.factory.desk.verdict import NOT_EXECUTABLE, NOT_FOUND, Behaviour, Findings, Verdict, behaviour, judge

FOLDER = "/trial"
"""In the guest: the probe's working directory."""
MAX_PROBE = 64 * 1024 * 1024
MAX_OUTPUT = 1024 * 1024
"""Bytes kept of each stream of a probe."""
_CANNOT_RUN = (
    "a micro guest has busybox alone: write the probe for sh, link programs statically, bring files with --copy, "
    "or take --shape full"
)


class TrialError(KmendError):
    """The trial cannot be held: the probe cannot be run, or the virtual machine fails."""

    kind = "trial"


class ProbeError(TrialError):
    """There is no such probe, or the folder for the results is not empty: a mistake of the caller's."""

    exit_status = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """How a trial is held.

    Attributes:
        probe: content of the script or program that runs in the guest; see `read_probe`.
        copies: files or folders of the host -> paths in the guest.
        modules: to load besides those that the livepatch patches.
        probe_seconds: limit for each run of the probe; transition_seconds: for the kernel's transition.
    """

    probe: bytes
    copies: tuple[tuple[Path, str], ...] = ()
    modules: tuple[str, ...] = ()
    shape: lab.Shape = lab.Shape.MICRO
    cpus: int | None = None
    memory_mib: int = 1024
    probe_seconds: float = 60.0
    transition_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class ProbeRun:
    """One run of the probe.

    Attributes:
        status: exit status; None if it did not come to its end.
        reason: in words.
        complaints: what the kernel logged meanwhile that is a complaint.
    """

    status: int | None
    behaviour: Behaviour
    reason: str
    stdout: str
    stderr: str
    seconds: float
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial came to.

    Attributes:
        before, after: the probe's runs; `after` is None if the livepatch was not loaded.
        problem: why it could not be loaded, or taken off.
        complaints: from the kernel's log since the livepatch came.
        notes: what else a person should know.
        kernel_log: of the guest that had the livepatch.
    """

    verdict: Verdict
    before: ProbeRun
    after: ProbeRun | None
    problem: str
    complaints: tuple[str, ...]
    notes: tuple[str, ...]
    kernel_log: str


def hold_trial(
    kernel: lab.UnpackedKernel,
    built: Built,
    settings: Settings,
    *,
    progress: Callable[[str], None] = lambda message: None,
) -> Trial:
    """Try a livepatch.

    Raises:
        TrialError: the probe cannot be run in the guest.
        LabError: a virtual machine cannot be had.
    """
    return _Holding(kernel, built, settings, progress).hold()


def read_probe(path: Path) -> bytes:
    """The probe's content.

    Raises:
        ProbeError: it cannot be read, is empty, or is too large.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_PROBE + 1)
    except OSError as problem:
        raise ProbeError(
            f"cannot read the probe {path}: {problem.strerror}", hint="name a script with --test"
        ) from None
    if not content.strip():
        raise ProbeError(f"the probe {path} is empty", hint="it must exit with 0 where all is well, else with 1")
    if len(content) > MAX_PROBE:
        raise ProbeError(f"the probe {path} is larger than {MAX_PROBE >> 20} MiB", hint="bring large files with --copy")
    return content


class _Holding:
    """One trial under way."""

    def __init__(
        self, kernel: lab.UnpackedKernel, built: Built, settings: Settings, progress: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._built = built
        self._progress = progress
        self._name = built.manifest.module.name
        self._sysfs = f"/sys/kernel/livepatch/{self._name}"
        targets = tuple(patched.name for patched in built.manifest.objects if patched.name != VMLINUX)
        self._notes: list[str] = []
        self._definition = lab.Definition(
            kernel=kernel,
            shape=settings.shape,
            cpus=settings.cpus,
            memory_mib=settings.memory_mib,
            modules=tuple(dict.fromkeys((*targets, *settings.modules))),
        )

    def hold(self) -> Trial:
        with lab.Vm(self._definition) as vm:
            self._start(vm)
            self._progress("probing before")
            before, alive = self._probe(vm, "before")
            if not alive or before.complaints or before.status is None:
                self._notes.append(
                    "what the probe did before the livepatch left the guest unfit; a fresh one got the livepatch"
                )
                self._progress("the guest is no longer fit; starting a fresh one")
                vm.power_cut()
                self._start(vm)
            return self._with_livepatch(vm, before)

    def _start(self, vm: lab.Vm) -> None:
        vm.prepare()
        vm.start()
        self._progress(
            f"{vm.definition.kernel.release} ({vm.definition.shape.value}) is up after {vm.boot_seconds:.1f} s"
        )
        vm.put_bytes(self._settings.probe, f"{FOLDER}/probe", mode=0o755)
        for source, target in self._settings.copies:
            vm.put(source, target)
        vm.run(["dmesg", "-c"])

    def _with_livepatch(self, vm: lab.Vm, before: ProbeRun) -> Trial:
        log: list[str] = []
        after = None
        load_problem = removal_problem = ""
        try:
            self._progress(f"loading {self._name}")
            load_problem = self._load(vm)
            log.append(_log(vm))
            if not load_problem:
                self._progress("probing after")
                after, alive = self._probe(vm, "after", log)
                if alive and not self._built.manifest.pinned:
                    self._progress("taking it off")
                    removal_problem = self._remove(vm)
                    log.append(_log(vm))
        except lab.GuestError as problem:
            load_problem = load_problem or ("" if after is not None else problem.message)
            removal_problem = "" if after is None else problem.message
            log.append(problem.serial_tail)
        if self._built.manifest.pinned:
            self._notes.append(f"it stays loaded until reboot: {self._built.manifest.pinned[0]}")
        text = "".join(log)
        complaints = lab.complaints(text)
        found = Findings(
            before.behaviour, after.behaviour if after else None, load_problem, removal_problem, bool(complaints)
        )
        return Trial(judge(found), before, after, load_problem or removal_problem, complaints, tuple(self._notes), text)

    def _probe(self, vm: lab.Vm, phase: str, log: list[str] | None = None) -> tuple[ProbeRun, bool]:
        """Run the probe; also says whether the guest is still there."""
        start = time.monotonic()
        stdout = stderr = ""
        status: int | None = None
        alive = True
        try:
            result = vm.run(
                self._words(phase), folder=FOLDER, timeout=self._settings.probe_seconds, check=False,
                max_output=MAX_OUTPUT,
            )  # fmt: skip
            status, stdout, stderr = result.status, result.text, result.error_text
            if status in (NOT_EXECUTABLE, NOT_FOUND):
                raise TrialError(
                    f"the probe cannot be run in the guest (exit status {status}): {stderr.strip()[-500:]}",
                    hint=_CANNOT_RUN,
                )
            reason = f"exit status {status}" if status <= 128 else f"killed by signal {status - 128}"
        except lab.TimeLimitError as problem:
            stdout, stderr = problem.stdout.decode(errors="replace"), problem.stderr.decode(errors="replace")
            reason = f"not at its end after {self._settings.probe_seconds:g} s"
        except lab.CommandFailedError as problem:
            raise TrialError(
                f"the probe cannot be run in the guest: {problem.message}", hint=problem.hint or _CANNOT_RUN
            ) from None
        except lab.GuestError as problem:
            alive, reason = False, problem.message.partition("\n")[0]
            text = problem.serial_tail
        if alive:
            try:
                text = _log(vm)
            except lab.GuestError as problem:
                alive, reason, text = False, problem.message.partition("\n")[0], problem.serial_tail
        if log is not None:
            log.append(text)
        seen = behaviour(status) if status is not None and alive else Behaviour.BAD
        seconds = round(time.monotonic() - start, 2)
        return ProbeRun(status, seen, reason, stdout, stderr, seconds, lab.complaints(text)), alive

    def _words(self, phase: str) -> list[str]:
        program = self._settings.probe.startswith((b"#!", b"\x7fELF"))
        return [f"{FOLDER}/probe", phase] if program else ["sh", f"{FOLDER}/probe", phase]

    def _load(self, vm: lab.Vm) -> str:
        """Load the livepatch and wait for its transition; returns what went wrong."""
        vm.put_bytes(self._built.module, f"{FOLDER}/{self._name}.ko")
        done = vm.run(["insmod", f"{FOLDER}/{self._name}.ko"], check=False)
        if done.status:
            return f"the kernel refuses it: {done.error_text.strip()}"
        return self._wait(vm, f'[ "$(cat {self._sysfs}/transition)" = 0 ]')

    def _remove(self, vm: lab.Vm) -> str:
        vm.sh(f"echo 0 > {self._sysfs}/enabled")
        problem = self._wait(vm, f"[ ! -e {self._sysfs} ]")
        return problem or self._wait(vm, f"rmmod {self._name} 2>/dev/null", "it cannot be removed")

    def _wait(self, vm: lab.Vm, condition: str, told: str = "its transition does not end") -> str:
        """Try a condition five times a second until it is true; returns what went wrong."""
        seconds = self._settings.transition_seconds
        turns = int(seconds * 5)
        done = vm.sh(
            f"n=0; until {condition}; do n=$((n+1)); [ $n -gt {turns} ] && exit 1; sleep 0.2; done",
            check=False,
            timeout=4 * seconds + 60,
        )
        return f"{told} within {seconds:g} s" if done.status else ""


def _log(vm: lab.Vm) -> str:
    """What the kernel has logged since the last call."""
    return vm.run(["dmesg", "-c"]).text
