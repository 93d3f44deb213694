"""Fixes made at test time from the prepared kernel's own source, so that they fit whichever version the archive offers."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kmend.factory.fixes import Fix, parse_fix


@dataclass(frozen=True, slots=True)
class Edit:
    """One replacement in one source file.

    Attributes:
        path: relative to the source tree.
        old: text that must stand there exactly once (or at least once, with `first`); empty to append at the end.
        new: what takes its place.
        first: take the first place where `old` stands.
    """

    path: str
    old: str
    new: str
    first: bool = False


class FixMaker:
    """Turns edits of a source tree's files into patches."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree

    def source(self, path: str) -> str:
        """The text of a file of the tree."""
        return (self._tree / path).read_text()

    def patch(self, edits: Sequence[Edit], header: str = "") -> str:
        """The patch file that makes the edits, with `header` before it."""
        texts: dict[str, str] = {}
        for edit in edits:
            text = texts.get(edit.path) or self.source(edit.path)
            found = text.count(edit.old)
            assert found == 1 or (edit.first and found) or not edit.old, (
                f"{edit.old!r} stands {found} times in {edit.path}"
            )
            texts[edit.path] = text.replace(edit.old, edit.new, 1) if edit.old else text + edit.new
        parts = [header if not header or header.endswith("\n") else header + "\n"]
        for path, text in texts.items():
            parts += _difference(path, self.source(path), text)
        return "".join(parts)

    def fix(self, *edits: Edit, header: str = "") -> Fix:
        """The same as a `Fix`."""
        return parse_fix(self.patch(edits, header).encode(), "test.patch")

    def new_file(self, path: str, text: str) -> str:
        """A patch that makes a file."""
        return "".join(_difference(path, "", text)).replace(f"--- a/{path}", "--- /dev/null")

    def removed_file(self, path: str) -> str:
        """A patch that deletes a file."""
        return "".join(_difference(path, self.source(path), "")).replace(f"+++ b/{path}", "+++ /dev/null")


def _difference(path: str, old: str, new: str) -> list[str]:
    return list(
        difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{path}", f"b/{path}")
    )
