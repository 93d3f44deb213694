"""Addresses -> source lines, by GNU addr2line (binutils), which the factory needs for compiling anyway."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kmend.core.process import run
from kmend.factory.fixes import ADDED

_LINE = re.compile(r"(?P<file>.*):(?P<line>\d+|\?)(?: \(discriminator \d+\))?")
_BUILD_FOLDER = re.compile(r"^(?:(?:.*/)?debian/build/build_[^/]+/|/.*?/linux-\d[^/]*/)")
"""What Debian's debug information has before a path; assembly has the whole folder."""
_BATCH = 500
TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A line of source.

    Attributes:
        function: the function in whose text it stands; not the symbol, if it was put into another.
        file: relative to the kernel's source tree.
        line: from 1; for an added one that of the patched file, else that of the kernel's own.
        added: whether a fix wrote it.
    """

    function: str
    file: str
    line: int
    added: bool = False


def source_lines(file: Path, section: str | None, addresses: Sequence[int]) -> dict[int, tuple[SourceLine, ...]]:
    """The source lines of addresses: the innermost function first, then those into which it was put.

    Args:
        file: with debug information.
        section: what addresses count from in a relocatable file; None in a linked one.

    Returns:
        address -> lines; nothing for an address of which the debug information knows nothing.

    Raises:
        ProgramFailedError, SystemProblemError: addr2line fails or is missing.
    """
    found: dict[int, tuple[SourceLine, ...]] = {}
    wanted = sorted(set(addresses))
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start : start + _BATCH]
        options = ["-j", section] if section is not None else []
        words = ["addr2line", "-a", "-f", "-i", "-e", str(file), *options, *(f"{address:#x}" for address in batch)]
        found.update(_parse(run(words, timeout=TIMEOUT).text))
    return found


def _parse(text: str) -> dict[int, tuple[SourceLine, ...]]:
    found: dict[int, list[SourceLine]] = {}
    current: list[SourceLine] = []
    function = ""
    for line in text.splitlines():
        if line.startswith("0x") and ":" not in line:
            current = found.setdefault(int(line, 16), [])
            function = ""
        elif not function:
            function = line
        else:
            match = _LINE.fullmatch(line)
            if match is not None and match["line"].isdigit() and int(match["line"]) and function != "??":
                path = plain_path(match["file"])
                added = path.startswith(ADDED)
                current.append(SourceLine(function, path.removeprefix(ADDED), int(match["line"]), added))
            function = ""
    return {address: tuple(lines) for address, lines in found.items() if lines}


def plain_path(path: str) -> str:
    """A path of the debug information, relative to the kernel's source tree."""
    path = _BUILD_FOLDER.sub("", path)
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return ("/" if path.startswith("/") else "") + "/".join(parts)
