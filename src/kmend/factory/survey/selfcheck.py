"""Self-comparison: files of the kernel compiled again with a line more at the top, which must not count as a change.

The compiler renumbers names, `__LINE__` moves, and tables are laid out anew whenever a source file changes; if any of that were
taken for a change, livepatches would replace functions that nobody touched. Each file goes through the whole build as a fix
would: the patch, `#line`, the shadow of the tree, comparison, layouts, policy. Which files are taken follows from the seed
alone: they are ranked by a digest of seed and path.
"""

from __future__ import annotations

import enum
import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass

from kmend.core.errors import KmendError
from kmend.core.kernel import KernelIdentity, KernelRef
from kmend.core.workers import worker_pool
from kmend.factory.build import Built, NoChangeError, RefusedError, build
from kmend.factory.build.compare import compare
from kmend.factory.build.compile import compile_original, compile_originals, compile_patched, shadow_of
from kmend.factory.build.sources import series_sources
from kmend.factory.build.special import masked
from kmend.factory.build.unit import Element, External, Unit
from kmend.factory.build.verify import field_ranges
from kmend.factory.elf import read_object
from kmend.factory.fixes import Fix, parse_fix
from kmend.factory.fixes.applying import split_lines
from kmend.factory.kernels.prepared import Kernel, prepare
from kmend.factory.survey.surveying import Progress

LINE = b"/* one line more */"
_AT_ONCE = 24
_CONTEXT = 3


class Verdict(enum.Enum):
    """What the build says of a file that has one line more."""

    NO_CHANGE = "no_change"
    CHANGED = "changed"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Something that was seen to differ: a refusal, or a function's first difference (offset in bytes, -1 if none)."""

    code: str
    symbol: str
    section: str
    offset: int
    message: str


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """One file.

    Attributes:
        path: relative to the source tree.
        objects: `vmlinux` or modules that hold it.
        evidence: what differs; empty if nothing does.
        message: the error, if the build failed.
        seconds: that it took.
    """

    path: str
    objects: tuple[str, ...]
    verdict: Verdict
    evidence: tuple[Evidence, ...] = ()
    message: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """The whole document; `files` in the order of the draw."""

    kernel: KernelIdentity
    seed: int
    line: str
    candidates: int
    no_change: int
    exceptions: int
    files: tuple[CheckedFile, ...]
    format: str = "kmend-selfcheck/1"


def candidates(kernel: Kernel) -> tuple[str, ...]:
    """The C files of the source package that this kernel compiles; generated ones are no fix's subject."""
    tree = kernel.tree.path
    return tuple(
        path
        for path in sorted(kernel.units)
        if path.endswith(".c")
        and not path.endswith(".mod.c")
        and (tree / path).is_file()
        and (tree / path).stat().st_size
    )


def draw(paths: Sequence[str], count: int, seed: int) -> tuple[str, ...]:
    """`count` of the paths; a path more or less in the list moves no other one."""
    return tuple(sorted(paths, key=lambda path: hashlib.sha256(f"{seed}\0{path}".encode()).digest())[:count])


def line_more(path: str, content: bytes) -> Fix:
    """The fix that puts a comment at the top of a file."""
    shown = split_lines(content)[:_CONTEXT]
    body = b"".join(b" " + line for line in shown)
    if not body.endswith(b"\n"):
        body += b"\n\\ No newline at end of file\n"
    head = f"Description: one line more\n---\n--- a/{path}\n+++ b/{path}\n@@ -1,{len(shown)} +1,{len(shown) + 1} @@\n"
    return parse_fix(head.encode() + b"+" + LINE + b"\n" + body, f"{path.replace('/', '_')}.patch")


def self_check(ref: KernelRef, count: int, seed: int, processes: int, progress: Progress) -> SelfCheck:
    """Draw files and check each.

    Raises:
        KmendError: the kernel cannot be prepared.
    """
    kernel = prepare(ref)
    known = candidates(kernel)
    paths = draw(known, count, seed)
    progress.begin("compiling originals", len(paths))
    for start in range(0, len(paths), _AT_ONCE):
        compile_originals(kernel, paths[start : start + _AT_ONCE])
        for path in paths[start : start + _AT_ONCE]:
            progress.advance(path)
    progress.begin("building with a line more", len(paths))
    found = {}
    for result in _check_all(ref, kernel, paths, processes):
        found[result.path] = result
        progress.advance(f"{result.path}: {result.verdict.value}")
    files = tuple(found[path] for path in paths)
    same = sum(result.verdict is Verdict.NO_CHANGE for result in files)
    return SelfCheck(kernel.identity, seed, LINE.decode(), len(known), same, len(files) - same, files)


