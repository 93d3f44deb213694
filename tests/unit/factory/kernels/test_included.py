"""Files that others include, and what is known of files therefore."""

from __future__ import annotations

from kmend.factory.kernels.included import compiled, inclusions, is_elsewhere, resolved

FILES = {
    "kernel/sched/core.c", "kernel/sched/build.c", "kernel/sched/rt.c", "kernel/sched/deep.c", "kernel/sched/off.c", "lib/a.c",
    "include/tmpl.c", "kernel/sched/by-header.c", "arch/x86/boot/main.c", "kernel/open.c",
}  # fmt: skip


def test_the_lines_that_include_a_c_file() -> None:
    content = b'#include "rt.c"\n#include "rt.h"\n  # include <a/b.c>\n//#include "no.c"\nx = "y.c";\n#define X "z.c"\n'
    assert inclusions(content) == ["rt.c", "a/b.c"]
    assert inclusions(b'#include "x.h"\n') == []
    assert inclusions(b"\xff\n#include <\xfe.c>\n") == ["�.c"]


def test_where_an_included_file_is() -> None:
    named = [
        ("kernel/sched/build.c", "rt.c"),
        ("kernel/sched/build.c", "../../lib/a.c"),
        ("kernel/sched/core.c", "lib/a.c"),
        ("kernel/sched/core.c", "tmpl.c"),
        ("kernel/sched/core.c", "nowhere.c"),
    ]
    assert resolved(named, FILES.__contains__) == {
        "kernel/sched/rt.c": ["kernel/sched/build.c"],
        "lib/a.c": ["kernel/sched/build.c", "kernel/sched/core.c"],
        "include/tmpl.c": ["kernel/sched/core.c"],
    }


def test_what_is_known_of_files() -> None:
    included_in = {
        "kernel/sched/rt.c": ["kernel/sched/build.c"],
        "kernel/sched/deep.c": ["kernel/sched/rt.c", "kernel/sched/deep.c"],
        "kernel/sched/by-header.c": ["kernel/sched/x.h"],
        "lib/a.c": ["kernel/sched/off.c"],
    }
    units = {"kernel/sched/build.c": ("vmlinux",), "kernel/sched/core.c": ("vmlinux", "sched")}
    found = compiled(units, included_in, FILES, lambda file: is_elsewhere(file) or file == "kernel/open.c")
    assert found.sources == {
        "kernel/sched/build.c": ("vmlinux",),
        "kernel/sched/core.c": ("sched", "vmlinux"),
        "kernel/sched/deep.c": ("vmlinux",),
        "kernel/sched/rt.c": ("vmlinux",),
    }
    assert found.left_out == ("include/tmpl.c", "kernel/sched/off.c", "lib/a.c")
