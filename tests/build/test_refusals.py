"""Every kind of fix that is refused, through the real command: code, evidence, exit status."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.build.conftest import Builder
from tests.fixmaker import Edit, FixMaker

from kmend.factory.kernels.prepared import Kernel

VERSION = "fs/proc/version.c"
LOADAVG = "fs/proc/loadavg.c"
SHOWN = "\treturn 0;\n}\n\nstatic int __init"
"""The end of a file's show function."""


@pytest.fixture
def refused(command: Builder, maker: FixMaker) -> Callable[..., dict[str, str]]:
    """Builds edits, checks status 2, and returns the one refusal, which must be of that code."""

    def check(code: str, *edits: Edit, patch: str = "") -> dict[str, str]:
        outcome = command(patch or maker.patch(edits))
        assert outcome.status == 2, outcome.stderr
        assert f"{code}: " in outcome.stderr
        (refusal,) = outcome.refusals(code)
        assert len(outcome.document["refusals"]) == 1
        return dict(refusal)

    return check


Refused = Callable[..., dict[str, str]]


def test_init_function(refused: Refused) -> None:
    refusal = refused("init-code", Edit(VERSION, '"version", 0, NULL', '"version", 0400, NULL'))
    assert (refusal["file"], refusal["symbol"]) == (VERSION, "proc_version_init")
    assert refusal["section"] == ".init.text"
    assert "gone since the kernel booted" in refusal["message"]
    assert "Kmend-Allow: init-code proc_version_init" in refusal["hint"]


def _function(maker: FixMaker, path: str, first: str, last: str) -> str:
    """The text of a function, from the line that begins with `first` to the one that is `last`."""
    text = maker.source(path)
    start = text.index(f"\n{first}") + 1
    return text[start : text.index(f"\n{last}\n", start) + len(last) + 2]


def test_an_exported_function_that_is_deleted(refused: Refused, maker: FixMaker) -> None:
    path = "fs/filesystems.c"
    old = _function(maker, path, "int unregister_filesystem(", "EXPORT_SYMBOL(unregister_filesystem);")
    refusal = refused("removed-export", Edit(path, old, ""))
    assert (refusal["file"], refusal["symbol"]) == (path, "unregister_filesystem")
    assert refusal["section"] == ".text.unregister_filesystem"
    assert "the running kernel keeps it" in refusal["message"]
    assert "Kmend-Allow: removed-export unregister_filesystem" in refusal["hint"]


def test_an_init_function_beside_a_real_change_can_be_vouched_for(command: Builder, maker: FixMaker) -> None:
    edits = [
        Edit(VERSION, '"version", 0, NULL', '"version", 0400, NULL'),
        Edit(VERSION, SHOWN, f'\tseq_puts(m, "mended\\n");\n{SHOWN}'),
    ]
    (refusal,) = command(maker.patch(edits)).refusals("init-code")
    assert refusal["symbol"] == "proc_version_init"
    header = (
        "Description: mode of /proc/version\nKmend-Allow: init-code proc_version_init -- only matters at boot\n---\n"
    )
    outcome = command(maker.patch(edits, header))
    assert outcome.status == 0, outcome.stderr
    (patched,) = outcome.document["manifest"]["objects"]
    assert [function["name"] for function in patched["functions"]] == ["version_proc_show"]


def test_initialiser_of_existing_data(refused: Refused) -> None:
    path = "kernel/utsname_sysctl.c"
    refusal = refused("changed-data", Edit(path, "= 0444,", "= 0400,", first=True))
    assert (refusal["file"], refusal["symbol"]) == (path, "uts_kern_table")
    assert refusal["section"].startswith(".data")
    assert int(refusal["offset"]) >= 0
    assert "another initial value" in refusal["message"]


def test_size_of_existing_data(refused: Refused) -> None:
    path = "kernel/utsname_sysctl.c"
    added = '\t{\n\t\t.procname\t= "kmend",\n\t\t.mode\t\t= 0444,\n\t},\n\t{}\n};\n\nstatic struct ctl_table uts_root'
    refusal = refused("changed-data", Edit(path, "\t{}\n};\n\nstatic struct ctl_table uts_root", added))
    assert refusal["symbol"] == "uts_kern_table"
    assert "bytes" in refusal["message"]


