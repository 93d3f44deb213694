"""One level after another under load: on the exit path, with a task that stays inside, with a lock that many want."""

from __future__ import annotations

import itertools
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fixmaker import Edit, FixMaker
from tests.vm.livepatched import Loaded, compiled, complaints

from kmend import lab
from kmend.factory.build import Built, build
from kmend.factory.kernels.prepared import Kernel

REPLACEMENTS = 200
REPLACE = """\
insmod $1 || exit 1
while [ "$(cat /sys/kernel/livepatch/$2/transition)" != 0 ]; do usleep 20000; done
ls /sys/kernel/livepatch
sh -c 'exit 77'
"""
CODE = "\ttsk->exit_code = code;\n\ttaskstats_exit"
FLUSHED = "\tkprobe_flush_task(tsk);\n"
LAST_PUT = "\tif (refcount_dec_and_test(&task->rcu_users))\n\t\tcall_rcu"
LIMIT = "\tif (nfds > rlimit(RLIMIT_NOFILE))\n\t\treturn -EINVAL;\n\n\tlen = min_t"
UNLOCK = "\tmutex_unlock(&sock_flow_mutex);\n\n\treturn ret;\n"


def exit_with(status: int) -> list[Edit]:
    """Three functions of the exit path; a process that would exit with 77 exits with that status."""
    return [
        Edit(
            "kernel/exit.c", CODE, f"\tif (code == 77 << 8)\n\t\ttsk->signal->group_exit_code = {status} << 8;\n{CODE}"
        ),
        Edit("kernel/exit.c", FLUSHED, f"{FLUSHED}\tWRITE_ONCE(tsk->exit_signal, 17);\n"),
        Edit("kernel/exit.c", LAST_PUT, f"\tWARN_ON_ONCE(refcount_read(&task->rcu_users) > {status});\n{LAST_PUT}"),
    ]


def renamed(built: Built, number: int) -> tuple[str, bytes]:
    """The same livepatch under another name of the same length, for it can be loaded only once under one name."""
    name = built.manifest.module.name
    other = f"{name[:-4]}{number:04x}"
    assert built.module.count(name.encode()) >= 2
    return other, built.module.replace(name.encode(), other.encode())


Figures = Callable[[str], None]


