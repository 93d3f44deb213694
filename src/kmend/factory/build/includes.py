"""Who includes a header, directly or not: read off the `#include` lines of everything that this kernel's files can reach.

A quoted name is looked for beside the file that includes it, then where kbuild's own `-I` lead. What is found in none of these
places (folders that a Makefile adds) counts as any file that ends so: too many includers rather than too few. An `#include`
of a macro is left aside: in this kernel such macros (`TRACE_INCLUDE`) name the very header that uses them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from kmend.core.process import run

_LINE = re.compile(rb"^(?P<file>[^\0]+)\0[ \t]*#[ \t]*include[ \t]*(?P<kind>[\"<])(?P<name>[^\">\n]+)", re.MULTILINE)
_ROOTS = ("include", "arch/x86/include", "arch/x86/include/generated", "include/uapi", "arch/x86/include/uapi",
          "arch/x86/include/generated/uapi", "include/generated/uapi")  # fmt: skip
"""`LINUXINCLUDE` of the top Makefile."""
_FORCED = frozenset({"include/linux/compiler-version.h", "include/linux/kconfig.h", "include/linux/compiler_types.h"})
"""Headers that kbuild's `-include` gives to every file."""


def include_lines(tree: Path, files: Collection[str]) -> dict[str, frozenset[str]]:
    """Header -> the files of `files` in which an `#include` may mean it.

    Raises:
        SystemProblemError: xargs(1) is missing.
    """
    listed = "".join(f"{path}\0" for path in files).encode()
    # xargs tells of grep's status 1 (nothing found in one of its portions) by its own 123.
    done = run(["xargs", "-0", "grep", "-HZE", "^[ \t]*#[ \t]*include", "--"], cwd=tree, stdin=listed, check=False)
    known = frozenset(files)
    by_name: dict[str, list[str]] = {}
    for path in files:
        by_name.setdefault(posixpath.basename(path), []).append(path)
    found: dict[str, set[str]] = {}
    for match in _LINE.finditer(done.stdout):
        file, name = match["file"].decode(errors="replace"), match["name"].decode(errors="replace")
        for header in _meant(file, name, match["kind"] == b'"', known, by_name):
            found.setdefault(header, set()).add(file)
    return {header: frozenset(holders) for header, holders in found.items()}


def _meant(
    file: str, name: str, quoted: bool, known: frozenset[str], by_name: Mapping[str, list[str]]
) -> Iterable[str]:
    places = [posixpath.dirname(file)] if quoted else []
    for root in (*places, *_ROOTS):
        path = posixpath.normpath(posixpath.join(root, name))
        if path in known:
            return (path,)
    tail = posixpath.normpath(name)
    while tail.startswith("../"):
        tail = tail.removeprefix("../")
    return [path for path in by_name.get(posixpath.basename(name), ()) if path == tail or path.endswith(f"/{tail}")]


def includers(lines: Mapping[str, frozenset[str]], headers: Iterable[str]) -> frozenset[str] | None:
    """The headers and every file that includes one, directly or not; None if that is every file there is.

    Args:
        lines: see `include_lines`.
    """
    found: set[str] = set()
    todo = list(headers)
    while todo:
        header = todo.pop()
        if header in _FORCED:
            return None
        if header not in found:
            found.add(header)
            todo.extend(lines.get(header, ()))
    return frozenset(found)
