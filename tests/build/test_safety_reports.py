"""What is told of dangers beside the build itself: a fix that deserves every report, and a like one that deserves none."""

from __future__ import annotations

import pytest
from tests.fixmaker import Edit, FixMaker

from kmend.factory.build import Built, RefusedError, build, explain
from kmend.factory.build.moduleview import ShippedModule
from kmend.factory.build.safety.copies import copy_notices
from kmend.factory.build.safety.kernelsets import MAIN_LOOP, KernelSets, module_residents
from kmend.factory.kernels.prepared import Kernel

VERSION = "fs/proc/version.c"
UNIX = "net/unix/af_unix.c"
GARBAGE = "net/unix/garbage.c"
AUDIT = "kernel/audit.c"
HEAD = "static int version_proc_show(struct seq_file *m, void *v)\n"
BODY = "\tseq_printf(m, linux_proc_banner,\n"
END = "\treturn 0;\n}\n\nstatic int __init"
MARK = 'asm volatile("nop");'
PEEK_OFF = "\tif (mutex_lock_interruptible(&u->iolock))\n\t\treturn -EINTR;\n\n\tWRITE_ONCE(sk->sk_peek_off, val);\n"
SHUT = "\t++mode;\n"
MORE = f"static noinline int version_more(struct seq_file *m)\n{{\n\tmsleep(READ_ONCE(m->count));\n\t{MARK}\n\treturn 1;\n}}\n\n"
NAMES = 'static const char *const names[] = { "one", "two" };\n\n'
DELAY = Edit(VERSION, "#include <linux/fs.h>\n", "#include <linux/delay.h>\n#include <linux/fs.h>\n")


def prototype_fix(declaration: str, use: str) -> list[Edit]:
    """Edits that change a global function's prototype behind the back of the header that declares it."""
    include = "#include <linux/kernel.h>\n"
    old = "int unix_prepare_fpl(struct scm_fp_list *fpl)\n{\n"
    new = f"#undef unix_prepare_fpl\n{declaration};\n{declaration}\n{{\n{use}"
    return [Edit(GARBAGE, include, f"#define unix_prepare_fpl declared_elsewhere\n{include}"), Edit(GARBAGE, old, new)]


ANOTHER_PROTOTYPE = prototype_fix(
    "int unix_prepare_fpl(struct scm_fp_list *fpl, int more)", "\tWRITE_ONCE(fpl->max, more);\n"
)
STATEMENTS = (
    "Description: everything that deserves a word\n"
    "Kmend-Allow: prototype unix_prepare_fpl -- nobody minds\n"
    "Kmend-Allow: init-code proc_version_init -- only matters at boot\n"
    "Kmend-Allow: always-on-stack kauditd_thread -- not loaded here\n"
    "---\n"
)


@pytest.fixture(scope="module")
def alarming(prepared: Kernel, maker: FixMaker) -> Built:
    """A livepatch that does all that is to be warned of."""
    left_out = f"#ifdef CONFIG_KMEND_NOWHERE\nstatic void version_gone(void)\n{{\n\t{MARK}\n}}\n#endif\n\n"
    unused = f"static inline void version_unused(void)\n{{\n\t{MARK}\n}}\n\n"
    callback = f"static void version_work(struct work_struct *work)\n{{\n\t{MARK}\n}}\n\n"
    uses = (
        "\tINIT_WORK((struct work_struct *)READ_ONCE(m->private), version_work);\n"
        "\tWRITE_ONCE(m->private, (void *)names);\n"
    )
    give = "\tmutex_unlock(&u->iolock);\n\n\treturn 0;\n}\n"
    loop = "\tset_freezable();\n\twhile (!kthread_should_stop()) {\n"
    show = "\tREAD_ONCE(m->private);\n"
    edits = [
        DELAY,
        Edit(VERSION, HEAD, left_out + callback + NAMES + MORE + unused + HEAD),
        Edit(VERSION, BODY, uses + show + BODY),
        Edit(VERSION, END, END.replace("return 0", "return version_more(m)")),
        Edit(VERSION, '"version", 0, NULL', '"version", 0400, NULL'),
        Edit(UNIX, PEEK_OFF, "\tunix_state_lock(sk);\n\tWRITE_ONCE(sk->sk_peek_off, val);\n"),
        Edit(UNIX, give, give.replace("mutex_unlock(&u->iolock)", "unix_state_unlock(sk)"), first=True),
        Edit(UNIX, SHUT, "\tmode += 1;\n"),
        Edit(AUDIT, loop, f"\t{MARK}\n{loop}"),
        *ANOTHER_PROTOTYPE,
    ]
    return build(prepared, [maker.fix(*edits, header=STATEMENTS)])


