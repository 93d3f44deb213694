"""On which line of a TOML document each table and member stands; its readers do not say.

Which reader is used is the caller's matter: `core` has only the standard library, which has one from Python 3.11 on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Parse = Callable[[str], dict[str, Any]]
"""`tomllib.loads` or its like; raises a ValueError that names the line."""

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[\]{}=\n]"
    r"|[^\"'#\[\]{}=\n]+",
    re.DOTALL,
)
"""Strings of the four kinds, comments, what gives structure, and the rest (TOML 1.0.0)."""

_ERROR_LINE = re.compile(r" \(at line ([0-9]+), column [0-9]+\)$")
_ERROR_END = " (at end of document)"


def lines_of(text: str, parse: Parse) -> dict[tuple[str, ...], int]:
    """The line, from 1 on, that names each table and member first.

    Args:
        text: a document that `parse` has read. What stands in an inline table counts as the line of the table.
    """
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    named, line, start, depth, in_value = "", 1, 1, 0, False
    for match in _TOKEN.finditer(text + "\n"):
        piece = match[0]
        if piece == "\n":
            if depth == 0:
                if named.strip().startswith("["):
                    table = _path(named.strip().strip("[]"), parse)
                    found.setdefault(table, start)
                named, in_value = "", False
        elif piece.startswith("#"):
            pass
        elif in_value:
            depth += (piece in ("[", "{")) - (piece in ("]", "}"))
        elif piece == "=":
            path = (*table, *_path(named, parse))
            for length in range(1, len(path) + 1):
                found.setdefault(path[:length], start)
            in_value = True
        else:
            if not named.strip():
                start = line
            named += piece
        line += piece.count("\n")
    return found


def error_line(problem: ValueError, text: str) -> tuple[int, str]:
    """The line that the reader complains of, and what it says without its own naming of the place."""
    said = str(problem)
    match = _ERROR_LINE.search(said)
    if match is not None:
        return int(match[1]), said[: match.start()]
    return max(1, len(text.splitlines())), said.removesuffix(_ERROR_END)


def _path(named: str, parse: Parse) -> tuple[str, ...]:
    """A key as it is written (bare, quoted, dotted) as its parts."""
    try:
        tree: object = parse(f"{named.strip()} = 1")
    except ValueError:
        return ()
    parts = []
    while isinstance(tree, dict):
        (part,) = tree
        parts.append(part)
        tree = tree[part]
    return tuple(parts)
