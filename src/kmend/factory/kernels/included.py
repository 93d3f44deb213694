"""`.c` files that other files include: which, by whom, and which objects hold them therefore."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass

_INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]+["<]([^">\n]{1,4096}\.c)[">]', re.MULTILINE)

_ELSEWHERE = re.compile(
    r"arch/[^/]+/(boot|realmode|purgatory|entry/vdso|kernel/vdso|vdso|kvm/hyp/nvhe)/|drivers/firmware/efi/libstub/"
)


def is_elsewhere(file: str) -> bool:
    """Whether a file is of those that are compiled and linked into something that is neither vmlinux nor a module of its own."""
    return _ELSEWHERE.match(file) is not None


def inclusions(content: bytes) -> list[str]:
    """The `.c` files that a source file's `#include` lines name, as they are written."""
    if b'.c"' not in content and b".c>" not in content:
        return []
    return [name.decode(errors="replace") for name in _INCLUDE.findall(content)]


def resolved(named: Iterable[tuple[str, str]], is_there: Callable[[str], bool]) -> dict[str, list[str]]:
    """File that is included -> the files that do so.

    Args:
        named: a file, and what one of its `#include` lines names.
        is_there: whether the tree has a file.
    """
    found: dict[str, list[str]] = {}
    for holder, text in named:
        beside = posixpath.normpath(posixpath.join(posixpath.dirname(holder), text))
        for candidate in (beside, posixpath.normpath(text), f"include/{text}"):
            if is_there(candidate):
                found.setdefault(candidate, []).append(holder)
                break
    return found


@dataclass(frozen=True, slots=True)
class Compiled:
    """Source files by what is known of them.

    Attributes:
        sources: file -> the objects that hold it.
        left_out: files of which nothing was compiled.
    """

    sources: dict[str, tuple[str, ...]]
    left_out: tuple[str, ...]


def compiled(
    units: Mapping[str, Iterable[str]],
    included_in: Mapping[str, Iterable[str]],
    files: Iterable[str],
    is_open: Callable[[str], bool],
) -> Compiled:
    """What is known of the tree's files.

    Args:
        units: translation unit -> the objects that hold it.
        included_in: see `resolved`.
        files: all `.c` and `.S` files of the tree.
        is_open: whether it cannot be told of a file, which is no unit, that it was not compiled. So it is with those, too, that a
            header includes: nobody knows who includes that.
    """
    sources = {name: set(objects) for name, objects in units.items()}
    by_header: set[str] = set()
    for name in included_in:
        above = _above(name, included_in)
        holders = {item for unit in above & units.keys() for item in units[unit]}
        if holders:
            sources.setdefault(name, set()).update(holders)
        if any(not file.endswith(".c") for file in above):
            by_header.add(name)
    left_out = (name for name in files if name not in sources and name not in by_header and not is_open(name))
    return Compiled(
        {name: tuple(sorted(objects)) for name, objects in sorted(sources.items())}, tuple(sorted(left_out))
    )


def _above(name: str, included_in: Mapping[str, Iterable[str]]) -> Set[str]:
    """The files that include a file, over others too."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for file in included_in.get(waiting.pop(), ()):
            if file not in found:
                found.add(file)
                waiting.append(file)
    return found
