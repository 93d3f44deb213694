"""Fixes of every kind that become livepatches, and what is inside the modules."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from tests.build.conftest import Builder
from tests.fixmaker import Edit, FixMaker

from kmend.core.manifest import PatchedFunction
from kmend.factory.build import Built, build, explain
from kmend.factory.elf import ObjectFile, Relocation, Section, read_object
from kmend.factory.elf.constants import SHN_LIVEPATCH
from kmend.factory.kernels.prepared import Kernel

VERSION = "fs/proc/version.c"
CMDLINE = "fs/proc/cmdline.c"
LOADAVG = "fs/proc/loadavg.c"
UPTIME = "fs/proc/uptime.c"
EXIT = "kernel/exit.c"
SHOWN = "\treturn 0;\n}\n\nstatic int __init"
"""The end of a file's show function."""


def functions(built: Built) -> dict[str, PatchedFunction]:
    """What it replaces in vmlinux, by name."""
    (patched,) = built.manifest.objects
    assert patched.name == "vmlinux"
    return {function.name: function for function in patched.functions}


def klp_names(section: Section) -> set[str]:
    """`name,sympos` of what livepatch is to resolve in that section."""
    found = {relocation.symbol.name for group in section.klp_relocations.values() for relocation in group}
    return {name.removeprefix(".klp.sym.vmlinux.") for name in found}


def code_of(image: ObjectFile, function: str) -> tuple[Section, bytes, list[Relocation]]:
    """A function's section, its bytes, and its ordinary relocations."""
    symbol = image.symbol(function)
    assert symbol is not None
    assert symbol.section is not None
    end = symbol.value + symbol.size
    inside = [relocation for relocation in symbol.section.relocations if symbol.value <= relocation.offset < end]
    return symbol.section, symbol.section.content[symbol.value : end], inside


def strings(image: ObjectFile) -> bytes:
    """All string sections, joined."""
    return b"".join(section.content for section in image.sections if section.name.startswith(".rodata"))


def targets(relocations: Iterable[Relocation]) -> set[str]:
    """Names that relocations refer to."""
    return {relocation.symbol.name for relocation in relocations}


def test_a_string(prepared: Kernel, maker: FixMaker) -> None:
    built = build(prepared, [maker.fix(Edit(LOADAVG, "%u/%d %d\\n", "%u/%d %d mended\\n"))], level=7, base=5)
    manifest = built.manifest
    assert (manifest.level, manifest.base, manifest.module.name[:8]) == (7, 5, "kmend_7_")
    assert manifest.kernel == prepared.identity
    assert manifest.pinned == ()
    assert manifest.warnings == ()
    (function,) = functions(built).values()
    assert (function.name, function.sympos, function.source) == ("loadavg_proc_show", 0, LOADAVG)
    assert function.old_size == function.new_size > 0
    assert manifest.proof.originals_equal == ("loadavg_proc_show",)
    assert manifest.built.inputs == prepared.record.inputs
    image = read_object(built.module)
    assert b"%d mended\n\0" in strings(image)
    section, code, relocations = code_of(image, "loadavg_proc_show")
    assert section.name == ".text.kmend0.loadavg_proc_show"
    assert code[0] == 0xE8, "it begins with the call to __fentry__"
    assert {"__fentry__", "seq_printf", "__x86_return_thunk"} <= targets(relocations)
    assert klp_names(section) == {"get_avenrun,0", "nr_running,0"} | ({"nr_threads,0"} & klp_names(section))
    assert all(symbol.section is None for symbol in image.symbols if symbol.index == SHN_LIVEPATCH)
    account = "\n".join(explain(built))
    assert "loadavg_proc_show -> nr_running: klp relocation, sympos 0" in account
    assert "loadavg_proc_show -> seq_printf: export, CRC 0x" in account
    assert "its original equals the shipped kernel's" in account


