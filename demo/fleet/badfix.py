"""A fix that looks harmless, builds, loads, and panics the kernel some seconds later: what canaries are for."""

from __future__ import annotations

import difflib
from pathlib import Path

FILE = "fs/pipe.c"
CVE = "CVE-2026-9999"
SECONDS = 8
_CODE = f"""
#include <linux/livepatch.h>
#include <linux/kthread.h>
#include <linux/delay.h>

static int kmend_demo_doom(void *unused)
{{
	msleep({SECONDS} * 1000);
	panic("the demonstration's bad level");
	return 0;
}}

static void __used kmend_post_patch(struct klp_object *object)
{{
	kthread_run(kmend_demo_doom, NULL, "kmend_demo_doom");
}}
"""


def write(tree: Path, target: Path) -> Path:
    """Write the patch file.

    Args:
        tree: the kernel's source tree, which stays as it is.
    """
    before = (tree / FILE).read_text(encoding="utf-8").splitlines(keepends=True)
    after = [*before, *_CODE.splitlines(keepends=True)]
    lines = difflib.unified_diff(before, after, f"a/{FILE}", f"b/{FILE}")
    header = f"Description: pipe: a fix that somebody will regret\nOrigin: vendor\nCVE: {CVE}\n---\n"
    target.write_text(header + "".join(lines), encoding="utf-8")
    return target
