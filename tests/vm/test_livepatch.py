"""Livepatches in the kernel that they are for: loaded, used, replaced, taken off, and refused by a kernel that is another."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fixmaker import Edit, FixMaker
from tests.vm.livepatched import Loaded, compiled, complaints, unpacked

from kmend import lab
from kmend.factory.build import Built, build
from kmend.factory.build.glue import choose_anchors
from kmend.factory.kernels.prepared import Kernel

SHOWN = "\treturn 0;\n}\n\nstatic int __init"
"""The end of a file's show function."""

STRING = Edit("fs/proc/loadavg.c", "%u/%d %d\\n", "%u/%d %d mended\\n")
WORDS = """\
static const char *const words[] = { "none", "some" };

static noinline void say(struct seq_file *m, unsigned long n)
{
	seq_puts(m, words[n > 0]);
	seq_putc(m, '\\n');
}

"""
NEW_CODE = (
    Edit("fs/proc/uptime.c", "static int uptime_proc_show(", f"{WORDS}static int uptime_proc_show("),
    Edit("fs/proc/uptime.c", SHOWN, f"\tsay(m, uptime.tv_sec + 1);\n{SHOWN}"),
)
DECLARED = "extern const char suffix[];\nvoid note(struct seq_file *m);\n\n"
DEFINED = 'const char suffix[] = "suffix\\n";\n\nvoid note(struct seq_file *m)\n{\n\tseq_puts(m, suffix);\n}\n\n'
SHARED = (
    Edit("fs/proc/cmdline.c", "static int cmdline_proc_show(", f"{DECLARED}{DEFINED}static int cmdline_proc_show("),
    Edit("fs/proc/cmdline.c", SHOWN, f"\tnote(m);\n{SHOWN}"),
    Edit("fs/proc/version.c", "static int version_proc_show(", f"{DECLARED}static int version_proc_show("),
    Edit("fs/proc/version.c", SHOWN, f"\tseq_write(m, suffix, 3);\n\tnote(m);\n{SHOWN}"),
)
SYSTEM_CALL = Edit("fs/filesystems.c", "\t\t\tretval = fs_maxindex();\n", "\t\t\tretval = fs_maxindex() + 1000;\n")
PRINTED = '\t\tseq_printf(m, "%s\\t%s\\n",'
WARNING = Edit("fs/filesystems.c", PRINTED, f'\t\tWARN_ON_ONCE(!strcmp(tmp->name, "sysfs"));\n{PRINTED}')
NAP = "\tif (!t->task)\n\t\treturn 0;\n\n\trestart ="
SHARED_SECTION = Edit("kernel/time/hrtimer.c", NAP, NAP.replace(" 0;", " READ_ONCE(t->timer.node.expires) == 77;"))
LIMIT = "\tif (nfds > rlimit(RLIMIT_NOFILE))\n\t\treturn -EINVAL;\n\n\tlen = min_t"
FAULTS = Edit("fs/select.c", LIMIT, f"\tif (nfds == 7)\n\t\treturn -EXDEV;\n{LIMIT}")
GENERATION = "\tinode->i_generation = 0;\n\tinode->i_pipe"
PER_CPU = Edit("fs/inode.c", GENERATION, GENERATION.replace("0", "3"))
CODE = "\ttsk->exit_code = code;\n\ttaskstats_exit"
LAST_PUT = "\tif (refcount_dec_and_test(&task->rcu_users))\n\t\tcall_rcu"
EXIT = (
    Edit("kernel/exit.c", CODE, f"\tif (code == 77 << 8)\n\t\ttsk->signal->group_exit_code = 78 << 8;\n{CODE}"),
    Edit(
        "kernel/exit.c",
        "\tkprobe_flush_task(tsk);\n",
        "\tkprobe_flush_task(tsk);\n\tWRITE_ONCE(tsk->exit_signal, 17);\n",
    ),
    Edit("kernel/exit.c", LAST_PUT, f"\tWARN_ON_ONCE(refcount_read(&task->rcu_users) > 2);\n{LAST_PUT}"),
)
MUCH = (STRING, *NEW_CODE, *SHARED, SYSTEM_CALL, SHARED_SECTION, FAULTS, PER_CPU)


