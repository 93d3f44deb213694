"""What the kernel says when replaced code complains: the right file and line, and a whole stack."""

from __future__ import annotations

import re

import pytest
from tests.fixmaker import Edit, FixMaker
from tests.vm.livepatched import Loaded

from kmend import lab
from kmend.factory.build import build
from kmend.factory.kernels.prepared import Kernel

SOURCE = "fs/aio.c"
FIRST = "\tnr_events = max(nr_events, num_possible_cpus() * 4);\n"
CHECKS = '\tif (nr_events == 777)\n\t\tBUG();\n\tWARN(nr_events == 778, "kmend: %u events\\n", nr_events);\n'


@pytest.mark.slow
def test_warnings_and_bugs_in_replaced_code(prepared: Kernel, maker: FixMaker, fresh: lab.Vm) -> None:
    built = build(prepared, [maker.fix(Edit(SOURCE, FIRST, CHECKS + FIRST))])
    assert [f.name for o in built.manifest.objects for f in o.functions] == ["ioctx_alloc"]
    line = maker.source(SOURCE)[: maker.source(SOURCE).index(FIRST)].count("\n") + 1
    level = Loaded(fresh, built)
    level.insert()
    fresh.run(["dmesg", "-c"])

    assert fresh.run(["/call", "io_setup", "778"]).text == "0\n"
    warning = fresh.run(["dmesg", "-c"]).text
    assert "kmend: 778 events\n" in warning
    found = re.search(r"WARNING: CPU: \d+ PID: \d+ at (\S+):(\d+) (\w+)\+\S+ \[(\w+)\]", warning)
    assert found is not None, warning
    assert (found[1], found[3], found[4]) == (SOURCE, "ioctx_alloc", level.name)
    assert abs(int(found[2]) - line) <= 3, "lines that are new count as their neighbours"
    assert _callers(warning) == ["__x64_sys_io_setup", "do_syscall_64", "entry_SYSCALL_64_after_hwframe"]

    killed = fresh.run(["/call", "io_setup", "777"], check=False)
    assert killed.text == ""
    assert killed.status != 0
    bug = fresh.run(["dmesg", "-c"]).text
    found = re.search(r"kernel BUG at (\S+):(\d+)!", bug)
    assert found is not None, bug
    assert found[1] == SOURCE
    assert abs(int(found[2]) - line) <= 3
    assert re.search(rf"RIP: 0010:ioctx_alloc\+0x\w+/0x\w+ \[{level.name}\]", bug)
    assert _callers(bug) == ["__x64_sys_io_setup", "do_syscall_64", "entry_SYSCALL_64_after_hwframe"]

    assert fresh.run(["/call", "io_setup", "7"]).text == "0\n", "the guest lives on"
    level.disable()
    level.remove()


def _callers(log: str) -> list[str]:
    """The frames above the one that complains; what has a question mark is a word on the stack that no frame accounts for."""
    trace = log.partition("<TASK>\n")[2].partition("</TASK>")[0]
    frames = [
        text for text in (re.sub(r"^\[[^]]*\]\s*", "", line).strip() for line in trace.splitlines()) if "+0x" in text
    ]
    names = [text.partition("+")[0] for text in frames if not text.startswith(("?", "RIP:"))]
    return [name for name in names if name not in {"ioctx_alloc", "die", "do_trap", "do_error_trap", "exc_invalid_op",
                                                   "asm_exc_invalid_op", "__warn", "report_bug", "handle_bug"}]  # fmt: skip
