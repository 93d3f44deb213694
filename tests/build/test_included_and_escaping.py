"""Code that is compiled twice, originals that were damaged, and addresses of new functions that the kernel may keep."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fixmaker import Edit, FixMaker

from kmend.factory.build import RefusalCode, RefusedError, build
from kmend.factory.build.compile import compile_original
from kmend.factory.kernels.prepared import Kernel

LOAD = "static int load_elf_binary(struct linux_binprm *bprm)\n{\n"
SPACE = "static void unix_write_space(struct sock *sk)\n"
OTHER = "static void unix_other_space(struct sock *sk)\n{\n\tWRITE_ONCE(sk->sk_err_soft, 0);\n}\n\n"
SET = "sk->sk_write_space\t= unix_write_space;"


@pytest.mark.parametrize(
    ("edit", "holder"),
    [
        (Edit("fs/binfmt_elf.c", LOAD, f"{LOAD}\tbarrier();\n"), "fs/compat_binfmt_elf.c too"),
        (Edit("kernel/sched/idle.c", "/*\n", "/* \n", first=True), "kernel/sched/build_policy.c;"),
    ],
)
def test_a_file_that_another_one_includes(prepared: Kernel, maker: FixMaker, edit: Edit, holder: str) -> None:
    with pytest.raises(RefusedError) as caught:
        build(prepared, [maker.fix(edit)])
    (refusal,) = caught.value.refusals
    assert (refusal.code, refusal.file) == (RefusalCode.INCLUDED_SOURCE, edit.path)
    assert holder in refusal.message


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