def test_a_new_function_and_new_constant_data(prepared: Kernel, maker: FixMaker) -> None:
    added = (
        "static const char *const kmend_words[] = { \"one\", \"two\", \"three\" };\n\n"
        "static noinline void kmend_say(struct seq_file *m, unsigned long n)\n{\n"
        "\tif (n < ARRAY_SIZE(kmend_words))\n\t\tseq_puts(m, kmend_words[n]);\n}\n\n"
    )  # fmt: skip
    fix = maker.fix(
        Edit(UPTIME, "static int uptime_proc_show(", f"{added}static int uptime_proc_show("),
        Edit(UPTIME, SHOWN, f"\tkmend_say(m, uptime.tv_sec);\n{SHOWN}"),
    )
    built = build(prepared, [fix])
    assert set(functions(built)) == {"uptime_proc_show"}
    assert built.extraction.added_functions == [(UPTIME, "kmend_say")]
    assert built.extraction.new_data == [(UPTIME, "kmend_words", False)]
    assert [notice.code for notice in built.manifest.warnings] == ["new-data"]
    image = read_object(built.module)
    words = image.symbol("kmend_words")
    assert words is not None
    assert words.section is not None
    assert not words.section.writable
    pointers = sorted(words.section.relocations, key=lambda relocation: relocation.offset)
    assert len(pointers) == 3
    for pointer, text in zip(pointers, (b"one\0", b"two\0", b"three\0"), strict=True):
        home = pointer.symbol.section
        assert home is not None
        assert home.content[pointer.symbol.value + pointer.addend :].startswith(text)
    _, _, relocations = code_of(image, "uptime_proc_show")
    assert "kmend_say" in targets(relocations), "the call goes straight to the new function"


def test_new_globals_shared_by_two_files(prepared: Kernel, maker: FixMaker) -> None:
    defined = 'const char kmend_suffix[] = "suffix";\n\n'
    defined += "void kmend_note(struct seq_file *m)\n{\n\tseq_puts(m, kmend_suffix);\n}\n\n"
    declared = "extern const char kmend_suffix[];\nvoid kmend_note(struct seq_file *m);\n\n"
    fix = maker.fix(
        Edit(CMDLINE, "static int cmdline_proc_show(", f"{declared}{defined}static int cmdline_proc_show("),
        Edit(CMDLINE, SHOWN, f"\tkmend_note(m);\n{SHOWN}"),
        Edit(VERSION, "static int version_proc_show(", f"{declared}static int version_proc_show("),
        Edit(VERSION, SHOWN, f"\tseq_write(m, kmend_suffix, 3);\n\tkmend_note(m);\n{SHOWN}"),
    )
    built = build(prepared, [fix])
    assert set(functions(built)) == {"cmdline_proc_show", "version_proc_show"}
    image = read_object(built.module)
    for name in ("kmend_note", "kmend_suffix"):
        (symbol,) = [symbol for symbol in image.symbols if symbol.name == name]
        assert symbol.section is not None
    _, _, relocations = code_of(image, "version_proc_show")
    assert {"kmend_note", "kmend_suffix"} <= targets(relocations)
    assert "saved_command_line" in targets(code_of(image, "cmdline_proc_show")[2]) or any(
        name.startswith("saved_command_line,") for name in klp_names(code_of(image, "cmdline_proc_show")[0])
    )


def test_new_global_data_used_by_the_other_file_only(prepared: Kernel, maker: FixMaker) -> None:
    fix = maker.fix(
        Edit(CMDLINE, "static int cmdline_proc_show(", "const int kmend_number = 77;\n\nstatic int cmdline_proc_show("),
        Edit(
            VERSION, "static int version_proc_show(", "extern const int kmend_number;\n\nstatic int version_proc_show("
        ),
        Edit(VERSION, SHOWN, f'\tseq_printf(m, "%d\\n", kmend_number);\n{SHOWN}'),
    )
    built = build(prepared, [fix])
    assert set(functions(built)) == {"version_proc_show"}
    assert "no-change" in {notice.code for notice in built.manifest.warnings}
    number = read_object(built.module).symbol("kmend_number")
    assert number is not None
    assert number.section is not None
    assert number.section.content[number.value : number.value + 4] == (77).to_bytes(4, "little")


