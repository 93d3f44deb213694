"""Livepatches of as many functions as wanted: each gets one instruction that does nothing, in the kernel's own source."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from kmend.core.errors import KmendError
from kmend.factory.build import Built, RefusedError, build
from kmend.factory.derive import functions
from kmend.factory.fixes import Fix, parse_fix
from kmend.factory.kernels.prepared import Kernel

FOLDERS = ("net/ipv4", "net/core", "security/apparmor", "security/selinux", "net/sched", "block")
"""Mostly built into Debian's kernel; no task of an idle guest sleeps in them for long."""
_MARK = '\tint kmend_mark __maybe_unused = ({ asm volatile("nop"); 0; });\n'
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Marked:
    """Functions of one file that a livepatch may replace."""

    path: str
    names: tuple[str, ...]


class NotEnoughError(KmendError):
    """The folders do not hold so many functions."""

    kind = "bench"


def marked(kernel: Kernel, least: int) -> list[Marked]:
    """Functions that can be replaced, file by file, `least` at least in all.

    Raises:
        NotEnoughError: there are not so many.
    """
    found: list[Marked] = []
    count = 0
    every = [
        str(path.relative_to(kernel.tree.path))
        for name in FOLDERS
        for path in sorted((kernel.tree.path / name).glob("*.c"))
    ]
    for path in every:
        if count >= least:
            return found
        names = _replaceable(kernel, path)
        if names:
            found.append(Marked(path, names))
            count += len(names)
            sys.stderr.write(f"- {path}: {len(names)} functions, {count} in all\n")
    if count < least:
        raise NotEnoughError(f"{least} functions are wanted; there are {count}")
    return found


def livepatch(kernel: Kernel, chosen: Sequence[Marked], count: int, level: int) -> Built:
    """A livepatch of the first `count` functions; with those into which the compiler puts them it may be a few more."""
    left, parts = count, []
    for item in chosen:
        if left > 0:
            parts.append(Marked(item.path, item.names[:left]))
            left -= len(parts[-1].names)
    return build(kernel, [_fix(kernel, parts)], level=level)


def _replaceable(kernel: Kernel, path: str) -> tuple[str, ...]:
    text = (kernel.tree.path / path).read_bytes()
    lines = text.decode("latin-1").split("\n")
    names = [item.name for item in functions(text) if not _is_static(lines, item.start, item.end)]
    for _ in range(_TRIES):
        if not names:
            break
        try:
            built = build(kernel, [_fix(kernel, [Marked(path, tuple(names))])])
        except RefusedError as problem:
            bad = {refusal.symbol.partition(".")[0] for refusal in problem.refusals}
            fewer = [name for name in names if name not in bad]
            if len(fewer) == len(names):
                return ()
            names = fewer
            continue
        except KmendError:
            return ()  # not in this kernel, or in a module with another file
        if built.manifest.pinned or any(target.name != "vmlinux" for target in built.manifest.objects):
            return ()
        there = {function.name for target in built.manifest.objects for function in target.functions}
        return tuple(name for name in names if name in there)
    return ()


def _is_static(lines: Sequence[str], start: int, end: int) -> bool:
    head = "\n".join(lines[start - 1 : end]).partition("{")[0]
    return any(
        word in head for word in ("static", "inline", "__init", "SYSCALL_DEFINE", "notrace", "noinstr", "BPF_CALL")
    )


def _fix(kernel: Kernel, parts: Sequence[Marked]) -> Fix:
    patch = ["Description: functions to measure with\n\n"]
    for part in parts:
        text = (kernel.tree.path / part.path).read_bytes()
        old = text.decode("latin-1").splitlines(keepends=True)
        new = list(old)
        wanted = set(part.names)
        for item in sorted(functions(text), key=lambda item: item.start, reverse=True):
            if item.name in wanted:
                wanted.discard(item.name)
                brace = next(number for number in range(item.start - 1, item.end) if old[number].startswith("{"))
                new.insert(brace + 1, _MARK)
        patch += difflib.unified_diff(old, new, f"a/{part.path}", f"b/{part.path}")
    return parse_fix("".join(patch).encode("latin-1"), "many.patch")
