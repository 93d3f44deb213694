"""Cases in built-in code whose effect one command shows: strings, data, functions, clones, static locals."""

from __future__ import annotations

from tests.fixmaker import Edit
from tests.vm.cases.case import Case

MEMINFO = "fs/proc/meminfo.c"
SHOW_KB = "static void show_val_kb("
LOCKED = '\tshow_val_kb(m, "Mlocked:        ", global_zone_page_state(NR_MLOCK));\n'
READ_TERMINAL = "static int n_tty_ioctl(struct tty_struct *tty, unsigned int cmd,\n\t\t       unsigned long arg)\n"
WRAPPER = (
    "\n__attribute__((optimize(\"-fno-optimize-sibling-calls\")))\n" + READ_TERMINAL
    + "{\n\tif (cmd == 0x5477)\n\t\treturn -EXDEV;\n\treturn n_tty_plain_ioctl(tty, cmd, arg);\n}\n"
)  # fmt: skip
TERMINAL_END = "\t\treturn n_tty_ioctl_helper(tty, cmd, arg);\n\t}\n}\n"
OOM = "\tsig->oom_score_adj = current->signal->oom_score_adj;\n"
SCORE = (
    f"{OOM}\tif (!WARN_ONCE(sig->oom_score_adj > 2000, \"%s: %d\\n\", __func__, sig->oom_score_adj))\n"
    "\t\tsig->oom_score_adj++;\n\tinit_waitqueue_head(&sig->wait_chldexit);\n"
)  # fmt: skip
UUID = '\tsnprintf(uuid_string, sizeof(uuid_string), "%pU", uuid);\n'
UUID_NEW = (
    '\tstatic const char *const forms[] = { "%pU", "%pUB" };\n\n'
    "\tsnprintf(uuid_string, sizeof(uuid_string), forms[READ_ONCE(table->mode) != 0], uuid);\n"
)
WARNED = "\t\tif (warned < 10 && net_ratelimit()) {\n\t\t\twarned++;\n"
TIMEOUT = "\tval = MAX_SCHEDULE_TIMEOUT;\n\tif ((tv.tv_sec || tv.tv_usec) &&"
SERIAL = "\taudit_get_stamp(ab->ctx, &t, &serial);\n"
AUDITED = '\taudit_log_format(ab, "audit(%llu.%03lu:%u): ",\n'
LOST = '\t\t\tpr_warn("audit_lost=%u audit_rate_limit=%u audit_backlog_limit=%u\\n",\n'
QUEUED = "\t\t/* queue the netlink packet and poke the kauditd thread */\n"
POLL_ENTRY = "\tpwq = kmem_cache_alloc(pwq_cache, GFP_KERNEL);\n\tif (unlikely(!pwq)) {\n\t\tepq->epi = NULL;\n"
READ_MOSTLY = (
    "static void ep_ptable_queue_proc(struct file *file, wait_queue_head_t *whead,\n\t\t\t\t poll_table *pt)\n"
)