def test_struct_layout(refused: Refused) -> None:
    path = "kernel/audit_watch.c"
    refusal = refused(
        "struct-layout",
        Edit(
            path,
            "\tstruct list_head\trules;\t/* anchor",
            "\tunsigned long\t\tuses;\n\tstruct list_head\trules;\t/* anchor",
        ),
        Edit(path, "\trefcount_inc(&watch->count);\n", "\trefcount_inc(&watch->count);\n\twatch->uses++;\n"),
    )
    assert (refusal["file"], refusal["symbol"]) == (path, "audit_watch")
    assert "from 64 to 72 bytes" in refusal["message"]
    assert "shadow variable" in refusal["hint"]


def test_assembly(refused: Refused) -> None:
    path = "arch/x86/lib/memcpy_64.S"
    refusal = refused("assembly", Edit(path, "#include <linux/linkage.h>\n", "#include <linux/linkage.h>\n\n"))
    assert refusal["file"] == path
    assert "__fentry__" in refusal["message"]


def test_a_file_that_this_kernel_does_not_hold(refused: Refused, prepared: Kernel, maker: FixMaker) -> None:
    path = next(p for p in ("fs/minix/inode.c", "fs/jfs/super.c", "drivers/scsi/aha1542.c") if p not in prepared.units)
    first = maker.source(path).splitlines(keepends=True)[5]
    refusal = refused("not-built", Edit(path, first, first + "\n", first=True))
    assert refusal["file"] == path
    assert "not compiled in this kernel" in refusal["message"]


def test_code_that_runs_elsewhere(refused: Refused) -> None:
    path = "arch/x86/boot/main.c"
    refusal = refused("not-built", Edit(path, "void main(void)\n{\n", "void main(void)\n{\n\n"))
    assert refusal["file"] == path
    assert "not code of the running kernel" in refusal["message"]


def test_a_fix_that_does_not_apply(refused: Refused, maker: FixMaker) -> None:
    patch = maker.patch([Edit(VERSION, "\treturn 0;\n", "\treturn 1;\n", first=True)])
    refusal = refused("does-not-apply", patch=patch.replace("utsname()->release", "utsname()->unheard_of"))
    assert "should be '\\t\\tutsname()->unheard_of,' and is" in refusal["message"]
    assert refusal["file"] == VERSION


def test_a_function_without_fentry_in_a_folder_that_is_not_traced(refused: Refused) -> None:
    path = "lib/kstrtox.c"
    refusal = refused("not-traceable", Edit(path, "\tcase 'T':\n\tcase '1':", "\tcase 'T':\n\tcase '1':\n\tcase '2':"))
    assert (refusal["file"], refusal["symbol"]) == (path, "kstrtobool")
    assert "__fentry__" in refusal["message"]
    assert refusal["section"] == ".text.kstrtobool"


def test_a_jump_that_cannot_be_made_longer(refused: Refused) -> None:
    path = "kernel/locking/mutex.c"
    before = "\tif (__mutex_trylock_fast(lock))\n\t\treturn 0;\n\n\treturn __mutex_lock_killable_slowpath(lock);"
    after = before.replace("\treturn 0;", "\treturn lock->owner.counter == 1;")
    refusal = refused("short-jump", Edit(path, before, after))
    assert (refusal["symbol"], refusal["section"]) == ("mutex_lock_killable", ".sched.text")
    assert "__mutex_lock_killable_slowpath" in refusal["message"]


def test_a_statement_cannot_make_a_function_traceable(command: Builder, maker: FixMaker) -> None:
    edit = Edit("lib/kstrtox.c", "\tcase 'T':\n\tcase '1':", "\tcase 'T':\n\tcase '1':\n\tcase '2':")
    header = "Description: x\nKmend-Allow: not-traceable kstrtobool -- please\n---\n"
    outcome = command(maker.patch([edit], header))
    assert outcome.status == 2
    (refusal,) = outcome.refusals("statement")
    assert refusal["symbol"] == "kstrtobool"
    assert "changed-data, init-code" in refusal["hint"]


def test_header(refused: Refused) -> None:
    path = "include/linux/list.h"
    refusal = refused("header", Edit(path, "return READ_ONCE(head->next) == head;", "return head->next == head;"))
    assert refusal["file"] == path


def test_makefile(refused: Refused) -> None:
    refusal = refused("build-file", Edit("fs/proc/Makefile", "proc-y\t", "proc-y \t", first=True))
    assert refusal["file"] == "fs/proc/Makefile"


def test_new_file(refused: Refused, maker: FixMaker) -> None:
    refusal = refused("file-added", patch=maker.new_file("fs/proc/kmend.c", "int kmend;\n"))
    assert refusal["file"] == "fs/proc/kmend.c"


def test_deleted_file(refused: Refused, maker: FixMaker) -> None:
    refusal = refused("file-removed", patch=maker.removed_file(VERSION))
    assert refusal["file"] == VERSION


