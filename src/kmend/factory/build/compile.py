"""Compile a translation unit as the distro did: kbuild's own command, recorded once, replayed for the patched source.

The original is compiled by kbuild itself inside the prepared tree, once per kernel and file, and kept. kbuild notes the
exact command (compiler and objtool) in `.<name>.o.cmd`. The patched source is compiled by that command in a *shadow* of the
tree: a folder in which the patched files are real and everything else is a symbolic link, so that every relative path,
`__FILE__` and include among them, is the same as in the tree, and many can be compiled at once.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kmend.core.cache import locked
from kmend.core.durable import write_durably
from kmend.core.errors import KmendError, SystemProblemError
from kmend.core.manifest import sha256_hex
from kmend.core.process import ProgramFailedError, run
from kmend.core.scratch import scratch_folder
from kmend.factory.build.refusal import Refusal, RefusalCode, RefusedError
from kmend.factory.fixes import ADDED
from kmend.factory.kernels.prepared import Kernel
from kmend.factory.kernels.tree import SECTION_FLAGS, build_environment

_COMMAND = re.compile(r"^(?:saved)?cmd_\S+ := (?P<command>.*)$", re.MULTILINE)
COMPILE_TIMEOUT = 600.0
PATCHED_FLAGS = f"-fmacro-prefix-map={ADDED}= -fdebug-prefix-map=$PWD=."
"""Added to the command for patched files: `__FILE__` is the same for lines that a fix wrote (`fixes/lines.py`), and debug
information does not tell where it was compiled. Neither has a say in the code."""

_SHADOW_BYTES = 512 << 20
_SHADOW_LINKS = 100_000
_TREE = ".tree"
"""The link by which everything in a shadow leads to the tree."""


class CompileError(KmendError):
    """A file of the unchanged kernel does not compile, or kbuild left no record of how it did."""

    kind = "compile"
    default_hint = "this is a fault of kmend's, not of the fix: report it, with the fix and the kernel ref"


@dataclass(frozen=True, slots=True)
class CompiledUnit:
    """An object file and the shell command that made it in the tree's top folder."""

    source: str
    content: bytes
    command: str


def object_path(source: str) -> str:
    """`net/unix/af_unix.c` -> `net/unix/af_unix.o`."""
    return source.removesuffix(".c") + ".o"


def compile_original(kernel: Kernel, source: str) -> CompiledUnit:
    """The unchanged file's object, from the cache or from kbuild.

    Raises:
        CompileError: kbuild fails on the distro's own source, or leaves no record.
    """
    kept = kernel.originals / object_path(source)
    record = kept.with_suffix(".cmd")
    found = _kept_original(source, kept, record)
    if found is None:
        with _making(kernel) as lock:
            found = _kept_original(source, kept, record)
            if found is None:
                _make_original(kernel, source, kept, lock)
                found = _kept_original(source, kept, record)
    if found is None:
        raise CompileError(
            f"the compiled original of {source} cannot be read back", hint=f"remove {kept} and build again"
        )
    return found


def compile_originals(kernel: Kernel, sources: Sequence[str]) -> None:
    """Make and keep the originals of many files by one run of `make`, which is several times quicker than one for each.

    What does not compile is left for `compile_original` to tell of.
    """
    kept = {source: kernel.originals / object_path(source) for source in sources}

    def missing_ones() -> list[str]:
        return [s for s, path in kept.items() if _kept_original(s, path, path.with_suffix(".cmd")) is None]

    if not missing_ones():
        return
    with _making(kernel) as lock:
        missing = missing_ones()
        if not missing:
            return
        _clear(kernel, missing)
        try:
            kernel.tree.kbuild(
                *(_target(kernel, source) for source in missing),
                options=["--keep-going"],
                timeout=6 * COMPILE_TIMEOUT,
                lock=lock,
            )
        except ProgramFailedError:
            missing = [source for source in missing if (kernel.tree.path / object_path(source)).exists()]
        for source in missing:
            _keep_original(kernel, source, kept[source])


@contextmanager
def _making(kernel: Kernel) -> Iterator[int]:
    """Work in the kernel's tree with nobody else in it; yields the lock's descriptor.

    A note stands beside the tree meanwhile. If it is found, somebody died at work, and make would believe what was half
    written: whatever changed in the tree since the note was made is removed, for make to make it again.
    """
    with locked(kernel.folder / "tree.lock") as lock:
        note = kernel.folder / "tree.making"
        if note.exists():
            _remove_newer(kernel.tree.path, note)
        write_durably(note, b"")
        yield lock
        # Not on the way of an exception: what it left behind is only looked for by the next one.
        note.unlink()


