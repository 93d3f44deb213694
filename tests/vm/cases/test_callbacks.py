"""Callbacks of built-in code and of modules that are there, come, are refused and go."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fixmaker import Edit, FixMaker
from tests.vm.cases.conftest import furnished
from tests.vm.cases.test_modules import file_of
from tests.vm.livepatched import Loaded, complaints

from kmend import lab
from kmend.factory.build import build
from kmend.factory.kernels.prepared import Kernel

PIPE = "fs/pipe.c"
ZRAM = "drivers/block/zram/zram_drv.c"
BRD = "drivers/block/brd.c"
STATE = Edit(ZRAM, "\tval = init_done(zram);\n", "\tval = init_done(zram) + 40;\n")
SIZE = 1048576
CALLBACKS = """
#include <linux/livepatch.h>

static int __used kmend_pre_patch(struct klp_object *object)
{{
	pr_info("kmend: pre_patch %s\\n", object->name ?: "vmlinux");
	return panic_timeout == {veto} ? -ENODEV : 0;
}}

static void __used kmend_post_patch(struct klp_object *object)
{{
	pr_info("kmend: post_patch %s\\n", object->name ?: "vmlinux");
	{there}
}}

static void __used kmend_pre_unpatch(struct klp_object *object)
{{
	pr_info("kmend: pre_unpatch %s\\n", object->name ?: "vmlinux");
}}

static void __used kmend_post_unpatch(struct klp_object *object)
{{
	{back}
	pr_info("kmend: post_unpatch %s\\n", object->name ?: "vmlinux");
}}
"""
EDITS = (
    STATE,
    Edit(
        PIPE,
        "",
        CALLBACKS.format(
            veto=78,
            there=f"if (pipe_max_size == {SIZE})\n\t\tpipe_max_size *= 2;",
            back=f"if (pipe_max_size == {2 * SIZE})\n\t\tpipe_max_size /= 2;",
        ),
    ),
    Edit(ZRAM, "", CALLBACKS.format(veto=77, there='pr_info("kmend: major %d\\n", zram_major);', back="barrier();")),
    Edit(BRD, "", CALLBACKS.format(veto=77, there="barrier();", back="barrier();")),
)


@pytest.fixture
def guest(image: lab.UnpackedKernel, call: Path) -> Iterator[lab.Vm]:
    """A guest with both modules."""
    with furnished(image, call, "zram", "brd") as vm:
        yield vm


def events(vm: lab.Vm) -> list[str]:
    """What callbacks said since this was last asked."""
    return re.findall(r"kmend: (\w+ \w+)$", vm.run(["dmesg", "-c"]).text, re.MULTILINE)


def attempts(vm: lab.Vm, *one: str) -> bool:
    """Whether callbacks said that and nothing else, once or more: insmod tries the older system call too."""
    said = events(vm)
    return bool(said) and said == list(one) * (len(said) // len(one))


@pytest.mark.slow
def test_callbacks(prepared: Kernel, maker: FixMaker, guest: lab.Vm) -> None:
    first, second = (build(prepared, [maker.fix(*EDITS)], level=level) for level in (1, 2))
    assert [(o.name, [f.name for f in o.functions]) for o in first.manifest.objects] == [
        ("zram", ["initstate_show"]), ("vmlinux", []), ("brd", [])]  # fmt: skip
    assert sum(notice.code == "callback" for notice in first.manifest.warnings) == 12
    zram, brd = file_of(guest, "zram"), file_of(guest, "brd")
    guest.run(["rmmod", "brd"])
    log = guest.run(["dmesg", "-c"]).text

    guest.sh("echo 78 > /proc/sys/kernel/panic")
    one = Loaded(guest, first)
    refused = guest.run(["insmod", f"/{one.name}.ko"], check=False)
    assert b"No such device" in refused.stderr
    assert guest.sh("ls /sys/kernel/livepatch").text == ""
    assert attempts(guest, "pre_patch zram", "pre_patch vmlinux", "post_unpatch zram")
    guest.sh("echo 0 > /proc/sys/kernel/panic")

    one.insert()
    said = events(guest)
    assert said[:2] == ["pre_patch zram", "pre_patch vmlinux"]
    assert said[2] == "post_patch zram"
    assert re.fullmatch(r"major \d+", said[3]), "a callback reaches its module's own data"
    assert said[4:] == ["post_patch vmlinux"]
    assert int(guest.read("/proc/sys/fs/pipe-max-size")) == 2 * SIZE, "data is set where no function changes"
    assert guest.read("/sys/block/zram0/initstate") == b"40\n"
    guest.run(["insmod", brd])
    assert events(guest) == ["pre_patch brd", "post_patch brd"]

    guest.run(["rmmod", "zram"])
    assert events(guest) == ["pre_unpatch zram", "post_unpatch zram"]
    guest.sh("echo 77 > /proc/sys/kernel/panic")
    for _ in range(2):
        assert b"No such device" in guest.run(["insmod", zram], check=False).stderr, "its fix cannot be had without it"
        assert attempts(guest, "pre_patch zram")
    guest.sh("echo 0 > /proc/sys/kernel/panic")
    guest.run(["insmod", zram])
    assert events(guest)[:2] == ["pre_patch zram", "post_patch zram"]
    assert guest.read("/sys/block/zram0/initstate") == b"40\n"

    two = Loaded(guest, second)
    two.insert()
    assert [event for event in events(guest) if "major" not in event] == [
        "pre_patch zram", "pre_patch vmlinux", "pre_patch brd", "post_patch zram", "post_patch vmlinux", "post_patch brd",
    ], "only the new level's run"  # fmt: skip
    one.remove()
    assert int(guest.read("/proc/sys/fs/pipe-max-size")) == 2 * SIZE
    two.disable()
    assert events(guest) == [
        f"{kind} {name}" for kind in ("pre_unpatch", "post_unpatch") for name in ("zram", "vmlinux", "brd")
    ]
    two.remove()
    assert int(guest.read("/proc/sys/fs/pipe-max-size")) == SIZE
    assert guest.read("/sys/block/zram0/initstate") == b"0\n"
    assert complaints(log + guest.kernel_log()) == []