COUNTER = (
    Edit(LOADAVG, "static int loadavg_proc_show(", "static unsigned long kmend_reads;\n\nstatic int loadavg_proc_show("),
    Edit(LOADAVG, "\tget_avenrun(avnrun, FIXED_1/200, 0);\n",
         "\tget_avenrun(avnrun, FIXED_1/200, 0);\n\tavnrun[0] += kmend_reads++;\n"),
)  # fmt: skip


def test_new_writable_data(refused: Refused) -> None:
    refusal = refused("new-writable-data", *COUNTER)
    assert (refusal["file"], refusal["symbol"]) == (LOADAVG, "kmend_reads")
    assert refusal["section"] == ".bss.kmend_reads"
    assert "Kmend-Allow: new-writable-data kmend_reads" in refusal["hint"]


def test_new_writable_data_with_a_statement(command: Builder, maker: FixMaker) -> None:
    header = "Description: count reads\nKmend-Allow: new-writable-data kmend_reads -- a statistic may start anew\n---\n"
    outcome = command(maker.patch(COUNTER, header))
    assert outcome.status == 0, outcome.stderr
    assert "new writable object kmend_reads" in outcome.stderr
    assert [notice["code"] for notice in outcome.document["manifest"]["warnings"]] == ["new-data"]


def test_code_that_must_not_be_traced(refused: Refused) -> None:
    path = "kernel/entry/common.c"
    start = "irqentry_state_t noinstr irqentry_nmi_enter(struct pt_regs *regs)\n{\n\tirqentry_state_t irq_state;\n"
    refusal = refused("fixed-section", Edit(path, start, f"{start}\n\tregs->flags |= 1;\n"))
    assert (refusal["symbol"], refusal["section"]) == ("irqentry_nmi_enter", ".noinstr.text")


def test_a_weak_function_that_another_definition_overrides(refused: Refused) -> None:
    path = "kernel/exit.c"
    start = "void __weak release_thread(struct task_struct *dead_task)\n{\n"
    refusal = refused("not-linked", Edit(path, start, f"{start}\tdead_task->exit_code = 1;\n"))
    assert refusal["symbol"] == "release_thread"
    assert "overrides" in refusal["message"]


def test_compile_error(refused: Refused) -> None:
    refusal = refused("compile-error", Edit(VERSION, "\treturn 0;\n", "\treturn unheard_of;\n", first=True))
    assert refusal["file"] == VERSION
    assert "'unheard_of' undeclared" in refusal["message"]
    assert f"{VERSION}:" in refusal["message"]


def test_a_symbol_that_the_kernel_does_not_have(refused: Refused) -> None:
    edits = [
        Edit(
            VERSION, "static int version_proc_show(", "extern void unheard_of(void);\n\nstatic int version_proc_show("
        ),
        Edit(VERSION, SHOWN, f"\tunheard_of();\n{SHOWN}"),
    ]
    assert refused("unresolved", *edits)["symbol"] == "unheard_of"


def test_a_new_initcall(refused: Refused) -> None:
    refusal = refused(
        "boot-table", Edit(VERSION, "", "\nstatic int __init again(void)\n{\n\treturn 1;\n}\nlate_initcall(again);\n")
    )
    assert refusal["section"].startswith(".initcall")


def test_every_reason_is_told_at_once(command: Builder, maker: FixMaker) -> None:
    edits = [
        Edit("fs/proc/Makefile", "proc-y\t", "proc-y \t", first=True),
        Edit("arch/x86/lib/getuser.S", "#include", "# include", first=True),
        Edit(VERSION, "\treturn 0;\n", "\treturn 1;\n", first=True),
    ]
    outcome = command(maker.patch(edits))
    assert sorted(refusal["code"] for refusal in outcome.document["refusals"]) == ["assembly", "build-file"]


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (VERSION, SHOWN, SHOWN.replace("0;", "0;\t/* done */")),
        ("kernel/audit_watch.c", "/* fsnotify handle. */\n", "struct unused;\n\n/* fsnotify handle. */\n"),
        ("Documentation/process/howto.rst", "HOWTO do Linux kernel development\n", "HOWTO do it\n"),
    ],
    ids=["comment", "line-numbers", "documentation"],
)
def test_no_functional_change(command: Builder, maker: FixMaker, path: str, old: str, new: str) -> None:
    if path.startswith("Documentation"):
        patch = f"--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-{old}+{new}"
    else:
        patch = maker.patch([Edit(path, old, new, first=True)])
    outcome = command(patch)
    assert outcome.status == 3, outcome.stderr
    assert outcome.document["outcome"] == "no-change"