@pytest.fixture(scope="module")
def harmless(prepared: Kernel, maker: FixMaker) -> Built:
    """A livepatch that looks like it in the same files, and does none of it."""
    short_lived = "int audit_send_list_thread(void *_dest)\n{\n"
    peek = "static void unix_peek_fds(struct scm_cookie *scm, struct sk_buff *skb)\n{\n"
    configured = f"#ifdef CONFIG_PROC_FS\nstatic noinline void version_kept(void)\n{{\n\t{MARK}\n}}\n#endif\n\n"
    uses = "\tversion_kept();\n\tseq_puts(m, names[READ_ONCE(m->count) & 1]);\n"
    edits = [
        DELAY,
        Edit(VERSION, HEAD, configured + NAMES + MORE + "/* A comment. */\n" + HEAD),
        Edit(VERSION, BODY, uses + BODY),
        Edit(VERSION, END, END.replace("return 0", "return version_more(m) - 1")),
        Edit(UNIX, PEEK_OFF, "\tmutex_lock(&u->iolock);\n\tWRITE_ONCE(sk->sk_peek_off, val);\n"),
        Edit(UNIX, peek, f"{peek}\t{MARK}\n"),
        Edit(AUDIT, short_lived, f"{short_lived}\tif (!_dest)\n\t\treturn 0;\n"),
        *prototype_fix(
            "unsigned unix_prepare_fpl(const struct scm_fp_list *constant)",
            f"\tstruct scm_fp_list *fpl = (void *)constant;\n\t{MARK}\n",
        ),
    ]
    return build(prepared, [maker.fix(*edits)])


def messages(built: Built, code: str) -> list[str]:
    """The warnings of one code."""
    return [notice.message for notice in built.manifest.warnings if notice.code == code]


def test_the_harmless_one_is_told_nothing_of(harmless: Built) -> None:
    assert {notice.code for notice in harmless.manifest.warnings} == {"new-data"}
    assert harmless.manifest.pinned == ()
    assert len(harmless.manifest.objects[0].functions) >= 6


def test_the_alarming_one_is_told_every_kind(alarming: Built) -> None:
    account = list(explain(alarming))
    for notice in alarming.manifest.warnings:
        assert f"{notice.code}: {notice.message}" in account
    for reason in alarming.manifest.pinned:
        assert f"stays loaded until reboot: {reason}" in account


def test_main_loop_of_a_kernel_thread(alarming: Built) -> None:
    (message,) = messages(alarming, "always-on-stack")
    assert message.startswith("kauditd_thread is always on some stack: it is the main loop of a kernel thread")
    assert "may never complete" in message


def test_main_loop_that_nobody_vouches_for(prepared: Kernel, maker: FixMaker) -> None:
    loop = "\tset_freezable();\n\twhile (!kthread_should_stop()) {\n"
    with pytest.raises(RefusedError) as refused:
        build(prepared, [maker.fix(Edit(AUDIT, loop, f"\t{MARK}\n{loop}"))])
    (refusal,) = refused.value.refusals
    assert (refusal.code.value, refusal.file, refusal.symbol) == ("always-on-stack", AUDIT, "kauditd_thread")