def test_static_locals_stay_the_kernels_own(prepared: Kernel, maker: FixMaker) -> None:
    """A static local put before others renumbers them; they are found by what refers to them all the same."""
    before = "\tino_t res;\n\n\trcu_read_lock();\n"
    after = (
        '\tstatic const char *const kmend_name[] = { "x", "yy" };\n\tino_t res;\n\n'
        "\tmax_reserved += kmend_name[max_reserved & 1][0];\n\trcu_read_lock();\n"
    )
    fix = maker.fix(Edit("fs/inode.c", before, after))
    built = build(prepared, [fix])
    assert set(functions(built)) == {"iunique"}
    section, _, _ = code_of(read_object(built.module), "iunique")
    wanted = {name.partition(".")[0]: name for name in klp_names(section) if "." in name}
    assert wanted.keys() == {"iunique_lock", "counter"}
    for symbol_name in wanted.values():
        name, _, sympos = symbol_name.partition(",")
        candidates = prepared.kallsyms.named(name)
        assert candidates, "the name is the one that it has in the running kernel"
        assert (int(sympos) == 0) == (len(candidates) == 1)


@pytest.mark.parametrize(
    ("path", "old", "new", "kind"),
    [
        (
            "security/selinux/ss/policydb.c",
            "\tif (p->policyvers >= POLICYDB_VERSION_BOUNDARY)\n\t\tusrdatum->bounds = ",
            "\tif (p->policyvers > POLICYDB_VERSION_BOUNDARY)\n\t\tusrdatum->bounds = ",
            "t",
        ),
        (
            "security/keys/user_defined.c",
            "\tret = upayload->datalen;\n\n\t/* we can return",
            "\tret = upayload->datalen & 0x7fff;\n\n\t/* we can return",
            "T",
        ),
    ],
    ids=["local", "global"],
)
def test_the_right_one_of_equal_names_is_replaced(
    prepared: Kernel, maker: FixMaker, path: str, old: str, new: str, kind: str
) -> None:
    """`user_read` is a global of the key service and a local of SELinux."""
    built = build(prepared, [maker.fix(Edit(path, old, new))])
    (function,) = functions(built).values()
    types = [symbol.type for symbol in prepared.kallsyms.named("user_read")]
    assert sorted(types) == ["T", "t"]
    assert (function.name, function.sympos) == ("user_read", types.index(kind) + 1)


def test_the_right_one_of_equal_names_is_referred_to(prepared: Kernel, maker: FixMaker) -> None:
    """Several files have a `put_entry` of their own, of the same code: the file's block of symbols decides."""
    path = "security/selinux/ss/policydb.c"
    before = "\tbuf[items++] = cpu_to_le32(usrdatum->value);\n"
    built = build(prepared, [maker.fix(Edit(path, before, before.replace("value", "value & 0xffff")))])
    assert set(functions(built)) == {"user_write"}
    (name,) = [n for n in klp_names(code_of(read_object(built.module), "user_write")[0]) if n.startswith("put_entry,")]
    candidates = prepared.kallsyms.named("put_entry")
    assert len(candidates) > 1
    address = candidates[int(name.partition(",")[2]) - 1].address
    (symbol,) = [symbol for symbol in prepared.vmlinux.symbols_at(address) if symbol.name == "put_entry"]
    assert symbol.file_block is not None
    assert prepared.vmlinux.file_block_name(symbol.file_block) == "policydb.c"
    assert "user_write" in {other.name for other in prepared.vmlinux.block_symbols(symbol.file_block)}


def test_per_cpu_data(prepared: Kernel, maker: FixMaker) -> None:
    fix = maker.fix(
        Edit("fs/inode.c", "\tinode->i_generation = 0;\n\tinode->i_pipe", "\tinode->i_generation = 3;\n\tinode->i_pipe")
    )
    built = build(prepared, [fix])
    section, _, _ = code_of(read_object(built.module), "inode_init_always")
    assert "nr_inodes,0" in klp_names(section)
    assert any(name.startswith("no_open_fops.") for name in klp_names(section)), (
        "its constant static local is the kernel's"
    )