def _remove_newer(tree: Path, note: Path) -> None:
    """Remove the files of the tree that were written after the note was."""
    run(["find", tree, "-type", "f", "-newer", note, "-delete"], environment=build_environment())


def _clear(kernel: Kernel, sources: Iterable[str]) -> None:
    """Remove objects that stand in the tree from before: none is meant to, and make would take it for finished."""
    for source in sources:
        (kernel.tree.path / object_path(source)).unlink(missing_ok=True)


def _target(kernel: Kernel, source: str) -> str:
    """The object's path as kbuild knows it."""
    return object_path(kernel.built_as.get(source, source))


def _kept_original(source: str, kept: Path, record: Path) -> CompiledUnit | None:
    """The cached original, if it is whole: its record begins with the digest of the object and the command."""
    try:
        digest, _, command = record.read_text().partition("\n")
        content = kept.read_bytes()
    except (OSError, UnicodeDecodeError):
        return None
    return CompiledUnit(source, content, command) if digest == _digest(content, command) else None


def _digest(content: bytes, command: str) -> str:
    return sha256_hex(content + command.encode())


def included_files(kernel: Kernel, source: str) -> frozenset[str]:
    """The files that the unchanged file includes, directly or not, as kbuild noted when it made the original."""
    target = Path(_target(kernel, source))
    try:
        noted = (kernel.tree.path / target.parent / f".{target.name}.cmd").read_text()
    except OSError:
        return frozenset()
    _, _, listed = noted.partition("\ndeps_")
    words = listed.partition("\n\n")[0].replace("\\\n", " ").split()[2:]
    return frozenset(posixpath.normpath(word) for word in words if not word.startswith("$("))


def _make_original(kernel: Kernel, source: str, kept: Path, lock: int) -> None:
    target = _target(kernel, source)
    _clear(kernel, [source])
    try:
        kernel.tree.kbuild(target, timeout=COMPILE_TIMEOUT, lock=lock)
    except ProgramFailedError as problem:
        raise CompileError(
            f"the distro's own {source} does not compile here: {problem.message}",
            hint="prune the prepared kernel and prepare it again; if that fails too, a build tool is missing",
        ) from problem
    _keep_original(kernel, source, kept)


def _keep_original(kernel: Kernel, source: str, kept: Path) -> None:
    """Move what kbuild made out of the tree, with the command that made it."""
    tree = kernel.tree.path
    target = object_path(source)
    try:
        match = _COMMAND.search(((tree / target).parent / f".{Path(target).name}.cmd").read_text())
    except OSError:
        match = None
    if match is None:
        raise CompileError(f"kbuild left no record of how it compiled {source}")
    kept.parent.mkdir(parents=True, exist_ok=True)
    content = (tree / target).read_bytes()
    write_durably(kept, content)
    write_durably(kept.with_suffix(".cmd"), f"{_digest(content, match['command'])}\n{match['command']}".encode())
    (tree / target).unlink()


@contextmanager
def shadow_tree(tree: Path, files: Mapping[str, bytes], ways: Iterable[str] = ()) -> Iterator[Path]:
    """A folder that looks like `tree`, but in which `files` (path -> content) are real and can be written.

    Only the folders on the way to those files are real; everything beside them is a symbolic link.

    Args:
        ways: other paths by which kbuild reaches a file; `..` in them must lead through the shadow, not through a link.

    Raises:
        SystemProblemError: the disk is full.
    """
    with scratch_folder("shadow", _shadow_place() or tree.parent) as top:
        _lay_out(top, tree, files, ways)
        yield top


def _shadow_place() -> Path | None:
    """Memory, if there is plenty: thousands of links take a hundred times longer on a disk."""
    place = Path("/dev/shm")  # noqa: S108 - a folder of its own is made there
    try:
        room = os.statvfs(place)
        usable = os.access(place, os.W_OK) and not room.f_flag & os.ST_NOEXEC
    except OSError:
        return None
    enough = room.f_bavail * room.f_frsize >= _SHADOW_BYTES and (room.f_ffree >= _SHADOW_LINKS or not room.f_files)
    return place if usable and enough else None


