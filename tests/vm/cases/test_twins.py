"""Every table that the kernel applies to code, applied to a replacement as it is to the original.

A fix that changes a constant leaves all instructions as they were. So the original and its replacement, both read from the
running kernel's memory, must be the same instructions after the kernel has rewritten them: alternatives, paravirtual calls,
retpolines and returns, lock prefixes, jump labels, static calls. And they must stay so when keys are turned.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fixmaker import Edit, FixMaker
from tests.vm.cases.conftest import furnished
from tests.vm.cases.memory import Symbols, Twins, peek, redirected
from tests.vm.livepatched import Loaded, complaints

from kmend import lab
from kmend.factory.build import build
from kmend.factory.kernels.prepared import Kernel

EDITS = (
    Edit("kernel/exit.c", "Attempted to kill init! exitcode", "Attempted to kill init? exitcode"),
    Edit(
        "fs/select.c",
        "\tif (nfds > rlimit(RLIMIT_NOFILE))\n\t\treturn -EINVAL;\n\n\tlen = min_t",
        "\tif (nfds > rlimit(RLIMIT_NOFILE))\n\t\treturn -EXDEV;\n\n\tlen = min_t",
    ),
    Edit("mm/page_alloc.c", "__GFP_NOFAIL) && (order > 1));", "__GFP_NOFAIL) && (order > 2));"),
    Edit(
        "drivers/block/zram/zram_drv.c",
        "\tdisksize = memparse(buf, NULL);\n\tif (!disksize)\n\t\treturn -EINVAL;\n",
        "\tdisksize = memparse(buf, NULL);\n\tif (!disksize)\n\t\treturn -EXDEV;\n",
    ),
)
CONSTANTS = {
    "do_exit": [],
    "do_sys_poll": [(-22, -18)],
    "get_page_from_freelist": [(1, 2)],
    "disksize_store": [(-22, -18)],
}
TURNED = (
    ("get_page_from_freelist", "echo {} > /proc/sys/vm/numa_stat", "0", "1"),
    ("do_exit", "echo {} > /trace/events/sched/sched_process_exit/enable", "1", "0"),
    ("get_page_from_freelist", "echo {} > /trace/events/kmem/mm_page_alloc_zone_locked/enable", "1", "0"),
    ("do_exit", "echo {} > /sys/kernel/debug/sched/preempt", "full", "voluntary"),
)
"""A jump label of the kernel's own, tracepoints, static calls: what turns them and back, and where it is seen."""


@pytest.mark.slow
def test_what_is_rewritten(prepared: Kernel, maker: FixMaker, image: lab.UnpackedKernel, call: Path) -> None:
    built = build(prepared, [maker.fix(*EDITS)])
    functions = {f.name: (o.name, f) for o in built.manifest.objects for f in o.functions}
    assert functions.keys() == CONSTANTS.keys()
    with furnished(image, call, "zram") as vm:
        plain = Symbols(vm)
        places = {name: plain.address(name, "" if home == "vmlinux" else home) for name, (home, _) in functions.items()}
        untouched = {name: peek(vm, places[name], f.old_size) for name, (_, f) in functions.items()}
        assert not any(redirected(code) for code in untouched.values())
        level = Loaded(vm, built)
        level.insert()
        symbols = Symbols(vm)
        twins = [
            Twins(name, places[name], symbols.address(name, level.name), f.new_size)
            for name, (_, f) in functions.items()
            if f.old_size == f.new_size
        ]
        assert len(twins) == len(functions), "nothing but constants changes"

        def images() -> dict[str, bytes]:
            found = {}
            for pair in twins:
                old, new = peek(vm, pair.old, pair.size), peek(vm, pair.new, pair.size)
                assert redirected(old)
                assert not redirected(new)
                constants = [(_signed(a), _signed(b)) for a, b in pair.constants(symbols, old, new)]
                assert constants == CONSTANTS[pair.name], pair.name
                found[pair.name] = old[5:]
            return found

        at_rest = images()
        assert at_rest == {name: code[5:] for name, code in untouched.items()}
        for name, command, there, back in TURNED:
            vm.sh(command.format(there))
            turned = images()
            assert turned[name] != at_rest[name], f"{command.format(there)} changes {name}"
            vm.sh(command.format(back))
            assert images() == at_rest
        level.disable()
        assert {name: peek(vm, places[name], f.old_size) for name, (_, f) in functions.items()} == untouched
        assert complaints(vm.kernel_log()) == []


def _signed(value: int) -> int:
    """A 32- or 64-bit constant with its sign."""
    for width in (1 << 64, 1 << 32):
        if value >= width >> 1 and value < width and width - value < 4096:
            return value - width
    return value
