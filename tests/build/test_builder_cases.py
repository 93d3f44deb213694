"""Cases that do not need a guest: fixes that change nothing, that are refused, or that reach less than they seem to."""

from __future__ import annotations

import pytest
from tests.build.conftest import Builder
from tests.fixmaker import Edit, FixMaker

from kmend.factory.build import NoChangeError, RefusalCode, RefusedError, build
from kmend.factory.kernels.prepared import Kernel

MEMINFO = "fs/proc/meminfo.c"
INIT = '\tpde = proc_create_single("meminfo", 0, NULL, meminfo_proc_show);\n'
COMMAND_LINE = "\tseq_puts(m, saved_command_line);\n"
CACHED = '"SwapCached:     "'
BOOT_ID = "\t\tstatic DEFINE_SPINLOCK(bootid_spinlock);\n\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "line"),
    [("arch/x86/kvm/x86.c", "int kvm_emulate_wbinvd("), ("fs/btrfs/ctree.c", "static noinline int split_leaf(")],
)
def test_a_blank_line_is_no_change(prepared: Kernel, maker: FixMaker, path: str, line: str) -> None:
    """Files full of warnings and of messages that tell their line."""
    with pytest.raises(NoChangeError):
        build(prepared, [maker.fix(Edit(path, line, f"\n{line}", first=True))])


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a good change"])
def test_code_that_ran_at_boot(command: Builder, maker: FixMaker, beside: bool) -> None:
    edits = [Edit(MEMINFO, INIT, INIT.replace('"meminfo", 0', '"meminfo", 0400'))]
    if beside:
        edits.append(Edit(MEMINFO, CACHED, CACHED.replace("d:", "D:")))
    outcome = command(maker.patch(edits))
    assert outcome.status == 2
    (refusal,) = outcome.refusals("init-code")
    assert refusal["symbol"] == "proc_meminfo_init"


@pytest.mark.slow
def test_a_header_that_everything_includes(prepared: Kernel, maker: FixMaker) -> None:
    """What it newly offers is used by two files; no others are compiled to no end."""
    header = "include/linux/kernel.h"
    first = maker.source(header).index("#define STACK_MAGIC")
    line = maker.source(header)[first:].partition("\n")[0] + "\n"
    fix = maker.fix(
        Edit(header, line, f'{line}#define KMEND_SUFFIX " mended"\n'),
        Edit(MEMINFO, CACHED, f"{CACHED} KMEND_SUFFIX"),
        Edit("fs/proc/cmdline.c", COMMAND_LINE, f"{COMMAND_LINE}\tseq_puts(m, KMEND_SUFFIX);\n"),
    )  # fmt: skip
    built = build(prepared, [fix])
    assert {unit.source for unit in built.units} == {MEMINFO, "fs/proc/cmdline.c"}
    (patched,) = built.manifest.objects
    assert {function.name for function in patched.functions} == {"meminfo_proc_show", "cmdline_proc_show"}


@pytest.mark.parametrize(
    ("declaration", "lock"),
    [("DEFINE_MUTEX(bootid_spinlock)", "mutex"), ("DEFINE_PER_CPU(spinlock_t, bootid_spinlock)", "")],
    ids=["of another type", "per cpu"],
)
def test_a_static_local_that_becomes_another(prepared: Kernel, maker: FixMaker, declaration: str, lock: str) -> None:
    edits = [Edit("drivers/char/random.c", BOOT_ID, BOOT_ID.replace("DEFINE_SPINLOCK(bootid_spinlock)", declaration))]
    for call in ("lock", "unlock"):
        old = f"\t\tspin_{call}(&bootid_spinlock);\n"
        new = (
            f"\t\tmutex_{call}(&bootid_spinlock);\n" if lock else f"\t\tspin_{call}(this_cpu_ptr(&bootid_spinlock));\n"
        )
        edits.append(Edit("drivers/char/random.c", old, new))
    with pytest.raises(RefusedError) as caught:
        build(prepared, [maker.fix(*edits)])
    assert {refusal.code for refusal in caught.value.refusals} == {RefusalCode.STATIC_LOCAL}


