"""Who else has a hand on the functions that a level patches: kprobes, BPF programs, other users of ftrace.

Two lists of the kernel's: `enabled_functions` of tracefs (`kernel/trace/ftrace.c`, `t_show`: per function the number of users,
then flags: `R` registers are saved, `I` its users may change the instruction pointer, `D` a BPF program is called directly) and
`kprobes/list` of debugfs (`kernel/kprobes.c`, `report_probe`). Both are for root only, and either file system may not be
mounted: then the answer is that it is not known.

Only one user may change the instruction pointer (`__ftrace_hash_update_ipmodify`, EBUSY): a second livepatch, or a kprobe with
a post handler. A kprobe inside a function that is replaced never fires again, since its old body is not run any more; a BPF
program at its entry stays (since Linux 6.0 it shares the function with a livepatch, commit 53cd885bc5c3).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from kmend.agent.paths import Paths

MAX_LINES = 200_000
_ENABLED = re.compile(r"^(\S+?)(?: \[\S+\])? \((\d+)\)(.*)$")
_KPROBE = re.compile(r"^\S+\s+([kr])\s+(\S+?)\+0x([0-9a-f]+)\s*(.*)$")


@dataclass(frozen=True, slots=True)
class Tracer:
    """Another user of a function.

    Attributes:
        exclusive: the kernel will refuse a livepatch of that function.
        what: for people.
    """

    function: str
    exclusive: bool
    what: str


@dataclass(frozen=True, slots=True)
class Tracers:
    """What was found, and which of the two lists could not be read, for people."""

    found: tuple[Tracer, ...]
    unknown: tuple[str, ...]


def tracers(paths: Paths, functions: Collection[str], ours: Collection[str]) -> Tracers:
    """Look for other users of `functions`.

    Args:
        ours: those of them that a livepatch has already, whose entry in `enabled_functions` is its own.
    """
    unknown = []
    found: list[Tracer] = []
    enabled = _lines(
        paths.sys / "kernel/tracing/enabled_functions", paths.sys / "kernel/debug/tracing/enabled_functions"
    )
    if enabled is None:
        unknown.append("ftrace and BPF users (tracefs is not mounted, or may not be read)")
    else:
        found += _enabled(enabled, functions, ours)
    probes = _lines(paths.sys / "kernel/debug/kprobes/list")
    if probes is None:
        unknown.append("kprobes (debugfs is not mounted, or may not be read)")
    else:
        found += _kprobes(probes, functions)
    return Tracers(tuple(found), tuple(unknown))


def _enabled(lines: Iterable[str], functions: Collection[str], ours: Collection[str]) -> list[Tracer]:
    found = []
    for line in lines:
        match = _ENABLED.match(line)
        if match is None or match[1] not in functions:
            continue
        name, users, rest = match[1], int(match[2]), match[3]
        flags = rest.split("tramp:")[0].split("->")[0].split()
        who = "; ".join(
            part.strip() for part in re.findall(r"(?:tramp|direct(?:\(\w+\))?|ops):?\s*(?:ERROR!)?([^>]*)", rest)
        )
        if "D" in flags or "direct" in rest:
            found.append(Tracer(name, False, f"a BPF program is attached to {name}"))
        elif "I" in flags and name not in ours:
            found.append(Tracer(name, True, f"{name} is redirected already{': ' + who if who else ''}"))
        elif name not in ours or users > 1:
            found.append(Tracer(name, False, f"{name} is being traced{': ' + who if who else ''}"))
    return found


def _kprobes(lines: Iterable[str], functions: Collection[str]) -> list[Tracer]:
    found = []
    for line in lines:
        match = _KPROBE.match(line)
        if match is None or match[2] not in functions or "[DISABLED]" in match[4]:
            continue
        kind = "kretprobe" if match[1] == "r" else "kprobe"
        if int(match[3], 16) == 0 or "[FTRACE]" in match[4]:
            what = (
                f"a {kind} is at the entry of {match[2]}; one with a post handler makes the kernel refuse the livepatch"
            )
        else:
            what = f"a {kind} is inside {match[2]} (+0x{match[3]}); it does not fire any more once the function is replaced"
        found.append(Tracer(match[2], False, what))
    return found


def _lines(*paths: Path) -> list[str] | None:
    for path in paths:
        try:
            with path.open(encoding="utf-8", errors="replace") as stream:
                return [line.rstrip("\n") for _, line in zip(range(MAX_LINES), stream, strict=False)]
        except OSError:
            continue
    return None
