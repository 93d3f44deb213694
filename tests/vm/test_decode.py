"""Real warnings and a real oops in livepatched functions, taken off the console and decoded to the fix's own lines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.fixmaker import Edit, FixMaker

from kmend import lab
from kmend.core.kernel import KernelRef
from kmend.factory.build import Built, build
from kmend.factory.desk.companion import write_companion
from kmend.factory.kernels.packages import fetch_package, kernel_packages
from kmend.factory.kernels.prepared import Kernel
from kmend.factory.main import cli

SHOW = "static int filesystems_proc_show("
PRINTED = '\t\tseq_printf(m, "%s\\t%s\\n",'
WARNS = 'return WARN_ON_ONCE(!strcmp(type->name, "sysfs"));'
NEW = f"static noinline bool is_odd(const struct file_system_type *type)\n{{\n\t{WARNS}\n}}\n\n"
CALLS = "if (is_odd(tmp))"
END = "\treturn 0;\n}\n\nstatic int __init"
DIES = "WRITE_ONCE(*nowhere, 1);"
INLINED = f"static __always_inline void die(void)\n{{\n\tint *nowhere = NULL;\n\n\tOPTIMIZER_HIDE_VAR(nowhere);\n\t{DIES}\n}}\n\n"
IN_MODULE = "WARN_ON(val == 0);"
EDITS = (
    Edit("fs/filesystems.c", SHOW, f"{NEW}{SHOW}"),
    Edit("fs/filesystems.c", PRINTED, f'\t\t{CALLS}\n\t\t\tseq_puts(m, "#");\n{PRINTED}'),
    Edit("fs/proc/uptime.c", "static int uptime_proc_show(", f"{INLINED}static int uptime_proc_show("),
    Edit("fs/proc/uptime.c", END, f'\tif (!strcmp(current->comm, "oops"))\n\t\tdie();\n{END}'),
    Edit("drivers/block/zram/zram_drv.c", "\tval = init_done(zram);\n", f"\tval = init_done(zram);\n\t{IN_MODULE}\n"),
)


@dataclass(frozen=True, slots=True)
class Console:
    """What a guest's kernel wrote on its console, and the folder with the livepatch's companion."""

    text: Path
    build: Path
    built: Built


@pytest.fixture(scope="module")
def console(prepared: Kernel, maker: FixMaker, tmp_path_factory: pytest.TempPathFactory) -> Console:
    folder = tmp_path_factory.mktemp("decode")
    built = build(prepared, [maker.fix(*EDITS)])
    write_companion(built, folder / "build/debug")
    name = built.manifest.module.name
    ref = KernelRef.parse(prepared.identity.ref)
    package = fetch_package(kernel_packages(ref).image, prepared.record.package)
    with lab.boot(lab.unpack(package.path), modules=["zram"]) as vm:
        vm.put_bytes(built.module, f"/{name}.ko")
        vm.sh(
            f"insmod /{name}.ko; while [ $(cat /sys/kernel/livepatch/{name}/transition) = 1 ]; do usleep 100000; done"
        )
        vm.sh("cat /proc/filesystems >/dev/null; cat /sys/block/zram0/initstate")
        died = vm.sh("printf oops > /proc/self/comm; read x < /proc/uptime", check=False)
        assert died.status == 137, "the kernel kills the task that it oopsed in"
        assert vm.run(["true"]).status == 0
        (folder / "console.txt").write_bytes(vm.serial_log.read_bytes())
    return Console(folder / "console.txt", folder / "build", built)


def decode(*words: str | Path) -> tuple[int, Any]:
    result = CliRunner().invoke(cli, ["decode", "--json", *map(str, words)], standalone_mode=False)
    assert result.exception is None, result.output
    return int(result.return_value or 0), json.loads(result.stdout)


def line_of(maker: FixMaker, edits: list[Edit], text: str) -> int:
    """The number of the one line with that text in the file as the edits leave it."""
    patched = maker.source(edits[0].path)
    for edit in edits:
        patched = patched.replace(edit.old, edit.new, 1)
    (number,) = (n for n, line in enumerate(patched.splitlines(), 1) if line.strip() == text)
    return number


def test_the_fixs_own_lines(console: Console, maker: FixMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = tmp_path / "cache"
    packages.mkdir()
    monkeypatch.setenv("KMEND_CACHE", str(packages))
    status, report = decode(console.text, "--manifest", console.build)
    assert status == 0
    assert report["kernel"] is None, "no kernel is prepared in this cache: the companion alone is enough"
    livepatched = [frame for frame in report["frames"] if frame["livepatch"] and frame["sure"]]
    assert {frame["module"] for frame in livepatched} == {console.built.manifest.module.name}
    assert all(frame["lines"] for frame in livepatched)
    at = {frame["function"].partition(".")[0]: frame["lines"] for frame in livepatched}
    assert {"is_odd", "filesystems_proc_show", "uptime_proc_show", "initstate_show"} <= set(at)

    (warned,) = at["is_odd"]
    assert warned == {"function": "is_odd", "file": EDITS[0].path, "line": line_of(maker, list(EDITS[:2]), WARNS),
                      "added": True, "text": WARNS}  # fmt: skip
    (called,) = at["filesystems_proc_show"]
    assert (called["text"], called["added"]) == (CALLS, True), "the call, not the line after it"
    assert called["line"] == line_of(maker, list(EDITS[:2]), CALLS)
    inner, outer = at["uptime_proc_show"]
    assert (inner["function"], inner["text"], inner["added"]) == ("die", DIES, True)
    assert inner["line"] == line_of(maker, list(EDITS[2:4]), DIES)
    assert (outer["function"], outer["text"]) == ("uptime_proc_show", "die();")
    (in_module,) = at["initstate_show"]
    assert (in_module["text"], in_module["added"]) == (IN_MODULE, True)
    assert in_module["line"] == line_of(maker, [EDITS[4]], IN_MODULE)


def test_a_companion_that_is_not_there_is_named(console: Console, tmp_path: Path) -> None:
    name = console.built.manifest.module.name
    status, report = decode(console.text, "--companions", tmp_path)
    assert status == 1
    problems = {frame["problem"] for frame in report["frames"] if frame["livepatch"]}
    assert len(problems) == 1
    assert f"no debug companion of {name} in {tmp_path}" in problems.pop()


@pytest.mark.slow
def test_the_kernels_own_functions_too(console: Console, prepared: Kernel) -> None:
    """vmlinux and modules by the distro's debug files; the first use takes them out of their package."""
    status, report = decode(console.text, "--manifest", console.build)
    assert status == 0
    assert report["kernel"] == prepared.identity.ref
    sure = {frame["function"]: frame["lines"] for frame in report["frames"] if frame["sure"] and not frame["livepatch"]}
    assert sure["seq_read_iter"][-1]["file"] == "fs/seq_file.c"
    assert "show(m, " in sure["seq_read_iter"][-1]["text"]
    assert [line["function"] for line in sure["do_syscall_64"]][-1] == "do_syscall_64"
    assert sure["entry_SYSCALL_64_after_hwframe"][0]["file"] == "arch/x86/entry/entry_64.S"
