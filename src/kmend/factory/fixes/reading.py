"""From the bytes of a patch file to a `Fix`, refusing everything that is not exactly understood.

Written by hand rather than with a library: the readers at hand skip what they do not know (a line too many after a hunk
is dropped without a word) and work on decoded text, while kernel sources are bytes; see
docs/decisions/0006-fixes-and-patches.md.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kmend.core.errors import MalformedError
from kmend.core.manifest import sha256_hex
from kmend.factory.fixes.errors import (
    BinaryFixError,
    BrokenHunkError,
    EmptyFixError,
    FixLineEndsError,
    FixTooLargeError,
    NoHunksError,
    UnreadableFixError,
    UnsafePathError,
    UnsupportedChangeError,
)
from kmend.factory.fixes.header import parse_header
from kmend.factory.fixes.model import ChangeKind, FileChange, Fix, Hunk, HunkLine, LineKind
from kmend.factory.kernels.sources import check_path

MAX_FIX_BYTES = 5_000_000
MAX_FILES = 500
MAX_HUNKS = 20_000
MAX_LINE = 64 * 1024
_HUNK = re.compile(rb"@@ -(\d{1,7})(?:,(\d{1,7}))? \+(\d{1,7})(?:,(\d{1,7}))? @@(.*)")
_UNSUPPORTED = (
    (b"rename ", "renames a file"),
    (b"copy ", "copies a file"),
    (b"similarity index", "renames or copies a file"),
    (b"dissimilarity index", "rewrites a file"),
    (b"old mode", "changes a file's mode"),
    (b"new mode", "changes a file's mode"),
    (b"Only in ", "names a file that only one side has"),
)
_BINARY = (b"GIT binary patch", b"Binary files ", b"Files ")
_NO_NEWLINE = b"\\ No newline at end of file"


def read_fix(path: Path) -> Fix:
    """Read a patch file.

    Raises:
        FixError: by subclass: it cannot be opened, is too large, or is not a patch that can be used.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableFixError(f"{path} is not a file", hint="name a patch file")
            _check_size(status.st_size, path.name)
            content = stream.read(MAX_FIX_BYTES + 1)
    except OSError as problem:
        raise UnreadableFixError(
            f"cannot read the fix {path}: {problem.strerror}", hint="check its name and permissions"
        ) from problem
    return parse_fix(content, path.name)


def parse_fix(content: bytes, name: str) -> Fix:
    """Read a fix from the bytes of its patch file; `name` is only for people.

    Raises:
        FixError: by subclass: it is not a patch that can be used.
    """
    _check_size(len(content), name)
    if not content.strip():
        raise EmptyFixError(f"{name} is empty", hint="name a patch file made with diff -u or git diff")
    if b"\0" in content:
        raise BinaryFixError(f"{name} is not text: it holds NUL bytes", hint="name a patch file")
    if b"\r\n" in content:
        line = content.count(b"\n", 0, content.index(b"\r\n")) + 1
        raise FixLineEndsError(f"line {line} of {name} ends in CR LF", hint=f"convert it: sed -i 's/\\r$//' {name}")
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    longest = max(len(line) for line in lines)
    if longest > MAX_LINE:
        raise FixTooLargeError(f"{name} has a line of {longest} bytes; at most {MAX_LINE} are read")
    start = _first_difference(lines)
    header = parse_header(b"\n".join(lines[:start]))
    files = _Reader(name, lines, start).read()
    return Fix(
        digest=sha256_hex(content),
        name=name,
        title=header.title or name,
        description=header.description,
        cves=header.cves,
        origin=header.origin,
        author=header.author,
        applied_upstream=header.applied_upstream,
        last_update=header.last_update,
        bugs=header.bugs,
        files=files,
        statements=header.statements,
        content=content,
    )


def _check_size(size: int, name: str) -> None:
    if size > MAX_FIX_BYTES:
        raise FixTooLargeError(
            f"{name} is larger than {MAX_FIX_BYTES // 1_000_000} MB, which is the most that a fix may have",
            hint="a fix changes a few functions; is this the right file?",
        )


def _first_difference(lines: Sequence[bytes]) -> int:
    """Index of the line where the header ends."""
    for number, line in enumerate(lines):
        if line.startswith((b"diff --git ", b"Index: ", b"GIT binary patch", b"@@ -")):
            return number
        following = lines[number + 1] if number + 1 < len(lines) else b""
        if (line.startswith(b"--- ") and following.startswith(b"+++ ")) or (
            line.startswith(b"diff -") and following.startswith(b"--- ")
        ):
            return number
    return len(lines)


@dataclass(slots=True)
class _Section:
    """A file's part while it is read: what git's extended header said, then the paths."""

    line: int
    created: bool = False
    deleted: bool = False


