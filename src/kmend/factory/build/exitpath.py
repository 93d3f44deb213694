"""Functions that a task may still run after it has left the task list, inside `do_exit()`.

A livepatch's transition waits for every task in the task list. A task that `release_task()` has unhashed is no longer there,
but goes on through the rest of `do_exit()` into its last `schedule()`; if it runs a replaced function, the module must stay, or
the task returns into freed memory. So a level that replaces any of these is pinned until reboot.

The set is an over-approximation: everything reached by direct calls from `release_task()` and `do_task_dead()` and from what
`do_exit()` calls, except what it certainly calls before `exit_notify()`; and all of `kernel/sched/`, which is also entered
through pointers (`kernel/exit.c`, `do_exit`, Linux 6.1).
"""

from __future__ import annotations

from collections.abc import Iterable

from kmend.factory.build.callgraph import CallGraph

_ROOTS = ("exit_notify", "release_task", "do_task_dead", "make_task_dead")
_BEFORE = frozenset(
    {
        "__io_uring_cancel", "exit_signals", "sync_mm_rss", "acct_update_integrals", "hrtimer_cancel", "exit_itimers",
        "acct_collect", "tty_audit_exit", "audit_free", "__audit_free", "taskstats_exit", "exit_mm", "exit_mm_release",
        "mm_update_next_owner", "mmput", "acct_process", "exit_sem", "exit_shm", "exit_files", "exit_fs", "disassociate_ctty",
        "exit_task_namespaces", "task_work_run", "exit_thread", "perf_event_exit_task", "sched_autogroup_exit_task",
        "cgroup_exit", "flush_ptrace_hw_breakpoint", "exit_tasks_rcu_start", "ptrace_notify", "zap_pid_ns_processes",
        "exit_ptrace", "group_send_sig_info", "exit_oom_victim",
    }
)  # fmt: skip
"""What `do_exit()` calls, itself or through functions inlined into it, while the task is still in the task list (6.1)."""
_FOLDERS = ("kernel/sched/",)


def pin_reasons(names: frozenset[str], functions: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Why the module must stay loaded: one sentence a function, empty if it may be removed.

    Args:
        names: the kernel's exit path.
        functions: (source file, function) of what the livepatch replaces.
    """
    return tuple(
        f"{function} may run in a task that has already left the task list"
        for source, function in functions
        if function in names or source.startswith(_FOLDERS)
    )


def exit_path(calls: CallGraph) -> frozenset[str]:
    """Names of the functions that may run in an unhashed task, as far as direct calls tell."""
    found = {address for address in map(calls.address, (*_ROOTS, "do_exit")) if address is not None}
    todo = [address for address in map(calls.address, _ROOTS) if address is not None]
    do_exit = calls.address("do_exit")
    if do_exit is not None:
        todo += [
            callee
            for _, callee in calls.from_function(do_exit)
            if not _BEFORE.intersection(calls.names.get(callee, ()))
        ]
    found.update(todo)
    while todo:
        fresh = {callee for _, callee in calls.from_function(todo.pop())} - found
        found |= fresh
        todo += fresh
    return frozenset(name for address in found for name in calls.names.get(address, ()))
