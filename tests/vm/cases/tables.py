"""Cases in built-in code whose effect one command shows: what the kernel's tables say of code, and names."""

from __future__ import annotations

from tests.fixmaker import Edit
from tests.vm.cases.case import Case

PULSE = "\tint space = port->buf.mem_limit - atomic_read(&port->buf.mem_used);\n\n"
ATTRIBUTES = (
    "\tgeneric_fillattr(&init_user_ns, inode, stat);\n\treturn 0;\n}\n\nstatic const struct inode_operations proc_file"
)
NAPPED = "\tif (!t->task)\n\t\treturn 0;\n\n\trestart ="
TERMIOS = "\treturn copy_to_user(u, k, sizeof(struct termios));\n}\n\n#else"
STAB = "\tstab = bpf_map_area_alloc(sizeof(*stab), NUMA_NO_NODE);\n"
CLONED = "\tp->pid = pid_nr(pid);\n"
TOO_MANY = '\t\tpr_debug("ENOMEM: nr_events too high\\n");\n\t\treturn ERR_PTR(-EINVAL);\n'
INODE = (
    "\tunsafe_put_user(ino, &dirent->d_ino, efault_end);\n\tunsafe_put_user(reclen, &dirent->d_reclen, efault_end);\n"
    "\tunsafe_put_user(d_type,"
)
UNAME = (
    "SYSCALL_DEFINE1(newuname, struct new_utsname __user *, name)\n{\n\tstruct new_utsname tmp;\n\n"
    "\tdown_read(&uts_sem);\n\tmemcpy(&tmp, utsname(), sizeof(tmp));\n"
)
ROUTED = "\terr = fib_table_insert(net, tb, &cfg, extack);\n\tif (!err && cfg.fc_type"
NOTED = '\tpr_info("kmend: {0}\\n");\n\tpr_info_once("kmend: {0} for the first time\\n");\n'
INSERTED = '\tpr_debug("Insert table=%u'
CREATED = "\tif (cfg->fc_type > RTN_MAX)\n\t\tgoto err_inval;\n"