def test_another_lock(alarming: Built) -> None:
    (message,) = messages(alarming, "lock-change")
    assert "unix_set_peek_off no longer takes the mutex lock 'iolock' (but the unix state lock)" in message


def test_hunks_that_are_in_no_binary(alarming: Built) -> None:
    (message,) = messages(alarming, "hunk-left-out")
    assert message == f"hunk 2 of {VERSION}: this kernel's configuration leaves it out, by #ifdef CONFIG_KMEND_NOWHERE"
    (message,) = messages(alarming, "hunk-unused")
    assert message == f"hunk 2 of {VERSION}: no code of this kernel uses version_unused"
    (message,) = messages(alarming, "hunk-in-init-code")
    assert message.endswith("this code ran when the kernel booted, and does not run again: proc_version_init")
    (message,) = messages(alarming, "hunk-without-effect")
    assert message.endswith(f"of {UNIX}: the code stays the same of unix_shutdown")


def test_what_keeps_it_loaded(alarming: Built) -> None:
    unseen, *others = sorted(alarming.manifest.pinned)
    assert unseen.startswith("a task may sleep in version_more")
    assert unseen.endswith("(in msleep) unseen by livepatch, since it is jumped to from version_proc_show")
    assert others == [
        "the kernel may keep the address of the new function version_work",
        "the kernel may keep the address of the new object names, which version_proc_show hands out",
    ]


def test_why_functions_without_a_changed_line_are_replaced(harmless: Built) -> None:
    account = "\n".join(explain(harmless))
    assert "unix_stream_read_generic has no changed line of its own: unix_peek_fds is inlined into it" in account


def test_a_prototype_that_callers_elsewhere_do_not_know(prepared: Kernel, maker: FixMaker) -> None:
    with pytest.raises(RefusedError) as caught:
        build(prepared, [maker.fix(*ANOTHER_PROTOTYPE)])
    (refusal,) = caught.value.refusals
    assert (refusal.code.value, refusal.symbol, refusal.file) == ("prototype", "unix_prepare_fpl", GARBAGE)
    assert "from 1 to 2 parameters" in refusal.message
    assert "unix_scm_to_skb" in refusal.message, "the caller in af_unix.c is named"


def test_threads_of_the_whole_kernel(prepared: Kernel) -> None:
    sets = KernelSets.of(prepared)
    named = {s.name: why for address, why in sets.resident.items() for s in prepared.vmlinux.symbols_at(address)}
    for name in ("worker_thread", "kswapd", "rcu_gp_kthread", "kthreadd", "smpboot_thread_fn", "kauditd_thread"):
        assert named[name] == MAIN_LOOP
    assert "idle" in named["do_idle"]
    assert "schedule" in named
    for name in ("audit_send_reply_thread", "kernel_init", "mutex_lock", "do_exit", "vfs_read", "unix_stream_recvmsg"):
        assert name not in named, "it ends, or waits for a moment, or for a user's task"
    assert len(named) < 100
    assert {"mutex_lock", "kvmalloc_node", "msleep", "synchronize_rcu"} <= sets.sleeping
    assert sets.sleeping.isdisjoint({"_printk", "__warn_printk", "_raw_spin_lock", "queue_work_on", "__wake_up"})
    assert sets == KernelSets.of(prepared), "what is kept is what was worked out"


def test_threads_of_a_module(prepared: Kernel) -> None:
    waits = KernelSets.of(prepared).waits
    assert module_residents(ShippedModule(prepared, "md_mod"), waits) == {"md_thread": MAIN_LOOP}


def test_copies_of_a_header_function(prepared: Kernel) -> None:
    (notice,) = copy_notices(prepared, ["cpumask_weight"], [])
    assert notice.code == "copies-left"
    assert ".c" in notice.message
    assert list(copy_notices(prepared, ["no_function_of_this_name"], [])) == []
