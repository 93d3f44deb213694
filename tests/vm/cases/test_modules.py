"""Fixes of modules that come late, go and come back, and of modules and built-in code at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.fixmaker import Edit, FixMaker
from tests.vm.cases.conftest import furnished
from tests.vm.cases.memory import Symbols, peek, redirected
from tests.vm.livepatched import Loaded, complaints

from kmend import lab
from kmend.factory.build import build
from kmend.factory.kernels.prepared import Kernel

NETLINK = "net/netlink/af_netlink.c"
TITLE = "Dump  Locks    Drops    Inode\\n"
XFS = "fs/xfs/xfs_stats.c"
RELOGGED = '\tlen += scnprintf(buf + len, PATH_MAX-len, "defer_relog %llu\\n",\n'
SHOWN = (
    '\tpr_debug("statistics for %s\\n", current->comm);\n'
    "\tlocal_irq_save(flags);\n"
    '\tlen += scnprintf(buf + len, PATH_MAX - len, "mended %d %d %d %d\\n",\n'
    "\t\t\t static_branch_likely(&vm_numa_stat_key) ? 1 : 0,\n"
    "\t\t\t static_cpu_has(X86_FEATURE_XMM2) ? 1 : 0,\n"
    "\t\t\t static_branch_unlikely(&kmend_key) ? 1 : 0,\n"
    "\t\t\t xfs_params.syncd_timer.val);\n"
    "\tlocal_irq_restore(flags);\n"
    "\tstatic_branch_enable(&kmend_key);\n"
)
MANY_TABLES = (
    Edit(
        XFS,
        '#include "xfs.h"\n',
        '#include "xfs.h"\n#include <linux/vmstat.h>\n\nstatic DEFINE_STATIC_KEY_FALSE(kmend_key);\n',
    ),
    Edit(XFS, "\tuint64_t\tdefer_relog = 0;\n", "\tuint64_t\tdefer_relog = 0;\n\tunsigned long\tflags;\n"),
    Edit(XFS, RELOGGED, SHOWN + RELOGGED),
    Edit(NETLINK, TITLE, TITLE.replace("Inode", "Inode mended")),
)
KEY_HEADER = "Description: x\nKmend-Allow: new-writable-data kmend_key -- a key of this level alone\n---\n"
NATIVE = "static int netlink_native_seq_show(struct seq_file *seq, void *v)\n"
NOTE = 'void kmend_note(struct seq_file *seq)\n{\n\tseq_puts(seq, "# mended\\n");\n}\n\n'
OUTSIDE = (
    Edit(NETLINK, NATIVE, f"void kmend_note(struct seq_file *seq);\n{NOTE}{NATIVE}"),
    Edit(NETLINK, TITLE, TITLE.replace("Inode", "Inode mended")),
    Edit("fs/nfsd/export.c", "static int e_show(", "void kmend_note(struct seq_file *seq);\n\nstatic int e_show("),
    Edit(
        "fs/nfsd/export.c",
        '\t\tseq_puts(m, "# Version 1.1\\n");\n',
        '\t\tseq_puts(m, "# Version 1.1\\n");\n\t\tkmend_note(m);\n',
    ),
)
OPENED = "\terr = fh_verify(rqstp, fhp, type, may_flags);\n\tif (!err) {\n\t\terr = __nfsd_open("
GLOBAL_OPEN = Edit("fs/nfsd/vfs.c", OPENED, f"\tif (type == S_IFIFO)\n\t\treturn nfserr_stale;\n{OPENED}")
PROC = "DEFINE_PROC_SHOW_ATTRIBUTE(nfsd);\n"
LOCAL_OPEN = Edit(
    "fs/nfsd/stats.c",
    PROC,
    "static int nfsd_open(struct inode *inode, struct file *file)\n{\n"
    "\treturn file->f_flags & O_NONBLOCK ? -EXDEV : single_open(file, nfsd_show, pde_data(inode));\n}\n\n"
    "static const struct proc_ops nfsd_proc_ops = {\n\t.proc_flags\t= PROC_ENTRY_PERMANENT,\n\t.proc_open\t= nfsd_open,\n"
    "\t.proc_read\t= seq_read,\n\t.proc_lseek\t= seq_lseek,\n\t.proc_release\t= single_release,\n};\n",
)


def _nearest(addresses: Sequence[int], other: int) -> int:
    return min(addresses, key=lambda address: abs(address - other))


def file_of(vm: lab.Vm, module: str) -> str:
    """Where a module's file is on the guest."""
    return vm.sh(f"find /lib/modules -name {module}.ko").text.strip()


