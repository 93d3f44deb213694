"""Code that is compiled twice, originals that were damaged, and addresses of new functions that the kernel may keep."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fixmaker import Edit, FixMaker

from kmend.factory.build import build
from kmend.factory.build.compile import compile_original
from kmend.factory.kernels.prepared import Kernel

LOAD = "static int load_elf_binary(struct linux_binprm *bprm)\n{\n"
PELT = "kernel/sched/completion.c"
LOAD_AVG = "void complete(struct completion *x)\n{\n\tunsigned long flags;\n\n"
SPACE = "static void unix_write_space(struct sock *sk)\n"
OTHER = "static void unix_other_space(struct sock *sk)\n{\n\tWRITE_ONCE(sk->sk_err_soft, 0);\n}\n\n"
SET = "sk->sk_write_space\t= unix_write_space;"


def test_a_file_that_is_compiled_and_included_is_mended_in_both(prepared: Kernel, maker: FixMaker) -> None:
    built = build(prepared, [maker.fix(Edit("fs/binfmt_elf.c", LOAD, f'{LOAD}\tasm volatile("nop");\n'))])
    (patched,) = built.manifest.objects
    found = {(function.source, function.name) for function in patched.functions}
    assert found == {("fs/binfmt_elf.c", "load_elf_binary"), ("fs/compat_binfmt_elf.c", "load_elf_binary")}
    assert len({function.sympos for function in patched.functions}) == 2


def test_a_file_that_is_only_included(prepared: Kernel, maker: FixMaker) -> None:
    built = build(prepared, [maker.fix(Edit(PELT, LOAD_AVG, f'{LOAD_AVG}\tasm volatile("nop");\n'))])
    (patched,) = built.manifest.objects
    assert {function.source for function in patched.functions} == {"kernel/sched/build_utility.c"}


def test_a_new_function_whose_address_is_kept_pins_the_level(prepared: Kernel, maker: FixMaker) -> None:
    path = "net/unix/af_unix.c"
    built = build(
        prepared,
        [maker.fix(Edit(path, SPACE, OTHER + SPACE), Edit(path, SET, SET.replace("unix_write", "unix_other")))],
    )
    assert "the kernel may keep the address of the new function unix_other_space" in built.manifest.pinned


@pytest.mark.parametrize("suffix", [".o", ".cmd"])
def test_a_damaged_original_is_made_anew(prepared: Kernel, suffix: str) -> None:
    source = "fs/proc/version.c"
    good = compile_original(prepared, source)
    kept: Path = prepared.originals / f"fs/proc/version{suffix}"
    kept.write_bytes(kept.read_bytes()[:100])
    assert compile_original(prepared, source) == good