def test_a_static_local_that_is_used_no_more(prepared: Kernel, maker: FixMaker) -> None:
    """The running kernel's stays where it is, unused by the new code; there is no second copy."""
    edits = [Edit("drivers/char/random.c", BOOT_ID, "")]
    edits += [Edit("drivers/char/random.c", f"\t\tspin_{call}(&bootid_spinlock);\n", "") for call in ("lock", "unlock")]
    built = build(prepared, [maker.fix(*edits)])
    (patched,) = built.manifest.objects
    assert [function.name for function in patched.functions] == ["proc_do_uuid"]
    assert built.extraction.new_data == []


def test_new_per_cpu_data_needs_a_statement(prepared: Kernel, maker: FixMaker) -> None:
    path, start, end = "fs/proc/version.c", "static int version_proc_show(", "\treturn 0;\n}\n\nstatic int __init"
    fix = maker.fix(
        Edit(path, start, f"static DEFINE_PER_CPU(unsigned long, kmend_reads);\n\n{start}"),
        Edit(path, end, f"\tthis_cpu_inc(kmend_reads);\n{end}"),
    )
    with pytest.raises(RefusedError) as caught:
        build(prepared, [fix])
    (refusal,) = caught.value.refusals
    assert (refusal.code, refusal.symbol) == (RefusalCode.NEW_WRITABLE_DATA, "kmend_reads")
    assert refusal.section == ".data..percpu"


def test_data_that_becomes_per_cpu(prepared: Kernel, maker: FixMaker) -> None:
    """The code that uses it need not differ by a byte."""
    watches = "static long max_user_watches __read_mostly;"
    fix = maker.fix(Edit("fs/eventpoll.c", watches, "static DEFINE_PER_CPU(long, max_user_watches);"))
    with pytest.raises(RefusedError) as caught:
        build(prepared, [fix])
    (refusal,) = caught.value.refusals
    assert (refusal.code, refusal.symbol) == (RefusalCode.CHANGED_DATA, "max_user_watches")
    assert "to .data..percpu" in refusal.message


NAMESPACE = "fs/namespace.c"
ATTRIBUTES = "\tif (attr_flags & ~FSMOUNT_VALID_FLAGS)\n\t\treturn -EINVAL;\n"
USED = Edit(NAMESPACE, ATTRIBUTES, ATTRIBUTES.replace("-EINVAL", "mhash_entries ? -EXDEV : -EINVAL"))
KEPT = Edit(NAMESPACE, "static __initdata unsigned long mhash_entries;", "static unsigned long mhash_entries;")
VERSION = "fs/proc/version.c"
CALLED = (
    Edit(VERSION, "static int version_proc_show(", "static int __init proc_version_init(void);\nstatic int version_proc_show("),
    Edit(VERSION, "\treturn 0;\n}\n\nstatic int __init",
         "\tif (m->size == 77)\n\t\tproc_version_init();\n\treturn 0;\n}\n\nstatic int __init"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("edits", "symbol"),
    [((USED,), "mhash_entries"), ((USED, KEPT), "mhash_entries"), (CALLED, "proc_version_init")],
    ids=["data", "data that is to be kept", "a function"],
)
def test_memory_that_was_given_back(prepared: Kernel, maker: FixMaker, edits: tuple[Edit, ...], symbol: str) -> None:
    """The kernel still has a symbol for it, but something else may be there by now."""
    with pytest.raises(RefusedError) as caught:
        build(prepared, [maker.fix(*edits)])
    (refusal,) = caught.value.refusals
    assert (refusal.code, refusal.symbol) == (RefusalCode.UNRESOLVED, symbol)
    assert "given back" in refusal.message


def test_a_modules_memory_that_was_given_back(prepared: Kernel, maker: FixMaker) -> None:
    path = "drivers/block/zram/zram_drv.c"
    fix = maker.fix(
        Edit(
            path,
            "static ssize_t initstate_show(",
            "static int __init zram_init(void);\n\nstatic ssize_t initstate_show(",
        ),
        Edit(
            path,
            "\tval = init_done(zram);\n",
            "\tval = init_done(zram);\n\tif (attr->attr.mode == 77)\n\t\tzram_init();\n",
        ),
    )
    with pytest.raises(RefusedError) as caught:
        build(prepared, [fix])
    assert {refusal.symbol for refusal in caught.value.refusals} <= {"zram_init", "init_module"}
    assert {refusal.code for refusal in caught.value.refusals} == {RefusalCode.UNRESOLVED}