@pytest.mark.slow
def test_a_module_that_comes_late_with_every_kind_of_table(
    prepared: Kernel, maker: FixMaker, image: lab.UnpackedKernel, call: Path
) -> None:
    built = build(prepared, [maker.fix(*MANY_TABLES, header=KEY_HEADER)])
    assert {o.name: {f.name for f in o.functions} for o in built.manifest.objects} == {
        "vmlinux": {"netlink_seq_show"}, "xfs": {"xfs_stats_format"}}  # fmt: skip
    with furnished(image, call, "xfs") as vm:
        xfs, statistics = file_of(vm, "xfs"), "grep mended /sys/fs/xfs/stats/stats"
        control = "/sys/kernel/debug/dynamic_debug/control"
        vm.run(["rmmod", "xfs"])
        level = Loaded(vm, built)
        level.insert()
        assert vm.sh("head -n1 /proc/net/netlink").text.endswith("Inode mended\n"), "built-in code does not wait for it"
        for time in range(2):
            vm.run(["insmod", xfs])
            first = vm.sh(statistics).text
            assert first == f"mended 1 1 {time} 3000\n", "the livepatch's own key is turned once"
            assert vm.sh(statistics).text == "mended 1 1 1 3000\n"
            vm.sh("echo 0 > /proc/sys/vm/numa_stat")
            assert vm.sh(statistics).text == "mended 0 1 1 3000\n", "the kernel's key is followed"
            vm.sh("echo 1 > /proc/sys/vm/numa_stat")
            assert vm.sh(statistics).text == "mended 1 1 1 3000\n"
            assert "statistics for" not in vm.run(["dmesg", "-c"]).text.partition("kmend_")[2]
            vm.sh(
                f"echo 'module {level.name} +p' > {control} && {statistics} && echo 'module {level.name} -p' > {control}"
            )
            assert vm.sh("dmesg | grep -c 'statistics for grep'").text == "1\n"
            vm.run(["rmmod", "xfs"])
        vm.run(["insmod", xfs])
        level.disable()
        level.remove()
        assert vm.sh(statistics, check=False).text == ""
        assert complaints("loading out-of-tree module" + vm.kernel_log()) == []


@pytest.mark.slow
def test_a_module_calls_a_new_function_of_built_in_code(
    prepared: Kernel, maker: FixMaker, image: lab.UnpackedKernel, call: Path
) -> None:
    built = build(prepared, [maker.fix(*OUTSIDE)])
    exports = "head -n2 /proc/fs/nfs/exports"
    with furnished(image, call, "nfsd") as vm:
        nfsd = file_of(vm, "nfsd")
        assert "mended" not in vm.sh(exports).text
        level = Loaded(vm, built)
        level.insert()
        assert vm.sh(exports).text == "# Version 1.1\n# mended\n", "the module was there before"
        vm.run(["rmmod", "nfsd"])
        assert vm.sh("head -n1 /proc/net/netlink").text.endswith("Inode mended\n")
        vm.run(["insmod", nfsd])
        assert vm.sh(exports).text == "# Version 1.1\n# mended\n", "it has come back"
        vm.run(["rmmod", "nfsd"])
        level.disable()
        level.remove()
        vm.run(["insmod", nfsd])
        assert "mended" not in vm.sh(exports).text
        assert complaints(vm.kernel_log()) == []


@pytest.mark.slow
def test_the_module_never_comes(prepared: Kernel, maker: FixMaker, fresh: lab.Vm) -> None:
    one, two = (build(prepared, [maker.fix(*OUTSIDE)], level=level) for level in (1, 2))
    first, second = Loaded(fresh, one), Loaded(fresh, two)
    first.insert()
    assert first.replaced["vmlinux"] == {"netlink_seq_show,1"}
    second.insert()
    first.remove()
    second.disable()
    second.remove()
    assert complaints(fresh.kernel_log()) == []


@pytest.mark.slow
def test_the_right_one_of_a_modules_equal_names(
    prepared: Kernel, maker: FixMaker, image: lab.UnpackedKernel, call: Path
) -> None:
    """`nfsd_open` opens a file for a client, and is also what a macro calls the opening of /proc/net/rpc/nfsd."""
    local, other = (build(prepared, [maker.fix(edit)]) for edit in (LOCAL_OPEN, GLOBAL_OPEN))
    opened = "/call open_nonblock /proc/net/rpc/nfsd"
    with furnished(image, call, "nfsd") as vm:
        symbols = Symbols(vm)
        both = symbols.addresses("nfsd_open", "nfsd")
        places = {"local": _nearest(both, symbols.address("nfsd_show", "nfsd")),
                  "global": _nearest(both, symbols.address("nfsd_open_verified", "nfsd"))}  # fmt: skip
        assert set(places.values()) == set(both)
        assert len(both) == 2
        for built, kind, names in ((local, "local", {"nfsd_open,1"}), (other, "global", {"nfsd_open,2"})):
            level = Loaded(vm, built)
            level.insert()
            assert level.replaced["nfsd"] == names
            changed = {name for name, address in places.items() if redirected(peek(vm, address, 5))}
            assert changed == {kind}
            assert vm.sh(opened).text == ("EXDEV\n" if kind == "local" else "0\n")
            level.disable()
            level.remove()
            assert vm.sh(opened).text == "0\n"
        assert complaints(vm.kernel_log()) == []


@pytest.mark.slow
def test_the_right_one_of_the_kernels_equal_names(prepared: Kernel, maker: FixMaker, fresh: lab.Vm) -> None:
    """SELinux has a `user_read` of its own, behind that of the key service."""
    before = "\tif (p->policyvers >= POLICYDB_VERSION_BOUNDARY)\n\t\tusrdatum->bounds = "
    built = build(prepared, [maker.fix(Edit("security/selinux/ss/policydb.c", before, before.replace(">=", ">")))])
    addresses = Symbols(fresh).addresses("user_read")
    level = Loaded(fresh, built)
    level.insert()
    assert level.replaced == {"vmlinux": {"user_read,2"}}
    assert [redirected(peek(fresh, address, 5)) for address in addresses] == [False, True]
    assert fresh.run(["/call", "key", "payload"]).text == "7 payload\n"
    level.disable()
    level.remove()
    assert [redirected(peek(fresh, address, 5)) for address in addresses] == [False, False]
    assert complaints(fresh.kernel_log()) == []