CASES = (
    Case(
        "string",
        [Edit("fs/proc/cmdline.c", "\tseq_putc(m, '\\n');\n", '\tseq_puts(m, " mended=1\\n");\n')],
        "cat /proc/cmdline",
        r"panic=-1(?!.* mended)",
        r" mended=1$",
        frozenset({"cmdline_proc_show,1"}),
    ),
    Case(
        "string in a large function",
        [Edit(MEMINFO, '"SwapCached:     "', '"SwapCacheD:     "')],
        "grep -i swapcached /proc/meminfo",
        r"^SwapCached: +\d+ kB$",
        r"^SwapCacheD: +\d+ kB$",
        frozenset({"meminfo_proc_show,1"}),
    ),
    Case(
        "new data",
        [
            Edit(MEMINFO, SHOW_KB, f"static unsigned long kmend_asked = 5;\n\n{SHOW_KB}"),
            Edit(MEMINFO, LOCKED, f'{LOCKED}\tshow_val_kb(m, "Asked:          ", kmend_asked++);\n'),
        ],
        "for n in 1 2 3; do cat /proc/meminfo; done | awk '/Asked/ { print $2 - last; last = $2 }'",
        r"\A\Z",
        r"\A[23]\d\n4\n4\n\Z",
        frozenset({"meminfo_proc_show,1"}),
        ["new-writable-data kmend_asked"],
    ),
    Case(
        "new per-cpu data",
        [
            Edit(
                "fs/proc/version.c",
                "static int version_proc_show(",
                "static DEFINE_PER_CPU(unsigned long, kmend_reads);\n\nstatic int version_proc_show(",
            ),
            Edit(
                "fs/proc/version.c",
                "\treturn 0;\n}\n\nstatic int __init",
                "\tthis_cpu_inc(kmend_reads);\n\tfor_each_possible_cpu(cpu)\n\t\tsum += per_cpu(kmend_reads, cpu);\n"
                '\tseq_printf(m, "read %lu times\\n", sum);\n\treturn 0;\n}\n\nstatic int __init',
            ),
            Edit(
                "fs/proc/version.c",
                "\tseq_printf(m, linux_proc_banner,",
                "\tunsigned long sum = 0;\n\tint cpu;\n\n\tseq_printf(m, linux_proc_banner,",
            ),
        ],
        "for cpu in 0 1 0; do taskset -c $cpu tail -n1 /proc/version; done",
        r"(Linux version.*\n){3}",
        r"\Aread 1 times\nread 2 times\nread 3 times\n",
        frozenset({"version_proc_show,1"}),
        ["new-writable-data kmend_reads"],
    ),
    Case(
        "data in a shared section, and a data symbol of two equal names",
        [
            Edit("fs/eventpoll.c", READ_MOSTLY, f"static int kmend_most __read_mostly = 7;\n\n{READ_MOSTLY}"),
            Edit(
                "fs/eventpoll.c",
                POLL_ENTRY,
                f'\tpr_info("kmend: pwq_cache holds %u, %d\\n", kmem_cache_size(pwq_cache), kmend_most++);\n{POLL_ENTRY}',
            ),
        ],
        "dmesg -c > /dev/null; /call epoll; /call epoll; cat /sys/kernel/slab/eventpoll_pwq/object_size; dmesg",
        r"\A0\n0\n64\n(?![^$]*kmend: pwq_cache)",
        r"\A0\n0\n64\n[^$]*kmend: pwq_cache holds 64, \d+\n[^$]*kmend: pwq_cache holds 64, \d+\n",
        frozenset({"ep_ptable_queue_proc,1"}),
        ["new-writable-data kmend_most"],
    ),
    Case(
        "new function under the old name",
        [
            Edit("drivers/tty/n_tty.c", READ_TERMINAL, READ_TERMINAL.replace("n_tty_ioctl", "n_tty_plain_ioctl")),
            Edit("drivers/tty/n_tty.c", TERMINAL_END, TERMINAL_END + WRAPPER),
        ],
        "/call tty 0x5477; /call tty 0x541b",
        r"\AENOTTY\n0\n",
        r"\AEXDEV\n0\n",
        frozenset({"n_tty_ioctl,1"}),
    ),
    Case(
        "statics that macros make",
        [Edit("kernel/fork.c", OOM, SCORE)],
        "sh -c 'cat /proc/self/oom_score_adj; true'",
        r"\A0\n",
        r"\A[1-9]",
        frozenset({"copy_process,1"}),
    ),
    Case(
        "isra clone",
        [Edit("kernel/sys.c", "\tinfo->procs = nr_threads;\n", "\tinfo->procs = nr_threads + 7000;\n")],
        "/call sysinfo",
        r"\A\d{1,3}\n",
        r"\A7\d{3}\n",
        frozenset({"do_sysinfo.isra.0,1"}),
    ),
    Case(
        "constprop clone",
        [Edit("ipc/msg.c", "\t\tmsginfo->msgmap = MSGMAP;\n", "\t\tmsginfo->msgmap = MSGMAP + 1;\n")],
        "/call msginfo",
        r"\A\d*[02468]\n",
        r"\A\d*[13579]\n",
        frozenset({"msgctl_info.constprop.0,1"}),
    ),
    Case(
        "part clone",
        [Edit("fs/pipe.c", "\taudit_fd_pair(fdr, fdw);\n", "\taudit_fd_pair(fdr, fdw);\n\tfiles[0]->f_pos = 77;\n")],
        "true | head -n1 /proc/self/fdinfo/0",
        r"^pos:\t0$",
        r"^pos:\t77$",
        frozenset({"__do_pipe_flags.part.0,1"}),
    ),
    Case(
        "references to mangled names",
        [
            Edit(
                "mm/slub.c",
                "\tsinfo->objects_per_slab = oo_objects(s->oo);\n",
                "\tsinfo->objects_per_slab = oo_objects(s->oo) + 30000;\n",
            ),
            Edit(
                "mm/slub.c",
                "\tif (!new.inuse && n->nr_partial >= s->min_partial) {\n\t\tmode = M_FREE;\n",
                '\tif (!new.inuse && n->nr_partial >= s->min_partial) {\n\t\tasm volatile("nop");\n\t\tmode = M_FREE;\n',
            ),
        ],
        "awk '$1 == \"dentry\" { print $5 }' /proc/slabinfo; for n in $(seq 300); do : > /f$n; done; "
        "rm /f*; echo 1 > /sys/kernel/slab/dentry/shrink; echo 2 > /proc/sys/vm/drop_caches",
        r"\A\d{1,3}\n",
        r"\A30\d{3}\n",
        frozenset({"deactivate_slab,1", "get_slabinfo,1"}),
        pinned=True,
    ),
    Case(
        "static local: renumbered",
        [Edit("drivers/char/random.c", UUID, UUID_NEW)],
        "cat /proc/sys/kernel/random/boot_id",
        r"\A[0-9a-f-]{36}\n",
        r"\A[0-9A-F-]{36}\n",
        frozenset({"proc_do_uuid,1"}),
    ),
    Case(
        "static local: of one function inlined into several",
        [
            Edit("kernel/audit.c", SERIAL, f"{SERIAL}\tbarrier();\n"),
            Edit("kernel/audit.c", AUDITED, AUDITED.replace("audit(", "mended(")),
            Edit("kernel/audit.c", QUEUED, f"\t\tbarrier();\n{QUEUED}"),
            Edit("kernel/audit.c", LOST, LOST.replace("audit_lost=", "records_lost=")),
        ],
        "dmesg -c > /dev/null; /call audit one; sleep 0.3; dmesg",
        r"audit\(\d",
        r"mended\(\d",
        frozenset({"audit_log_end,1", "audit_log_lost,1", "audit_log_start,1"}),
        pinned=True,
    ),
    Case(
        "static local: moved from the cold part",
        [
            Edit("net/core/sock.c", WARNED, "\t\tif (warned++ < 10 && net_ratelimit()) {\n"),
            Edit(
                "net/core/sock.c",
                TIMEOUT,
                TIMEOUT.replace("val = MAX_SCHEDULE_TIMEOUT;", "val = MAX_SCHEDULE_TIMEOUT;\n\ttv.tv_sec += 5;"),
            ),
        ],
        "/call negative_timeouts 1",
        r"\A2\n",
        r"\A7\n",
        frozenset({"sock_set_timeout,1"}),
    ),
)
