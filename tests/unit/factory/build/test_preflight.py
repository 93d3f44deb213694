"""What is said of a fix by the names of its files alone."""

from __future__ import annotations

import pytest

from kmend.factory.build.preflight import changed_sources, check_files, including_units
from kmend.factory.build.refusal import ALLOWABLE, Refusal, RefusalCode, RefusedError
from kmend.factory.fixes import Fix, apply_series, parse_fix

UNITS = {"net/core/sock.c": ("vmlinux",), "net/tls/tls_main.c": ("tls",), "lib/both.c": ("vmlinux", "tls")}


def fix(*paths: str, old: str = "a/{}", new: str = "b/{}", hunk: str = "@@ -1 +1 @@\n-old\n+new\n") -> Fix:
    """A fix that changes these files."""
    parts = [f"--- {old.format(path)}\n+++ {new.format(path)}\n{hunk}" for path in paths]
    return parse_fix("".join(parts).encode(), "test.patch")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("arch/x86/lib/memcpy_64.S", RefusalCode.ASSEMBLY),
        ("arch/arm64/kernel/entry.S", RefusalCode.ASSEMBLY),
        ("net/core/Makefile", RefusalCode.BUILD_FILE),
        ("net/Kconfig", RefusalCode.BUILD_FILE),
        ("scripts/Kbuild", RefusalCode.BUILD_FILE),
        ("arch/x86/kernel/vmlinux.lds", RefusalCode.BUILD_FILE),
        ("arch/x86/entry/syscalls/syscall_64.tbl", RefusalCode.BUILD_FILE),
        ("scripts/mod/modpost.c", RefusalCode.NOT_BUILT),
        ("arch/x86/boot/compressed/misc.c", RefusalCode.NOT_BUILT),
        ("arch/x86/entry/vdso/vclock_gettime.c", RefusalCode.NOT_BUILT),
        ("arch/x86/purgatory/purgatory.c", RefusalCode.NOT_BUILT),
        ("drivers/firmware/efi/libstub/x86-stub.c", RefusalCode.NOT_BUILT),
        ("fs/jfs/super.c", RefusalCode.NOT_BUILT),
        ("drivers/tty/vt/defkeymap.map", RefusalCode.NOT_BUILT),
    ],
)
def test_files_that_are_refused(path: str, code: RefusalCode) -> None:
    sources, (refusal,) = check_files([fix(path)], UNITS)
    assert sources == ()
    assert (refusal.code, refusal.file) == (code, path)
    assert path in refusal.message


def test_the_kernels_own_code_beside_that_of_other_programs() -> None:
    path = "arch/x86/entry/vdso/extable.c"
    assert check_files([fix(path)], {path: ("vmlinux",)}) == ((path,), [])


def test_files_that_come_and_go() -> None:
    _, (refusal,) = check_files([fix("net/core/new.c", old="/dev/null", hunk="@@ -0,0 +1 @@\n+new\n")], UNITS)
    assert refusal.code is RefusalCode.FILE_ADDED
    _, (refusal,) = check_files([fix("net/core/sock.c", new="/dev/null", hunk="@@ -1 +0,0 @@\n-old\n")], UNITS)
    assert refusal.code is RefusalCode.FILE_REMOVED


def test_files_that_do_not_matter_are_left_aside() -> None:
    paths = ("Documentation/process/howto.rst", "MAINTAINERS", "CREDITS", "tools/perf/perf.c", "tools/lib/bpf/Makefile")
    assert check_files([fix(*paths)], UNITS) == ((), [])
    assert check_files([fix("net/core/sock.c", *paths)], UNITS) == (("net/core/sock.c",), [])


def test_every_file_of_every_fix_is_looked_at() -> None:
    sources, refusals = check_files(
        [fix("net/core/sock.c", "net/Makefile"), fix("net/core/sock.c", "fs/jfs/super.c", "include/net/sock.h")], UNITS
    )
    assert sources == ("net/core/sock.c", "include/net/sock.h")
    assert [refusal.code for refusal in refusals] == [RefusalCode.BUILD_FILE, RefusalCode.NOT_BUILT]


def test_a_file_that_compiled_ones_include() -> None:
    included = {"net/core/part.c": ("net/core/parts.h",), "net/core/parts.h": ("net/core/sock.c", "fs/jfs/super.c")}
    assert check_files([fix("net/core/part.c")], UNITS, included) == (("net/core/part.c",), [])
    assert including_units("net/core/part.c", UNITS, included) == {"net/core/sock.c"}


def test_a_change_that_another_takes_back() -> None:
    there = fix("net/core/sock.c")
    back = fix("net/core/sock.c", hunk="@@ -1 +1 @@\n-new\n+old\n")
    applied = apply_series(lambda path: b"old\n", [there, back])
    assert changed_sources(applied, ("net/core/sock.c",)) == ()
    applied = apply_series(lambda path: b"old\n", [there])
    assert changed_sources(applied, ("net/core/sock.c",)) == ("net/core/sock.c",)


def test_a_refusal_tells_every_reason_and_every_hint_once() -> None:
    first = Refusal(RefusalCode.HEADER, "a.h is a header", "change the .c files", file="a.h")
    second = Refusal(RefusalCode.HEADER, "b.h is a header", "change the .c files", file="b.h")
    third = Refusal(RefusalCode.FILE_REMOVED, "c.c is deleted", file="c.c")
    problem = RefusedError([first, second, third])
    assert problem.exit_status == 2
    assert problem.refusals == (first, second, third)
    assert problem.message.splitlines()[1:] == [
        "  header: a.h is a header",
        "  header: b.h is a header",
        "  file-removed: c.c is deleted",
    ]
    assert problem.hint == "change the .c files"


def test_only_questions_of_meaning_can_be_vouched_for() -> None:
    assert {code.value for code in ALLOWABLE} == {
        "init-code",
        "always-on-stack",
        "changed-data",
        "struct-layout",
        "prototype",
        "new-writable-data",
        "static-local",
        "removed-export",
    }