def _check_all(ref: KernelRef, kernel: Kernel, paths: Sequence[str], processes: int) -> Iterator[CheckedFile]:
    """The results in the order in which they are ready; an error that nobody foresaw is one file's result too."""
    if processes == 1 or len(paths) < 2:
        yield from (check(kernel, path) for path in paths)
        return
    with worker_pool(min(processes, len(paths))) as pool:
        jobs: dict[Future[CheckedFile], str] = {pool.submit(_check_one, ref, path): path for path in paths}
        for job in as_completed(jobs):
            path, problem = jobs[job], job.exception()
            if problem is None:
                yield job.result()
            else:
                told = f"{type(problem).__name__}: {problem}"
                yield CheckedFile(path, kernel.units[path], Verdict.FAILED, message=told)


_opened: dict[KernelRef, Kernel] = {}
"""What a process of the pool keeps between files."""


def _check_one(ref: KernelRef, path: str) -> CheckedFile:
    if ref not in _opened:
        _opened[ref] = prepare(ref)
    return check(_opened[ref], path)


def check(kernel: Kernel, path: str) -> CheckedFile:
    """Build one file with a line more."""
    start = time.monotonic()
    fix = line_more(path, (kernel.tree.path / path).read_bytes())
    evidence: tuple[Evidence, ...] = ()
    message = ""
    try:
        built = build(kernel, [fix])
        verdict = Verdict.CHANGED
        evidence = tuple(_differences(kernel, fix, built))
    except NoChangeError:
        verdict = Verdict.NO_CHANGE
    except RefusedError as problem:
        verdict = Verdict.REFUSED
        evidence = tuple(Evidence(r.code.value, r.symbol, r.section, r.offset, r.message) for r in problem.refusals)
    except KmendError as problem:
        verdict, message = Verdict.FAILED, f"{problem.kind}: {problem.message}"
    return CheckedFile(path, kernel.units[path], verdict, evidence, message, round(time.monotonic() - start, 2))


def _differences(kernel: Kernel, fix: Fix, built: Built) -> Iterator[Evidence]:
    """Where the functions that were taken for changed first differ."""
    sources = series_sources(kernel, [fix], [change.path for change in fix.files])
    with shadow_of(kernel, sources.texts) as shadow:
        for report in built.units:
            original = compile_original(kernel, report.source)
            patched = compile_patched(shadow, original)
            found = compare(
                Unit(report.source, read_object(original.content)), Unit(report.source, read_object(patched.content))
            )
            for old, new in found.changed:
                offset, told = first_difference(old, new)
                yield Evidence("changed-function", old.name, old.section.name, offset, told)
            for added in found.added:
                yield Evidence("new-function", added.name, added.section.name, -1, "it has no counterpart")


def first_difference(old: Element, new: Element) -> tuple[int, str]:
    """Where two versions of an element first differ, by bytes or by what they refer to; -1 if only its tables do."""
    if old.size != new.size:
        return min(old.size, new.size), f"{old.size} bytes against {new.size}"
    ours, theirs = masked(old.content, field_ranges(old)), masked(new.content, field_ranges(new))
    offset = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), -1)
    if offset >= 0:
        return offset, f"bytes {ours[offset : offset + 8].hex()} against {theirs[offset : offset + 8].hex()}"
    for a, b in zip(old.references, new.references, strict=False):
        if (a.offset, a.type, a.target_offset, _named(a.target)) != (
            b.offset,
            b.type,
            b.target_offset,
            _named(b.target),
        ):
            return a.offset, f"{_named(a.target)}+{a.target_offset:#x} against {_named(b.target)}+{b.target_offset:#x}"
    return -1, "an entry of a table that speaks of it, or something it refers to, differs"


def _named(target: Element | External) -> str:
    return target.name or (f"{target.section.name}: {target.content[:40]!r}" if isinstance(target, Element) else "")
