"""Every built livepatch through its life in virtual machines: loaded, transition complete, replaced by the next, removed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kmend import lab
from kmend.factory.survey.record import LoadRecord

BATCH = 40
"""Livepatches per virtual machine: enough that booting costs little, few enough that a crash loses little."""
TRANSITION_SECONDS = 60
_COMPLAINT = re.compile(
    r"WARNING:|BUG:|Oops|Call Trace|general protection|stall|invalid relocation|livepatch: .*(?:failed|[Ii]nvalid|unresolvable)"
    r"|Skipping invalid|Unknown symbol|disagrees about version|no symbol version"
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A livepatch to load.

    Attributes:
        module: its file.
        targets: files of the modules that it patches and of those that they need, in the order of loading.
        pinned: whether it must stay loaded once it was.
    """

    path: str
    module: Path
    targets: tuple[Path, ...] = ()
    pinned: bool = False


def load_all(
    kernel: lab.UnpackedKernel, candidates: Sequence[Candidate], done: Callable[[str, LoadRecord], None]
) -> None:
    """Load one batch after another, each in a virtual machine of its own; a livepatch that does harm ends its machine.

    Files whose fixes came to the same livepatch share one load: its name holds its digest, and the kernel takes no name twice.

    Args:
        done: is told of each livepatch, by the path of its source file, when its life is over.

    Raises:
        LabError: no virtual machine can be had.
    """
    sharing: dict[str, list[str]] = {}
    for candidate in candidates:
        sharing.setdefault(candidate.module.stem, []).append(candidate.path)

    def all_done(path: str, record: LoadRecord) -> None:
        for other in next(paths for paths in sharing.values() if paths[0] == path):
            done(other, record)

    rest = [candidate for candidate in candidates if sharing[candidate.module.stem][0] == candidate.path]
    while rest:
        rest = rest[_run_batch(kernel, rest[:BATCH], all_done) :]


def _run_batch(kernel: lab.UnpackedKernel, batch: Sequence[Candidate], done: Callable[[str, LoadRecord], None]) -> int:
    """Returns how many of the batch are settled."""
    with lab.boot(kernel, lab.Shape.MICRO) as vm:
        vm.run(["dmesg", "-c"])
        before: tuple[Candidate, float] | None = None
        for number, candidate in enumerate(batch):
            start = time.monotonic()
            problem = _step(vm, candidate, before[0] if before else None)
            seconds = round(time.monotonic() - start, 2)
            if problem and problem.startswith(_OLD_ONE) and before is not None:
                # What the old one left undone is its own fault; the new one gets another try in a fresh machine.
                done(before[0].path, LoadRecord(False, problem, before[1]))
                return number
            if before is not None:
                done(before[0].path, LoadRecord(True, "", before[1]))
            if problem:
                done(candidate.path, LoadRecord(False, problem, seconds))
                return number + 1
            before = (candidate, seconds)
        if before is not None:
            problem = _leave(vm, before[0])
            done(before[0].path, LoadRecord(not problem, problem, before[1]))
    return len(batch)


_OLD_ONE = "the replaced one "


def _step(vm: lab.Vm, candidate: Candidate, before: Candidate | None) -> str:
    """Load one and take the one before away; returns what went wrong."""
    name = candidate.module.stem
    try:
        for target in candidate.targets:
            vm.put(target, f"/root/{target.name}")
            vm.sh(f"insmod /root/{target.name} 2>/dev/null; rm /root/{target.name}", check=False)
        vm.run(["dmesg", "-c"])
        vm.put(candidate.module, f"/root/{name}.ko")
        loaded = vm.sh(f"insmod /root/{name}.ko; status=$?; rm /root/{name}.ko; exit $status", check=False)
        if loaded.status:
            return f"it is not loaded: {loaded.stderr.decode(errors='replace').strip()}; {_log(vm)[-600:]}"
        problem = _wait_transition(vm, name, "1")
        if problem:
            return problem
        log = _log(vm)
        if _COMPLAINT.search(log):
            return f"the kernel complains: {_excerpt(log)}"
        if before is not None and not before.pinned:
            return _remove(vm, before.module.stem)
    except lab.LabError as problem_found:
        return f"{problem_found.kind}: {problem_found.message}"
    return ""


def _leave(vm: lab.Vm, last: Candidate) -> str:
    """Disable the last one and remove it; returns what went wrong."""
    name = last.module.stem
    try:
        vm.sh(f"echo 0 > /sys/kernel/livepatch/{name}/enabled")
        problem = _wait_transition(vm, name, "0")
        if problem:
            return problem
        problem = "" if last.pinned else _remove(vm, name)
        log = _log(vm)
        return problem or (f"the kernel complains: {_excerpt(log)}" if _COMPLAINT.search(log) else "")
    except lab.LabError as found:
        return f"{found.kind}: {found.message}"


def _wait_transition(vm: lab.Vm, name: str, enabled: str) -> str:
    """Wait until the transition is over: the folder is gone (after disabling) or says so."""
    folder = f"/sys/kernel/livepatch/{name}"
    done = vm.sh(
        f'n=0; while [ -e {folder} ] && [ "$(cat {folder}/transition)" != 0 ]; do n=$((n+1)); '
        f"[ $n -gt {TRANSITION_SECONDS * 5} ] && exit 1; sleep 0.2; done; "
        f'[ {enabled} = 0 ] || [ "$(cat {folder}/enabled)" = 1 ] || exit 2',
        check=False,
        timeout=TRANSITION_SECONDS * 4,
    )
    if done.status == 1:
        return f"its transition does not end within {TRANSITION_SECONDS} s"
    return "it is not enabled" if done.status else ""


def _remove(vm: lab.Vm, name: str) -> str:
    """Remove a disabled or replaced one; the kernel lets go of it a moment after its transition."""
    done = vm.sh(
        f"n=0; until rmmod {name} 2>/dev/null; do n=$((n+1)); [ $n -gt 50 ] && exit 1; sleep 0.2; done",
        check=False,
        timeout=120,
    )
    if done.status:
        return f"{_OLD_ONE}cannot be removed"
    log = _log(vm)
    return f"{_OLD_ONE}makes the kernel complain when it is removed: {_excerpt(log)}" if _COMPLAINT.search(log) else ""


def _log(vm: lab.Vm) -> str:
    """What the kernel has logged since the last call."""
    return vm.run(["dmesg", "-c"]).text


def _excerpt(log: str) -> str:
    lines = log.splitlines()
    first = next((n for n, line in enumerate(lines) if _COMPLAINT.search(line)), 0)
    return " | ".join(line.strip() for line in lines[first : first + 12])[:1500]
