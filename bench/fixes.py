"""The fixes that are built: one taken from the distro's newer kernel, the others small ones made from the kernel's own source."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kmend.core.errors import KmendError
from kmend.core.kernel import KernelRef
from kmend.factory.kernels.sources import source_files


class BenchError(KmendError):
    """A benchmark cannot be run on this kernel."""

    kind = "bench"


@dataclass(frozen=True, slots=True)
class Edit:
    """In one function of one file, the first text that matches `old` becomes `new`."""

    path: str
    function: str
    old: str
    new: str


ONE_FUNCTION = (
    Edit("fs/proc/version.c", "version_proc_show", r"return 0;", 'seq_puts(m, "kmend\\\\n");\n\treturn 0;'),
)
"""What `/proc/version` shows gets a second line."""

TEN_FILES = (
    *ONE_FUNCTION,
    Edit("fs/proc/cmdline.c", "cmdline_proc_show", r"return 0;", 'seq_puts(m, "");\n\treturn 0;'),
    Edit("fs/proc/uptime.c", "uptime_proc_show", r"return 0;", 'seq_puts(m, "");\n\treturn 0;'),
    Edit("fs/proc/loadavg.c", "loadavg_proc_show", r"return 0;", 'seq_puts(m, "");\n\treturn 0;'),
    Edit("fs/eventfd.c", "eventfd_write", r"-EINVAL", "-ERANGE"),
    Edit("fs/pipe.c", "pipe_ioctl", r"-ENOIOCTLCMD", "-ENOTTY"),
    Edit("net/unix/af_unix.c", "unix_listen", r"-EOPNOTSUPP", "-EPROTOTYPE"),
    Edit("ipc/msg.c", "do_msgsnd", r"-EINVAL", "-ERANGE"),
    Edit("kernel/params.c", "param_set_copystring", r"-ENOSPC", "-E2BIG"),
    Edit("net/core/scm.c", "__scm_send", r"-EINVAL", "-ERANGE"),
)
HEADER = (Edit("include/linux/fs.h", "kiocb_set_rw_flags", r"-EOPNOTSUPP", "-ENOTSUPP"),)
"""An inline function of a header that nearly every file includes, and a handful use."""


def patch_of(ref: KernelRef, edits: Sequence[Edit]) -> bytes:
    """The patch file that makes the edits in the kernel's source.

    Raises:
        BenchError: the source has no such place.
    """
    found = source_files(ref.package or "", [edit.path for edit in edits])
    parts = [b"Description: a change to measure with\n\n"]
    for edit in edits:
        content = found[edit.path]
        if content is None:
            raise BenchError(f"{ref} has no file {edit.path}")
        parts.append(_difference(edit.path, content, _edited(ref, edit, content)))
    return b"".join(parts)


def _edited(ref: KernelRef, edit: Edit, content: bytes) -> bytes:
    text = content.decode(errors="surrogateescape")
    # A definition begins at the start of a line and ends with a brace there.
    body = re.compile(rf"^\w[^;{{}}]*\b{edit.function}\([^;{{}}]*\)\n\{{.*?^\}}", re.MULTILINE | re.DOTALL).search(text)
    place = re.compile(edit.old).search(text, body.start(), body.end()) if body else None
    if place is None:
        raise BenchError(f"{edit.function} in {edit.path} of {ref} has no {edit.old}")
    changed = f"{text[: place.start()]}{place.expand(edit.new)}{text[place.end() :]}"
    return changed.encode(errors="surrogateescape")


def _difference(path: str, old: bytes, new: bytes) -> bytes:
    lines = difflib.diff_bytes(
        difflib.unified_diff,
        old.splitlines(keepends=True),
        new.splitlines(keepends=True),
        f"a/{path}".encode(),
        f"b/{path}".encode(),
    )
    return b"".join(lines)


def including(read: Callable[[str], bytes | None], units: Sequence[str], header: str) -> int:
    """How many of the units include a header of `include/`, directly or by headers that they name in `<>`."""
    pattern = re.compile(rb"^[ \t]*#[ \t]*include[ \t]*<([^>]+)>", re.MULTILINE)
    known: dict[str, frozenset[str]] = {}

    def named(path: str) -> frozenset[str]:
        if path not in known:
            found = {name.decode(errors="replace") for name in pattern.findall(read(path) or b"")}
            known[path] = frozenset(f"{top}{name}" for name in found for top in ("include/", "arch/x86/include/"))
        return known[path]

    reaching = 0
    for unit in units:
        seen: set[str] = set()
        todo = [unit]
        while todo and header not in seen:
            fresh = named(todo.pop()) - seen
            seen |= fresh
            todo.extend(fresh)
        reaching += header in seen
    return reaching
