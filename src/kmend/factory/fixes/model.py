"""What a fix is made of."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kmend.core.manifest import FixRecord


class ChangeKind(enum.Enum):
    """What happens to a file."""

    MODIFY = "modify"
    CREATE = "create"
    DELETE = "delete"


class LineKind(enum.Enum):
    """What a line of a hunk says; the value is the character that it starts with."""

    CONTEXT = " "
    REMOVED = "-"
    ADDED = "+"


@dataclass(frozen=True, slots=True)
class HunkLine:
    """One line of a hunk; `content` keeps its newline, which only the last line of a file may lack."""

    kind: LineKind
    content: bytes


@dataclass(frozen=True, slots=True)
class Hunk:
    """A place where a file changes.

    Attributes:
        number: its position among the file's hunks, from 1.
        old_start: line, from 1, where it starts before the change; if it takes no old lines, the line before it.
        new_start: the same, after the change.
        section: what follows the second `@@`, for people.
        lines: context, removed and added lines.
        patch_line: line in the patch file where the hunk starts, from 1.
    """

    number: int
    old_start: int
    new_start: int
    section: str
    lines: tuple[HunkLine, ...]
    patch_line: int

    @property
    def before(self) -> tuple[bytes, ...]:
        """The lines that must be there."""
        return tuple(line.content for line in self.lines if line.kind is not LineKind.ADDED)

    @property
    def after(self) -> tuple[bytes, ...]:
        """The lines that will be there."""
        return tuple(line.content for line in self.lines if line.kind is not LineKind.REMOVED)


@dataclass(frozen=True, slots=True)
class FileChange:
    """What a fix does to one file; `path` is relative to the kernel's source tree."""

    path: str
    kind: ChangeKind
    hunks: tuple[Hunk, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """What the fix's author vouches for: `Kmend-Allow: <refusal code> <symbol> -- <reason>`.

    Attributes:
        code: of the refusal that policy may then leave out.
        symbol: that it is about.
        reason: why it is right; never empty.
    """

    code: str
    symbol: str
    reason: str


@dataclass(frozen=True, slots=True)
class Fix:
    """One change to kernel source with its story.

    Attributes:
        digest: SHA-256 of the file's bytes; this is what identifies the fix.
        name: the file's name, for people.
        title: first line of its description, or its name.
        description: the rest of it.
        cves: what it closes, from its `CVE:` tags, in their order.
        origin: where it comes from, as the header says; empty if it does not.
        author: likewise.
        applied_upstream: likewise.
        last_update: likewise.
        bugs: values of its `Bug` and `Bug-<vendor>` fields.
        files: what it changes, in the file's order.
        statements: its `Kmend-Allow` fields.
        content: the file's bytes.
    """

    digest: str
    name: str
    title: str
    description: str
    cves: tuple[str, ...]
    origin: str
    author: str
    applied_upstream: str
    last_update: str
    bugs: tuple[str, ...]
    files: tuple[FileChange, ...]
    statements: tuple[Statement, ...]
    content: bytes

    def record(self) -> FixRecord:
        """The fix as a manifest states it."""
        return FixRecord(
            digest=self.digest,
            title=self.title,
            cves=self.cves,
            origin=self.origin,
            files=tuple(change.path for change in self.files),
        )
