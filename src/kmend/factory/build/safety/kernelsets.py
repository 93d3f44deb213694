"""What the whole kernel says of its functions, worked out once for a prepared kernel and kept beside its index.

- the *exit path*: what a task may still run after it has left the task list (`kmend.factory.build.exitpath`);
- *main loops*: functions that a kernel thread was started with and that wait inside a loop; functions that such a loop calls and
  that wait themselves; the idle loop; and the scheduler's own entries. Some task is in them nearly always, so a transition
  that replaces one may not complete: a thread never returns from its main loop, and livepatch's fake signal, which moves
  user tasks, only wakes it for another turn (`klp_send_signals`, kernel/livepatch/transition.c, Linux 6.1);
- what *may sleep*: reaches `schedule()` or `might_sleep()` by direct calls, reports of bugs and messages aside.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmend.core.durable import write_durably
from kmend.factory.build.callgraph import ARGUMENT_RELOCATIONS, FIRST_ARGUMENT, CallGraph
from kmend.factory.build.exitpath import exit_path
from kmend.factory.build.moduleview import ShippedModule
from kmend.factory.build.unit import Element
from kmend.factory.elf.instructions import Branch, direct_branches
from kmend.factory.kernels.prepared import KernelIndex

_KEPT = "functions-1.json"
"""The number is raised whenever a rule here or in `exitpath` changes."""
STARTERS = (
    "kthread_create_on_node", "__kthread_create_on_node", "kthread_create_on_cpu", "kernel_thread", "user_mode_thread",
    "create_io_thread",
)  # fmt: skip
"""What starts a kernel thread; the first argument is the thread's function (kernel/kthread.c, kernel/fork.c, 6.1)."""
_INDIRECT = ("kthread_worker_fn", "worker_thread")
"""Main loops that are started inside the file that defines them, where a call leaves no relocation."""
_FEW_CALLERS = 3
"""A function with more callers is one of the kernel's general ways to wait, not a part of somebody's main loop."""
MAIN_LOOP = "it is the main loop of a kernel thread, which never leaves it"
SLEEPERS = "every task that sleeps is in it"
IDLE = "an idle processor is in it, and goes on in the old code until it leaves the idle loop"
_SCHEDULER = ("schedule", "schedule_idle", "schedule_timeout", "io_schedule", "schedule_hrtimeout_range_clock")
_PREEMPTION = ("preempt_schedule", "preempt_schedule_notrace", "preempt_schedule_common", "preempt_schedule_irq",
               "__cond_resched")  # fmt: skip
_ENDS = ("do_exit", "do_task_dead", "kthread_exit")
_REPORTS = ("vprintk", "vprintk_emit", "_printk", "panic", "do_exit", "make_task_dead", "__warn", "__stack_chk_fail",
            "dump_stack", "die", "oops_end", "set_track_prepare")  # fmt: skip
"""What reports a bug or a message: it sleeps only on the way to a halt, or by giving up the processor for a moment."""