@pytest.fixture(scope="module")
def first(prepared: Kernel, maker: FixMaker) -> Built:
    """Level 1: a dozen functions in eight files."""
    return build(prepared, [maker.fix(*MUCH)], level=1)


@pytest.fixture(scope="module")
def second(prepared: Kernel, maker: FixMaker) -> Built:
    """Level 2: one function of level 1, otherwise."""
    return build(prepared, [maker.fix(Edit(STRING.path, STRING.old, "%u/%d %d healed\\n"))], level=2, base=1)


@pytest.fixture(scope="module")
def image(prepared: Kernel) -> lab.UnpackedKernel:
    """The prepared kernel's own package."""
    return unpacked(prepared)


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The probe, compiled so that it needs nothing of the guest."""
    return compiled(Path(__file__).with_name("probe.c"), tmp_path_factory.mktemp("probe") / "probe")


@pytest.fixture
def guest(image: lab.UnpackedKernel, probe: Path) -> Iterator[lab.Vm]:
    """A fresh guest with the probe."""
    with lab.boot(image) as vm:
        vm.put(probe, "/probe")
        yield vm


def probed(vm: lab.Vm) -> dict[str, str]:
    """What the probe says, by its first words."""
    lines = vm.run(["/probe"]).text.splitlines()
    return {
        name: rest for name, _, rest in (re.sub(r" (-?\d+)", r"|\1", line, count=1).partition("|") for line in lines)
    }


def test_the_kernels_own_order_of_symbols(guest: lab.Vm, prepared: Kernel) -> None:
    """sympos counts along this very list."""
    running = [line.split() for line in guest.read("/proc/kallsyms").decode().splitlines()]
    names = [words[2] for words in running if len(words) == 3]
    assert names == [symbol.name for symbol in prepared.kallsyms.symbols]
    slides = {
        int(words[0], 16) - symbol.address
        for words, symbol in zip(running, prepared.kallsyms.symbols, strict=False)
        if symbol.address >= 1 << 63
    }
    assert len(slides) == 1, "every function lies where it was linked, but for one distance"


def test_loaded_replaced_and_taken_off(guest: lab.Vm, first: Built, second: Built) -> None:
    before = {path: guest.read(path) for path in ("/proc/cmdline", "/proc/version")}
    plain = probed(guest)
    assert plain["nap"] == "0"
    assert plain["poll of seven"].startswith("0 ")
    assert plain["poll into read-only memory"] == "-1 EFAULT"

    one = Loaded(guest, first)
    one.insert()
    assert one.enabled
    folders = set(guest.sh(f"ls -d {one.folder}/vmlinux/*/ | xargs -n1 basename").text.split())
    (patched,) = first.manifest.objects
    assert folders == {function.sysfs_name for function in patched.functions}
    assert guest.read("/proc/loadavg").endswith(b" mended\n")
    assert guest.read("/proc/uptime").endswith(b"\nsome\n")
    assert guest.read("/proc/cmdline") == before["/proc/cmdline"] + b"suffix\n"
    assert guest.read("/proc/version") == before["/proc/version"] + b"sufsuffix\n"
    mended = probed(guest)
    assert int(mended["filesystems"]) == int(plain["filesystems"]) + 1000
    assert mended["nap"] == "0"
    assert mended["poll of seven"] == "-1 EXDEV"
    assert mended["poll into read-only memory"] == "-1 EFAULT", "a fault in the new code is mended by its own table"
    counted = int(guest.read("/proc/sys/fs/inode-nr").split()[0])
    guest.sh("mkdir /many && cd /many && for n in $(seq 200); do : > $n; done")
    assert int(guest.read("/proc/sys/fs/inode-nr").split()[0]) >= counted + 200, "the count is the kernel's own"

    two = Loaded(guest, second)
    two.insert()
    assert two.enabled
    assert guest.sh("ls /sys/kernel/livepatch").text.split() == [two.name], "the level before is gone from livepatch"
    assert guest.read("/proc/loadavg").endswith(b" healed\n")
    assert guest.read("/proc/version") == before["/proc/version"]
    assert probed(guest) == plain
    one.remove()

    two.disable()
    two.remove()
    assert b"ed\n" not in guest.read("/proc/loadavg")
    assert {path: guest.read(path) for path in before} == before
    assert probed(guest) == plain
    assert b"kmend_" not in guest.read("/proc/modules")
    assert complaints(guest.kernel_log()) == []


def test_the_exit_path_with_all_its_tables(guest: lab.Vm, prepared: Kernel, maker: FixMaker) -> None:
    """do_exit() holds jump labels, static calls, alternatives and warnings; and a task that runs it never comes back."""
    built = build(prepared, [maker.fix(*EXIT, WARNING)], level=3)
    assert any(reason.startswith("do_exit ") for reason in built.manifest.pinned)
    guest.sh(
        "mkdir -p /trace && mount -t tracefs none /trace && echo 1 > /trace/events/sched/sched_process_exit/enable"
    )
    assert guest.sh("sh -c 'exit 77'", check=False).status == 77
    level = Loaded(guest, built)
    level.insert()
    assert guest.sh("sh -c 'exit 77'", check=False).status == 78
    assert guest.sh("sh -c 'exit 76'", check=False).status == 76
    guest.sh("echo > /trace/trace; for n in $(seq 300); do true | cat & done; wait")
    traced = guest.sh("grep -c 'sched_process_exit: comm=' /trace/trace").text
    assert int(traced) >= 300, "a tracepoint that was on before works in the new code"
    guest.sh("echo 0 > /trace/events/sched/sched_process_exit/enable; echo > /trace/trace; sh -c 'exit 1'", check=False)
    assert guest.sh("grep -c 'sched_process_exit: comm=' /trace/trace", check=False).text == "0\n", (
        "and can be turned off"
    )
    assert complaints(guest.kernel_log()) == []

    guest.read("/proc/filesystems")
    log = guest.kernel_log()
    line = next(n for n, text in enumerate(maker.source(WARNING.path).splitlines(), 1) if '"%s\\t%s\\n",' in text)
    found = re.search(r"WARNING: CPU: \d+ PID: \d+ at (\S+):(\d+) (\w+)\+\S+ \[(\w+)\]", log)
    assert found is not None, log[-3000:]
    assert found[1] == WARNING.path
    assert abs(int(found[2]) - line) <= 2, (
        "a line number is that of the kernel's source, but for the lines that are new"
    )
    assert (found[3], found[4]) == ("filesystems_proc_show", level.name)
    trace = log[found.start() :].partition("<TASK>\n")[2]
    assert re.match(r"\S+ +\S+  seq_read_iter\+", trace), "its stack is unwound without guesses: the caller comes first"


def test_another_kernel_is_refused_by_the_livepatch_itself(guest: lab.Vm, prepared: Kernel, second: Built) -> None:
    """Vermagic does not tell two uploads of one release apart; the version string and the layout do."""
    version = prepared.identity.version.encode()
    assert second.module.count(version) == 1
    anchors = choose_anchors(prepared)
    distance = struct.pack("<I", anchors[1].address - anchors[0].address)
    assert second.module.count(distance) == 1
    other_version = second.module.replace(version, version[:-2] + b"0)")
    other_layout = second.module.replace(distance, struct.pack("<I", anchors[1].address - anchors[0].address + 16))
    name = second.manifest.module.name
    for content, said in (
        (other_version, f'{name}: built for "{version[:-2].decode()}0)", this is "{version.decode()}"'),
        (other_layout, f"{name}: this kernel is laid out differently at {anchors[1].name}"),
    ):
        guest.put_bytes(content, "/other.ko")
        result = guest.run(["insmod", "/other.ko"], check=False)
        assert result.status != 0
        assert b"invalid module format" in result.stderr.lower() or b"exec format" in result.stderr.lower()
        assert said in guest.kernel_log()
        assert guest.sh("ls /sys/kernel/livepatch").text == ""
        assert name not in guest.read("/proc/modules").decode()
    assert b"healed" not in guest.read("/proc/loadavg")
    Loaded(guest, second).insert()
    assert b"healed" in guest.read("/proc/loadavg")