def test_a_function_with_every_special_table(prepared: Kernel, maker: FixMaker) -> None:
    """do_exit() has jump labels, static calls, alternatives, paravirtual calls, warnings and a cold part."""
    fix = maker.fix(
        Edit(EXIT, "\ttsk->exit_code = code;\n\ttaskstats_exit", "\ttsk->exit_code = code & 0xffff;\n\ttaskstats_exit")
    )
    built = build(prepared, [fix])
    assert "do_exit" in functions(built)
    assert "do_exit.cold" not in functions(built)
    assert any("do_exit" in reason for reason in built.manifest.pinned), "it runs after the task is unhashed"
    image = read_object(built.module)
    cold = image.symbol("do_exit.cold")
    assert cold is not None
    assert cold.section is not None
    code = code_of(image, "do_exit")[0]
    entries = {
        "__jump_table": 16,
        ".static_call_sites": 8,
        "__bug_table": 12,
        ".altinstructions": 12,
        ".parainstructions": 16,
    }
    for name, size in entries.items():
        table = image.section(name)
        assert table is not None, name
        assert len(table.content) % size == 0
        places = {r.offset // size: r.symbol.section for r in table.relocations if r.offset % size == 0}
        assert len(places) == len(table.content) // size
        assert {id(place) for place in places.values()} <= {id(code), id(cold.section)} | _other_text(image)
    jumps = image.section("__jump_table")
    assert jumps is not None
    assert any("__tracepoint_" in name for name in klp_names(jumps)), "keys are the running kernel's"
    calls = image.section(".static_call_sites")
    assert calls is not None
    assert any(name.startswith("__SCK__") for name in klp_names(calls))


def _other_text(image: ObjectFile) -> set[int]:
    """The sections of all code, the glue's included."""
    return {id(section) for section in image.sections if section.executable}


def test_faults_in_a_changed_function_are_still_mended(prepared: Kernel, maker: FixMaker) -> None:
    fix = maker.fix(
        Edit(
            "fs/select.c",
            "\tpoll_initwait(&table);\n\tfdcount = do_poll",
            "\tbarrier();\n\ttodo++;\n\tpoll_initwait(&table);\n\tif (todo > 77)\n\t\treturn 0;\n\tfdcount = do_poll",
        )
    )
    built = build(prepared, [fix])
    image = read_object(built.module)
    section, _, _ = code_of(image, "do_sys_poll")
    table = image.section("__ex_table")
    assert table is not None
    faults = [r.symbol.section for r in table.relocations if r.offset % 12 == 0]
    landings = [r.symbol.section for r in table.relocations if r.offset % 12 == 4]
    assert faults == landings == [section] * len(faults)
    assert faults


def test_a_function_of_a_shared_section(prepared: Kernel, maker: FixMaker) -> None:
    """`.sched.text` holds many functions; one of them is cut out, with its unwind entries."""
    fix = maker.fix(
        Edit(
            "kernel/time/hrtimer.c",
            "\t\tif (rem <= 0)\n\t\t\treturn 0;\n\t\trmt = ",
            "\t\tif (rem <= 1)\n\t\t\treturn 0;\n\t\trmt = ",
        )
    )
    built = build(prepared, [fix])
    (function,) = functions(built).values()
    assert function.name == "do_nanosleep"
    image = read_object(built.module)
    section, code, _ = code_of(image, "do_nanosleep")
    assert section.name == ".text.kmend0.do_nanosleep"
    assert len(code) == function.new_size
    table = image.section(".orc_unwind_ip")
    assert table is not None
    places = sorted(r.symbol.value + r.addend for r in table.relocations if r.symbol.section is section)
    assert places[0] == 0
    assert places[-1] == function.new_size, "the last entry closes the function"


def test_neighbours_in_a_shared_section(prepared: Kernel, maker: FixMaker) -> None:
    """The assembler settles calls inside a section and leaves no relocation; the distance is another one in a livepatch."""
    path = "kernel/time/hrtimer.c"
    grown = Edit(
        path,
        "\tif (!t->task)\n\t\treturn 0;\n\n\trestart =",
        "\tif (!t->task)\n\t\treturn READ_ONCE(t->timer.is_soft);\n\n\trestart =",
    )
    assert set(functions(build(prepared, [maker.fix(grown)]))) == {"do_nanosleep"}, "its callers only call farther"
    caller = Edit(
        path,
        "\tret = do_nanosleep(&t, HRTIMER_MODE_ABS);",
        "\tret = do_nanosleep(&t, HRTIMER_MODE_ABS) | 1;",
        first=True,
    )
    changed = build(prepared, [maker.fix(caller)])
    assert set(functions(changed)) == {"hrtimer_nanosleep_restart"}
    section, code, _ = code_of(read_object(changed.module), "hrtimer_nanosleep_restart")
    (call,) = [r for r in section.klp_relocations["vmlinux"] if "do_nanosleep" in r.symbol.name]
    assert call.symbol.name == ".klp.sym.vmlinux.do_nanosleep,0"
    assert code[call.offset - 1] == 0xE8
    assert code[call.offset : call.offset + 4] == bytes(4)


def test_a_system_call_is_replaced_through_its_entries(prepared: Kernel, maker: FixMaker) -> None:
    """Its body is inline to the compiler, so cannot be traced; what calls it can, and brings the new body."""
    before = "ru ? &r : NULL);\n\n\tif (err > 0) {\n\t\tif (ru && copy_to_user(ru, &r, sizeof(struct rusage)))"
    built = build(prepared, [maker.fix(Edit(EXIT, before, before.replace("> 0", "> 1")))])
    assert set(functions(built)) == {"__x64_sys_wait4", "__ia32_sys_wait4"}
    assert "__do_sys_wait4" in built.manifest.proof.originals_equal
    image = read_object(built.module)
    assert image.symbol("__do_sys_wait4") is not None
    for entry in functions(built):
        assert "__do_sys_wait4" in targets(code_of(image, entry)[2])


def test_an_original_that_only_jumps_farther_is_proved_plainly(prepared: Kernel, maker: FixMaker) -> None:
    """With a section of its own it is three bytes longer than the shipped one, which reaches its neighbour by a short jump."""
    before = "static void deferred_cad(struct work_struct *dummy)\n{\n"
    built = build(
        prepared, [maker.fix(Edit("kernel/reboot.c", before, f"{before}\tbarrier();\n\tREAD_ONCE(C_A_D);\n"))]
    )
    assert set(functions(built)) == {"deferred_cad"}
    assert built.manifest.proof.originals_equal == ("deferred_cad",)


def test_a_pointer_to_a_changed_function_is_the_original(prepared: Kernel, maker: FixMaker) -> None:
    """The kernel may call it after the livepatch is gone, so it must not lead into the livepatch."""
    fix = maker.fix(
        Edit(EXIT, "\tkprobe_flush_task(tsk);\n", "\tkprobe_flush_task(tsk);\n\ttsk->exit_signal = 0;\n"),
        Edit(EXIT, "\tif (refcount_dec_and_test(&task->rcu_users))\n\t\tcall_rcu",
             "\tbarrier();\n\tif (refcount_dec_and_test(&task->rcu_users) && task->exit_signal)\n\t\tcall_rcu"),
    )  # fmt: skip
    built = build(prepared, [fix])
    assert {"delayed_put_task_struct", "put_task_struct_rcu_user"} <= set(functions(built))
    section, _, relocations = code_of(read_object(built.module), "put_task_struct_rcu_user")
    assert "delayed_put_task_struct,0" in klp_names(section)
    assert "delayed_put_task_struct" not in targets(relocations)


def test_two_fixes_of_one_file_and_their_record(prepared: Kernel, maker: FixMaker, command: Builder) -> None:
    header = (
        "Description: first words\n more words\nCVE: CVE-2026-11111, CVE-2026-22222\nOrigin: vendor, somewhere\n---\n"
    )
    first = maker.fix(Edit(VERSION, SHOWN, f'\tseq_puts(m, "one\\n");\n{SHOWN}'), header=header)
    second = maker.fix(
        Edit(
            VERSION,
            "\tseq_printf(m, linux_proc_banner,",
            '\tseq_puts(m, "zero\\n");\n\tseq_printf(m, linux_proc_banner,',
        )
    )
    built = build(prepared, [first, second])
    assert [fix.digest for fix in built.manifest.fixes] == [first.digest, second.digest]
    assert built.manifest.cves == ("CVE-2026-11111", "CVE-2026-22222")
    assert built.manifest.fixes[0].title == "first words"
    image = read_object(built.module)
    assert b"one\n\0" in strings(image)
    assert b"zero\n\0" in strings(image)