def _lay_out(top: Path, tree: Path, files: Mapping[str, bytes], ways: Iterable[str]) -> None:
    try:
        folders = {Path()}
        for path in (*files, *ways):
            folders.update(_folders_along(path))
        for folder in {Path(path).parent for path in files if path.endswith(".h")}:
            folders.update(_folders_around(tree, folder))
        (top / _TREE).symlink_to(tree)
        for folder in sorted(folders, key=lambda path: len(path.parts)):
            (top / folder).mkdir(exist_ok=True)
            # Short links fit into their inodes, which makes a shadow ten times quicker to lay out.
            up = "../" * len(folder.parts) + _TREE
            for entry in (tree / folder).iterdir():
                inside = folder / entry.name
                if inside not in folders and str(inside) not in files:
                    (top / inside).symlink_to(f"{up}/{inside}")
        for path, content in files.items():
            (top / path).write_bytes(content)
    except OSError as problem:
        raise SystemProblemError(
            f"cannot lay out the patched tree in {top}: {problem.strerror}", hint="free disk space, or prune kernels"
        ) from problem


def shadow_of(kernel: Kernel, files: Mapping[str, bytes]) -> AbstractContextManager[Path]:
    """The shadow of a kernel's tree; see `shadow_tree`."""
    return shadow_tree(kernel.tree.path, files, [kernel.built_as[path] for path in files if path in kernel.built_as])


def _folders_around(tree: Path, folder: Path) -> Iterator[Path]:
    """Folders whose files may reach a header of `folder` by a path with `..`: those below and beside it."""
    for path in (tree / folder).glob("**/"):
        yield path.relative_to(tree)
    if folder.parts:
        yield from (path.relative_to(tree) for path in (tree / folder).parent.glob("*/"))


def _folders_along(path: str) -> set[Path]:
    """Every folder that the path leads through, `..` followed."""
    found = {Path()}
    stack: list[str] = []
    for part in path.split("/")[:-1]:
        if part == "..":
            stack.pop()
        else:
            stack.append(part)
            found.add(Path(*stack))
    return found


def compile_patched(shadow: Path, original: CompiledUnit) -> CompiledUnit:
    """Compile the patched file in `shadow` by the command that made the original.

    Raises:
        RefusedError: the compiler rejects the patched source; its messages are in the refusal.
    """
    target = shadow / object_path(original.source)
    command = original.command.replace(" -c -o ", f" {PATCHED_FLAGS} -c -o ", 1)
    target.unlink(missing_ok=True)
    note = target.parent / f".{target.stem}.o.d"
    note.unlink(missing_ok=True)
    try:
        run(["/bin/sh", "-e", "-c", command.replace(" ; ", " && ")],
            cwd=shadow, environment=build_environment(), timeout=COMPILE_TIMEOUT)  # fmt: skip
    except ProgramFailedError as problem:
        errors = "\n".join(line for line in problem.output.splitlines() if "error:" in line or "Error:" in line)
        raise RefusedError(
            [
                Refusal(
                    RefusalCode.COMPILE_ERROR,
                    f"the patched {original.source} does not compile:\n{(errors or problem.output)[-3000:].rstrip()}",
                    hint="the fix may need a change that came earlier in the kernel it is taken from",
                    file=original.source,
                )
            ]
        ) from None
    return CompiledUnit(original.source, target.read_bytes(), command)


def check_includes(shadow: Path, tree: Path, source: str, files: Iterable[str]) -> None:
    """Make sure that no header was taken out of `tree` that has another text in `shadow`, by a path that leaves the shadow.

    Raises:
        CompileError: one was; its path leads through a link and then up again.
    """
    note = (shadow / object_path(source)).with_name(f".{Path(source).stem}.o.d")
    wrong = {str((tree / path).resolve()) for path in files}
    try:
        words = note.read_text().replace("\\\n", " ").split()
    except OSError:
        raise CompileError(f"the compiler left no list of what {source} includes") from None
    for word in words[1:]:
        if os.path.realpath(shadow / word) in wrong:
            raise CompileError(f"{source} includes {word}, which is not the patched one", hint="report this header")


def compile_plainly(kernel: Kernel, original: CompiledUnit, files: Mapping[str, bytes]) -> CompiledUnit:
    """Compile the file of `original` without the flags that kmend adds to the distro's: as the vendor would.

    Debug information is left out. It changes nothing but the order of local symbols, and is a fifth of the work.

    Args:
        files: the texts that take the place of the tree's own, that of the file itself among them.

    Raises:
        RefusedError: the compiler rejects it.
    """
    command = original.command
    for flag in (*SECTION_FLAGS.split(), "-g"):
        command = command.replace(f" {flag} ", " ")
    with shadow_of(kernel, files) as shadow:
        return compile_patched(shadow, CompiledUnit(original.source, b"", command))