@dataclass(frozen=True)
class KernelSets:
    """The sets, as names of functions of vmlinux.

    Attributes:
        exit_path: see above.
        resident: a function's address -> why some task is in it nearly always.
        waits: functions that wait for something to happen: they call `schedule()`, or what does.
        sleeping: what may sleep.
    """

    exit_path: frozenset[str]
    resident: Mapping[int, str]
    waits: frozenset[str]
    sleeping: frozenset[str]

    @classmethod
    def of(cls, kernel: KernelIndex) -> KernelSets:
        """The sets of a kernel, from its folder or worked out now."""
        kept = kernel.folder / _KEPT
        return cls._read(kept) or cls._work_out(kernel, kept)

    @classmethod
    def _read(cls, kept: Path) -> KernelSets | None:
        try:
            loaded: dict[str, Any] = json.loads(kept.read_text())
            return cls(
                frozenset(loaded["exit_path"]),
                {int(address): why for address, why in loaded["resident"].items()},
                frozenset(loaded["waits"]),
                frozenset(loaded["sleeping"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @classmethod
    def _work_out(cls, kernel: KernelIndex, kept: Path) -> KernelSets:
        graph = CallGraph(kernel)
        found = cls(
            exit_path(graph),
            _Residents(kernel, graph).found,
            frozenset(_names(graph, _waiting(graph))),
            frozenset(_names(graph, _sleeping(graph))),
        )
        plain = {
            "exit_path": sorted(found.exit_path),
            "resident": found.resident,
            "waits": sorted(found.waits),
            "sleeping": sorted(found.sleeping),
        }
        write_durably(kept, json.dumps(plain).encode())
        return found


def _addresses(graph: CallGraph, names: Iterable[str]) -> set[int]:
    return {address for address in map(graph.address, names) if address is not None}


def _names(graph: CallGraph, addresses: Iterable[int]) -> list[str]:
    return [name for address in addresses for name in graph.names.get(address, ())]


def _waiting(graph: CallGraph) -> set[int]:
    """The scheduler's entries and what calls them directly."""
    found = _addresses(graph, _SCHEDULER)
    return found.union(*map(graph.callers, found)) - _addresses(graph, _ENDS)


def _sleeping(graph: CallGraph) -> set[int]:
    roots = _addresses(graph, (*_SCHEDULER, "__SCT__might_resched", "__might_sleep"))
    return graph.reaching(roots, frozenset(_addresses(graph, (*_PREEMPTION, *_REPORTS))))


class _Residents:
    """Finds the functions in which some task is nearly always."""

    def __init__(self, kernel: KernelIndex, graph: CallGraph) -> None:
        self._kernel = kernel
        self._graph = graph
        self._waits = _waiting(graph)
        self.found: dict[int, str] = {}
        for name in ("schedule", "schedule_timeout"):
            self._note(name, SLEEPERS)
        self._note("cpu_startup_entry", IDLE)
        self._note("do_idle", IDLE)
        started = {address for _, address in graph.given_to(STARTERS)} | _addresses(graph, _INDIRECT)
        for address in sorted(started):
            self._look_at(address)

    def _look_at(self, address: int) -> None:
        name = self._graph.names[address][0]
        inner = [
            callee
            for _, callee in self._graph.from_function(address)
            if callee != address and callee in self._waits and len(self._graph.callers(callee)) <= _FEW_CALLERS
        ]
        if self._loops(address):
            self._note(name, MAIN_LOOP)
        elif any(map(self._loops, inner)):
            self._note(name, "it is the function of a kernel thread, and calls the thread's main loop")
        else:
            return
        for callee in inner:
            self._note(self._graph.names[callee][0], f"a kernel thread waits in it; {name} calls it")

    def _note(self, name: str, why: str) -> None:
        address = self._graph.address(name)
        if address is not None:
            self.found.setdefault(address, why)

    def _loops(self, address: int) -> bool:
        code = self._kernel.vmlinux.content(address, self._graph.size(address)) or b""
        branches = list(direct_branches(code))
        return waits_in_a_loop(branches, [b.field for b in branches if address + b.target in self._waits])


def waits_in_a_loop(branches: Iterable[Branch], calls: Iterable[int]) -> bool:
    """Whether a jump back inside a function leads over one of `calls`, which are offsets of fields in it."""
    backward = [(branch.target, branch.field) for branch in branches if 0 <= branch.target < branch.field]
    return any(low <= call <= high for call in calls for low, high in backward)


def module_residents(module: ShippedModule, waits: frozenset[str]) -> dict[str, str]:
    """The main loops of kernel threads that a module starts; see `KernelSets.resident`."""
    found = {}
    for function in _given_by(module):
        relocations = [
            entry for entry in function.section.relocations if 0 <= entry.offset - function.start < function.size
        ]
        calls = [entry.offset - function.start for entry in relocations if entry.symbol.name in waits]
        if waits_in_a_loop(direct_branches(function.content), calls):
            found[function.name] = MAIN_LOOP
    return found


def _given_by(module: ShippedModule) -> Iterator[Element]:
    """The module's functions with which it starts kernel threads."""
    for section in module.image.sections:
        if not section.executable or not any(entry.symbol.name in STARTERS for entry in section.relocations):
            continue
        ordered = sorted(section.relocations, key=lambda entry: entry.offset)
        for number, call in enumerate(ordered):
            if call.symbol.name not in STARTERS:
                continue
            for entry in reversed(ordered[max(0, number - ARGUMENT_RELOCATIONS) : number]):
                if section.content[max(0, entry.offset - 3) : entry.offset] == FIRST_ARGUMENT:
                    if entry.symbol.section is not None and entry.symbol.section.executable:
                        target, _ = module.unit.element_at(entry.symbol.section, entry.symbol.value + entry.addend)
                        yield target
                    break