CASES = (
    Case(
        "lock prefixes",
        [
            Edit(
                "drivers/tty/tty_buffer.c",
                PULSE,
                f"{PULSE}\tatomic_add(3, &port->buf.mem_used);\n"
                "\tif (atomic_sub_return(3, &port->buf.mem_used) > 2000)\n\t\treturn 0;\n\n",
            )
        ],
        "/call fill",
        r"\A\d{5}\n",
        r"\A\d{1,4}\n",
        frozenset({"tty_buffer_space_avail,1"}),
    ),
    Case(
        "paravirtual calls",
        [
            Edit(
                "fs/proc/generic.c",
                ATTRIBUTES,
                "\t{\n\t\tunsigned long flags;\n\n\t\tlocal_irq_save(flags);\n"
                + ATTRIBUTES.replace(
                    "\treturn 0;", "\t\tstat->nlink += 100;\n\t\tlocal_irq_restore(flags);\n\t}\n\treturn 0;"
                ),
            )
        ],
        "stat -c %h /proc/tty",
        r"\A\d{1,2}\n",
        r"\A10\d\n",
        frozenset({"proc_getattr,1"}),
    ),
    Case(
        "tracepoint in a replaced function",
        [
            Edit(
                "kernel/time/timer.c",
                "\ttrace_timer_start(timer, timer->expires, timer->flags);\n",
                "\ttrace_timer_start(timer, timer->expires + 1000000000, timer->flags);\n",
            )
        ],
        "cd /trace && echo > trace && echo 1 > events/timer/timer_start/enable && sleep 0.5 && "
        "echo 0 > events/timer/timer_start/enable && grep -c 'timeout=[0-9]\\{1,8\\}\\]' trace; "
        "grep -c 'timeout=1[0-9]\\{9\\}\\]' trace; echo > trace; sleep 0.3; grep -c timer_start: trace",
        r"\A[1-9]\d*\n0\n0\n",
        r"\A0\n[1-9]\d*\n0\n",
        frozenset({"enqueue_timer,1"}),
        pinned=True,
    ),
    Case(
        "faults that are mended",
        [
            Edit(
                "fs/readdir.c",
                INODE,
                INODE.replace("(ino,", "(ino | 1UL << 60,"),
            )
        ],
        "/call directory /; /call directory_fault /",
        r"\A0x[0-9a-f]{1,8}\nEFAULT\n",
        r"\A0x1[0-9a-f]{15}\nEFAULT\n",
        frozenset({"filldir64,1"}),
    ),
    Case(
        "many functions that print",
        [
            Edit("net/ipv4/fib_frontend.c", ROUTED, NOTED.format("routed") + ROUTED),
            Edit("net/ipv4/fib_trie.c", INSERTED, NOTED.format("inserted") + INSERTED),
            Edit("net/ipv4/fib_semantics.c", CREATED, NOTED.format("created") + CREATED),
        ],
        "ip link set lo up; for n in 1 2; do dmesg -c > /dev/null; ip route add 10.77.0.0/16 dev lo; dmesg; "
        "ip route del 10.77.0.0/16 dev lo; done",
        r"\A(?![^$]*kmend:)",
        r"\A[^$]*kmend: routed\n[^$]*kmend: inserted\n[^$]*kmend: created\n[^$]*kmend: routed\n[^$]*kmend: inserted\n"
        r"[^$]*kmend: created\n(?![^$]*first)",
        frozenset({"fib_create_info,1", "fib_get_nhs,1", "fib_table_insert,1", "inet_rtm_newroute,1"}),
        pinned=True,
    ),
    Case(
        "system call",
        [Edit("kernel/sys.c", UNAME, f"{UNAME}\ttmp.machine[0] = 'X';\n")],
        "uname -m",
        r"\Ax86_64\n",
        r"\AX86_64\n",
        frozenset({"__x64_sys_newuname,1", "__ia32_sys_newuname,1"}),
        pinned=True,
    ),
    Case(
        "fsmount",
        [
            Edit(
                "fs/namespace.c",
                "\tif (attr_flags & ~FSMOUNT_VALID_FLAGS)\n\t\treturn -EINVAL;\n",
                "\tif (attr_flags & ~FSMOUNT_VALID_FLAGS)\n\t\treturn -EXDEV;\n",
            )
        ],
        "/call fsmount 0; /call fsmount 0x80000000",
        r"\A0\nEINVAL\n",
        r"\A0\nEXDEV\n",
        frozenset({"__x64_sys_fsmount,1", "__ia32_sys_fsmount,1"}),
        pinned=True,
    ),
    Case(
        "function of a shared section",
        [
            Edit(
                "kernel/time/hrtimer.c",
                NAPPED,
                NAPPED.replace("return 0;", "return ktime_to_ns(hrtimer_get_expires(&t->timer)) == 0 ? -EIO : -EXDEV;"),
            )
        ],
        "/call nap 1000000",
        r"\A0\n",
        r"\AEXDEV\n",
        frozenset({"do_nanosleep,1"}),
    ),
    Case(
        "weak symbol that nothing overrides",
        [Edit("drivers/tty/tty_ioctl.c", TERMIOS, TERMIOS.replace(";", " || put_user(77, &u->c_line);", 1))],
        "/call line",
        r"\A0\n",
        r"\A77\n",
        frozenset({"kernel_termios_to_user_termios_1,1"}),
    ),
    Case(
        "global function, data of the same name",
        [
            Edit(
                "fs/namei.c",
                "\tputname(filename);\n\treturn ret;\n\n}",
                '\tputname(filename);\n\tif (!ret && !strcmp(name, "/kmend")) {\n\t\tpath_put(path);\n\t\tret = -EXDEV;\n\t}\n'
                "\treturn ret;\n\n}",
            )
        ],
        "mkdir -p /kmend /target; mount --bind /kmend /target 2>&1 && umount /target; "
        "mount --bind /dev /target && umount /target",
        r"\A\Z",
        r"\A.*ross-device link\n\Z",
        frozenset({"kern_path,1"}),
    ),
    Case(
        "global function, local function of the same name",
        [
            Edit(
                "security/keys/user_defined.c",
                "\t\tmemcpy(buffer, upayload->data, buflen);\n",
                "\t\tmemcpy(buffer, upayload->data, buflen);\n\t\tbuffer[0] = 'K';\n",
            )
        ],
        "/call key payload",
        r"\A7 payload\n",
        r"\A7 Kayload\n",
        frozenset({"user_read,1"}),
    ),
    Case(
        "file with BTF IDs",
        [Edit("net/core/sock_map.c", STAB, f"\tif (attr->max_entries == 77)\n\t\treturn ERR_PTR(-EXDEV);\n\n{STAB}")],
        "/call socket_map 76; /call socket_map 77",
        r"\A0\n0\n",
        r"\A0\nEXDEV\n",
        frozenset({"sock_map_alloc,1"}),
    ),
    Case(
        "shadow variable",
        [
            Edit(
                "kernel/fork.c",
                CLONED,
                f"{CLONED}\tshadow = klp_shadow_get_or_alloc(p, 0x6b6d01, sizeof(*shadow), GFP_KERNEL, NULL, NULL);\n"
                "\tif (shadow)\n\t\t*shadow = p->pid + 100000;\n",
            ),
            Edit(
                "kernel/fork.c",
                "\tconst u64 clone_flags = args->flags;\n\tstruct nsproxy *nsp",
                "\tconst u64 clone_flags = args->flags;\n\tint *shadow;\n\tstruct nsproxy *nsp",
            ),
            Edit(
                "kernel/fork.c",
                "#include <linux/anon_inodes.h>\n",
                "#include <linux/anon_inodes.h>\n#include <linux/livepatch.h>\n",
            ),
            Edit(
                "fs/proc/array.c",
                "#include <linux/types.h>\n",
                "#include <linux/types.h>\n#include <linux/livepatch.h>\n",
            ),
            Edit(
                "fs/proc/array.c",
                '\tstruct mm_struct *mm = get_task_mm(task);\n\n\tseq_puts(m, "Name:\\t");',
                "\tstruct mm_struct *mm = get_task_mm(task);\n\tint *shadow = klp_shadow_get(task, 0x6b6d01);\n\n"
                '\tif (shadow)\n\t\tseq_printf(m, "newpid:\\t%d\\n", *shadow);\n\tseq_puts(m, "Name:\\t");',
            ),
            Edit("kernel/exit.c", "#include <linux/mm.h>\n", "#include <linux/mm.h>\n#include <linux/livepatch.h>\n"),
            Edit(
                "kernel/exit.c",
                "\ttsk->exit_code = code;\n\ttaskstats_exit",
                "\tklp_shadow_free(tsk, 0x6b6d01, NULL);\n\ttsk->exit_code = code;\n\ttaskstats_exit",
            ),
        ],
        "sh -c 'grep newpid /proc/self/status || echo none; grep newpid /proc/1/status || echo none'",
        r"\Anone\nnone\n",
        r"\Anewpid:\t10\d{4}\nnone\n",
        frozenset({"copy_process,1", "do_exit,1", "proc_pid_status,1"}),
        pinned=True,
    ),
    Case(
        "debug message in a replaced function",
        [Edit("fs/aio.c", TOO_MANY, TOO_MANY.replace("too high", "far too high").replace("-EINVAL", "-EXDEV"))],
        "dmesg -c > /dev/null; /call io_setup 0x10000000; cd /sys/kernel/debug/dynamic_debug; "
        "grep -o 'aio.c.*too high.*' control; echo 'func ioctx_alloc +p' > control; /call io_setup 0x10000000; "
        "echo 'func ioctx_alloc -p' > control; /call io_setup 0x10000000; dmesg",
        r"\AEINVAL\n.*\[aio\]ioctx_alloc =_ .*nr_events too high.*\n(?:.*\[kmend_\w+\].*\n)?EINVAL\nEINVAL\n"
        r".*ENOMEM: nr_events too high\n\Z",
        r"\AEXDEV\n[^$]*\[kmend_\w+\]ioctx_alloc =_ .*far too high.*\n[^$]*EXDEV\nEXDEV\n.*ENOMEM: nr_events far too high\n\Z",
        frozenset({"ioctx_alloc,1"}),
    ),
    Case(
        "include that changes the versions of exports",
        [
            Edit(
                "drivers/base/core.c",
                "#include <linux/acpi.h>\n",
                "#include <linux/acpi.h>\n#include <linux/iommu.h>\n",
            ),
            Edit(
                "drivers/base/core.c",
                '\t\tlen += sysfs_emit_at(buf, len, "%s\\n", env->envp[i]);\n',
                '\t\tlen += sysfs_emit_at(buf, len, "%s\\n", env->envp[i]);\n\tlen += sysfs_emit_at(buf, len, "MENDED=1\\n");\n',
            ),
        ],
        "tail -n1 /sys/devices/system/cpu/cpu0/uevent",
        r"\A(?!MENDED)",
        r"\AMENDED=1\n",
        frozenset({"uevent_show,1"}),
    ),
)