class _Reader:
    """Walks over the lines once; every line must be of a kind that its place allows."""

    def __init__(self, name: str, lines: Sequence[bytes], start: int) -> None:
        self._name = name
        self._lines = lines
        self._at = start
        self._hunks = 0

    def read(self) -> tuple[FileChange, ...]:
        files: list[FileChange] = []
        section: _Section | None = None
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if line.startswith(b"diff "):
                self._check_bare(section)
                section = _Section(self._at)
                self._at += 1
            elif line.startswith(b"--- "):
                files.append(self._file(section or _Section(self._at)))
                section = None
                if len(files) > MAX_FILES:
                    raise FixTooLargeError(f"{self._name} changes more than {MAX_FILES} files")
            elif line in (b"-- ", b"--") and files:
                self._check_signature()
                break
            else:
                self._between(line, section)
                self._at += 1
        self._check_bare(section)
        if not files:
            raise NoHunksError(
                f"{self._name} holds no change", hint="name a patch file with unified differences (diff -u, git diff)"
            )
        paths = [change.path for change in files]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        if twice is not None:
            raise BrokenHunkError(
                f"{self._name} changes {twice} in two places", hint="join them, or make two fixes of it"
            )
        return tuple(files)

    def _check_bare(self, section: _Section | None) -> None:
        """A `diff --git` without hunks: an empty file made or deleted, or nothing that can be seen."""
        if section is not None and self._lines[section.line].startswith(b"diff --git "):
            raise UnsupportedChangeError(
                f"line {section.line + 1} of {self._name}: this file's change has no hunks",
                hint="empty files and changes of mode cannot become part of a livepatch",
            )

    def _check_signature(self) -> None:
        """What `git format-patch` and mail programs put at the end must not hide a second patch."""
        for number in range(self._at + 1, len(self._lines)):
            if self._lines[number].startswith((b"diff ", b"--- ", b"+++ ", b"@@ ", b"Index: ")):
                raise BrokenHunkError(
                    f"line {number + 1} of {self._name}: another patch follows after the end of the first",
                    hint="a fix is one patch; split the file",
                )

    def _between(self, line: bytes, section: _Section | None) -> None:
        """A line outside hunks."""
        where = f"line {self._at + 1} of {self._name}"
        if line.startswith(_BINARY):
            raise BinaryFixError(
                f"{where} changes a binary file", hint="a livepatch is made from changes to source text"
            )
        for start, what in _UNSUPPORTED:
            if line.startswith(start):
                raise UnsupportedChangeError(
                    f"{where} {what}", hint="a fix changes the content of existing source files"
                )
        if line.startswith(b"@@ "):
            raise BrokenHunkError(f"{where}: a hunk without the '--- ' and '+++ ' lines that name its file")
        if section is not None and line.startswith((b"new file mode ", b"deleted file mode ", b"index ")):
            mode = line.split(b" ")[-1]
            if mode in (b"120000", b"160000"):
                raise UnsupportedChangeError(
                    f"{where} makes or changes a symbolic link or submodule", hint="a fix changes source files"
                )
            section.created |= line.startswith(b"new")
            section.deleted |= line.startswith(b"deleted")
        elif line.strip() and not line.startswith((b"Index: ", b"====", b"index ")):
            raise BrokenHunkError(
                f"{where} is neither part of a hunk nor of a file's header: {_shown(line)}",
                hint="was the patch edited by hand? The line counts in its @@ lines must agree with what follows",
            )

    def _file(self, section: _Section) -> FileChange:
        first = self._at
        if first + 1 >= len(self._lines) or not self._lines[first + 1].startswith(b"+++ "):
            raise BrokenHunkError(f"line {first + 1} of {self._name}: no '+++ ' line follows the '--- ' line")
        old = self._path(self._lines[first], first)
        new = self._path(self._lines[first + 1], first + 1)
        self._at += 2
        path = new or old
        if path is None:
            raise UnsafePathError(f"line {first + 1} of {self._name} names /dev/null on both sides")
        if old is not None and new is not None and old != new:
            raise UnsupportedChangeError(
                f"line {first + 1} of {self._name} renames {old} to {new}", hint="a fix changes existing source files"
            )
        kind = ChangeKind.MODIFY
        if old is None or section.created:
            kind = ChangeKind.CREATE
        elif new is None or section.deleted:
            kind = ChangeKind.DELETE
        hunks: list[Hunk] = []
        while self._at < len(self._lines) and self._lines[self._at].startswith(b"@@ "):
            hunks.append(self._hunk(len(hunks) + 1, kind))
            self._check_order(path, hunks)
            self._check_end(path, hunks)
        if not hunks:
            raise NoHunksError(
                f"line {first + 1} of {self._name}: no hunk follows the names of {path}",
                hint="the file may be cut short; a hunk starts with '@@ -'",
            )
        return FileChange(path, kind, tuple(hunks))

    def _path(self, line: bytes, number: int) -> str | None:
        """The path of a `---` or `+++` line, without its first folder; None for /dev/null."""
        where = f"line {number + 1} of {self._name}"
        raw = line[4:].split(b"\t", 1)[0].rstrip(b" ")
        if raw == b"/dev/null":
            return None
        try:
            text = raw.decode("ascii")
        except UnicodeDecodeError:
            raise UnsafePathError(f"{where} names a file with characters outside ASCII: {_shown(raw)}") from None
        hint = "paths are relative to the kernel's source tree, after one folder: a/net/unix/af_unix.c"
        first, slash, path = text.partition("/")
        if not slash or text.startswith(("/", '"')) or first in ("..", "."):
            raise UnsafePathError(f"{where} names {_shown(raw)}, which is not inside the source tree", hint=hint)
        try:
            return check_path(path)
        except MalformedError as problem:
            raise UnsafePathError(f"{where}: {problem.message}", hint=hint) from None

    def _hunk(self, number: int, kind: ChangeKind) -> Hunk:
        first = self._at
        where = f"line {first + 1} of {self._name}"
        match = _HUNK.fullmatch(self._lines[first])
        if match is None:
            raise BrokenHunkError(f"{where} is not a hunk's first line: {_shown(self._lines[first])}")
        self._hunks += 1
        if self._hunks > MAX_HUNKS:
            raise FixTooLargeError(f"{self._name} has more than {MAX_HUNKS} hunks")
        old_start, new_start = int(match[1]), int(match[3])
        old_count = int(match[2]) if match[2] is not None else 1
        new_count = int(match[4]) if match[4] is not None else 1
        self._at += 1
        lines = self._hunk_lines(where, old_count, new_count)
        changed = any(line.kind is not LineKind.CONTEXT for line in lines)
        if not changed:
            raise BrokenHunkError(f"{where}: the hunk changes nothing")
        if (kind is ChangeKind.CREATE and old_count) or (kind is ChangeKind.DELETE and new_count):
            raise BrokenHunkError(f"{where}: the hunk does not fit a file that is {kind.value}d as a whole")
        if kind is ChangeKind.MODIFY and not old_count:
            raise BrokenHunkError(
                f"{where}: the hunk only adds lines and shows none around them, so its place is not certain",
                hint="make the patch with three lines of context (diff -u, git diff)",
            )
        if (old_count and not old_start) or (new_count and not new_start):
            raise BrokenHunkError(f"{where}: lines are counted from 1")
        section = match[5].decode(errors="replace").strip()
        return Hunk(number, old_start, new_start, section, lines, first + 1)

    def _hunk_lines(self, where: str, old_left: int, new_left: int) -> tuple[HunkLine, ...]:
        lines: list[HunkLine] = []
        while old_left > 0 or new_left > 0:
            line = self._lines[self._at] if self._at < len(self._lines) else None
            kind = _KINDS.get(line[:1] or b" ") if line is not None else None
            if line is None or kind is None:
                found = "the file ends" if line is None else f"line {self._at + 1} is {_shown(line)}"
                raise BrokenHunkError(
                    f"{where}: the hunk is shorter than its @@ line says: {found}",
                    hint="the patch is cut short, damaged by a mail program, or was edited by hand",
                )
            old_left -= kind is not LineKind.ADDED
            new_left -= kind is not LineKind.REMOVED
            if old_left < 0 or new_left < 0:
                raise BrokenHunkError(
                    f"{where}: the hunk's lines disagree with its @@ line, at line {self._at + 1}",
                    hint="was the patch edited by hand? Make it again with diff -u or git diff",
                )
            self._at += 1
            ending = b"\n"
            if self._at < len(self._lines) and self._lines[self._at].startswith(_NO_NEWLINE[:2]):
                ending = b""
                self._at += 1
                if not line[1:]:
                    raise BrokenHunkError(
                        f"line {self._at} of {self._name} says of an empty line that it has no newline",
                        hint="was the patch edited by hand? Make it again with diff -u or git diff",
                    )
            lines.append(HunkLine(kind, line[1:] + ending))
        self._check_newlines(where, lines)
        return tuple(lines)

    def _check_newlines(self, where: str, lines: Sequence[HunkLine]) -> None:
        """Only the last line of either side may lack its newline."""
        for absent in (LineKind.ADDED, LineKind.REMOVED):
            side = [line for line in lines if line.kind is not absent]
            if any(not line.content.endswith(b"\n") for line in side[:-1]):
                raise BrokenHunkError(f"{where}: a line in the middle of the hunk is said to have no newline")

    def _check_order(self, path: str, hunks: Sequence[Hunk]) -> None:
        if len(hunks) < 2:
            return
        before, hunk = hunks[-2:]
        if hunk.old_start < before.old_start + len(before.before):
            raise BrokenHunkError(
                f"line {hunk.patch_line} of {self._name}: hunk {hunk.number} of {path} overlaps the one before it",
                hint="hunks stand in the order of the lines that they change",
            )

    def _check_end(self, path: str, hunks: Sequence[Hunk]) -> None:
        """After a line without a newline, which is a file's last, no other hunk can follow."""
        if len(hunks) > 1 and any(
            side and not side[-1].endswith(b"\n") for side in (hunks[-2].before, hunks[-2].after)
        ):
            raise BrokenHunkError(
                f"line {hunks[-1].patch_line} of {self._name}: hunk {hunks[-1].number} of {path} "
                "follows after the end of the file",
                hint="the hunk before says of its last line that it has no newline; make the patch again with diff -u",
            )


_KINDS = {kind.value.encode(): kind for kind in LineKind}


def _shown(line: bytes) -> str:
    return repr(line[:80].decode(errors="replace"))