@pytest.fixture
def figures(capsys: pytest.CaptureFixture[str]) -> Figures:
    """Shows a figure of a test that passes, whatever pytest hides."""

    def show(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{text}\n")

    return show


class Busy:
    """A program that goes on in a guest until it is told to stop."""

    def __init__(self, vm: lab.Vm, *command: str) -> None:
        self._vm = vm
        vm.sh("rm -f /stop")
        self._command = vm.start_command(command)

    def stop(self) -> int:
        """End it; returns the number that it prints."""
        self._vm.sh(": > /stop")
        return int(self._command.wait(60).text)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of programs that keep a guest busy."""
    folder = tmp_path_factory.mktemp("busy")
    for name in ("storm", "contend"):
        compiled(Path(__file__).with_name(f"{name}.c"), folder / name)
    return folder


@pytest.fixture
def busy_guest(fresh: lab.Vm, programs: Path) -> lab.Vm:
    """A guest with those programs."""
    fresh.put(programs, "/busy")
    return fresh


@pytest.mark.slow
def test_the_exit_path_replaced_again_and_again(
    prepared: Kernel, maker: FixMaker, busy_guest: lab.Vm, figures: Figures
) -> None:
    vm = busy_guest
    variants = [(status, build(prepared, [maker.fix(*exit_with(status))], level=1)) for status in (78, 79)]
    assert all(built.manifest.pinned for _, built in variants)
    levels = [
        (status, *renamed(built, number))
        for number, (status, built) in zip(range(REPLACEMENTS), itertools.cycle(variants), strict=False)
    ]
    for status, name, module in levels:
        vm.put_bytes(module, f"/levels/{status}/{name}.ko")
    storm = Busy(vm, "/busy/storm", "3")
    started = time.monotonic()
    for status, name, _ in levels:
        done = vm.run(["sh", "-c", REPLACE, "sh", f"/levels/{status}/{name}.ko", name], check=False, timeout=120)
        assert (done.status, done.text) == (status, f"{name}\n"), (done.stderr, vm.kernel_log()[-3000:])
    seconds = time.monotonic() - started
    exits = storm.stop()
    assert exits > 10 * REPLACEMENTS
    log = vm.kernel_log()
    assert log.count("patching complete") == REPLACEMENTS
    assert complaints(log) == []
    figures(f"{REPLACEMENTS} replacements in {seconds:.0f} s; {exits} threads and processes exited")


def poll_of_seven(error: str) -> Edit:
    """do_sys_poll() with an answer of its own to seven descriptors."""
    return Edit("fs/select.c", LIMIT, f"\tif (nfds == 7)\n\t\treturn -{error};\n{LIMIT}")


@pytest.mark.slow
def test_a_task_that_stays_inside_while_levels_change(prepared: Kernel, maker: FixMaker, fresh: lab.Vm) -> None:
    """It holds a transition up until the kernel taps on its shoulder; its poll goes on as if nothing had been."""
    errors = ("EXDEV", "ENOSPC", "EMLINK")
    levels = [
        Loaded(fresh, build(prepared, [maker.fix(poll_of_seven(error))], level=number))
        for number, error in enumerate(errors, 1)
    ]
    levels[0].insert()
    fresh.sh("mkfifo /fifo")
    parked = fresh.start_command(["/call", "park", "/fifo"])
    fresh.sh("until pidof call > /dev/null && grep -q do_sys_poll /proc/$(pidof call)/stack; do usleep 50000; done")
    task = f"/proc/{fresh.sh('pidof call').text.strip()}"
    for number, (old, new, error) in enumerate(zip(levels, levels[1:], errors[1:], strict=False), 1):
        stack = fresh.read(f"{task}/stack").decode()
        frames = re.findall(r"\] (\w+)\+0x\w+/0x\w+(?: \[(\w+)\])?", stack)
        inside = frames.index(("do_sys_poll", old.name))
        entry = "__x64_sys_poll" if number == 1 else "do_restart_poll"
        above = [name for name, _ in frames[inside + 1 :]]
        assert above == [entry, "do_syscall_64", "entry_SYSCALL_64_after_hwframe"], stack
        assert "?" not in stack
        fresh.run(["insmod", f"/{new.name}.ko"])
        time.sleep(2)
        assert fresh.read(f"{new.folder}/transition") == b"1\n"
        assert fresh.read(f"{task}/patch_state") == b"0\n", "the task that is inside is the one that is waited for"
        assert fresh.run(["/call", "poll", "7"]).text == f"{error}\n", "others run the new code already"
        new.settle()
        assert fresh.kernel_log().count("livepatch: signaling remaining tasks") == number
        assert f"[{new.name}]" in fresh.read(f"{task}/stack").decode(), "it has gone over, and waits as before"
        old.remove()
    fresh.sh("echo > /fifo")
    assert parked.wait(30).text == "1 returns, result 1, events 1\n"
    levels[-1].disable()
    levels[-1].remove()
    assert complaints(fresh.kernel_log()) == []


LOCKED = "net/core/sysctl_net_core.c"
HEADERS = "#include <linux/mm.h>\n"
GUARD = """
	{
		long *shared = klp_shadow_get_or_alloc(&init_net, 0x6b6d02, 2 * sizeof(*shared), GFP_KERNEL, NULL, NULL);
		long count = shared ? shared[0] : 0;

		if (write && shared) {
			WARN_ON(shared[1]);
			shared[1] = 1;
			usleep_range(50, 100);
			shared[1] = 0;
			shared[0] = count + 1;
		} else if (shared) {
			pr_info("kmend: %ld writes\\n", count);
		}
	}
"""
"""A check that nobody else is behind the lock that is held, and a count that is lost if someone is."""
GUARDED = (
    Edit(LOCKED, HEADERS, f"{HEADERS}#include <linux/livepatch.h>\n#include <linux/delay.h>\n"),
    Edit(LOCKED, UNLOCK, GUARD + UNLOCK),
)


@pytest.mark.slow
def test_a_lock_that_many_want_while_levels_change(
    prepared: Kernel, maker: FixMaker, busy_guest: lab.Vm, figures: Figures
) -> None:
    """The lock is a static local. If each level had its own, two tasks would be behind it at once, and counts be lost."""
    vm = busy_guest
    path = "/proc/sys/net/core/rps_sock_flow_entries"
    variants = [build(prepared, [maker.fix(*GUARDED)], level=level) for level in (1, 2)]
    first = Loaded(vm, variants[0])
    first.insert()
    writers = Busy(vm, "/busy/contend", path, "6")
    before = first.name
    rounds = 20
    for number in range(rounds):
        name, module = renamed(variants[(number + 1) % 2], number)
        vm.put_bytes(module, f"/{name}.ko")
        vm.sh(
            f'insmod /{name}.ko && while [ "$(cat /sys/kernel/livepatch/{name}/transition)" != 0 ]; do usleep 20000; done; '
            f"until rmmod {before} 2> /dev/null; do usleep 100000; done",
            timeout=120,
        )
        before = name
    written = writers.stop()
    assert written > 20 * rounds
    vm.run(["cat", path])
    assert f"kmend: {written} writes" in vm.kernel_log(), "no write was lost"
    assert complaints(vm.kernel_log()) == []
    figures(f"{written} writes through {rounds} replacements")
