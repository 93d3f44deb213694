"""Which translation units may change when a header does: those that use, however indirectly, a name whose declaration differs.

A name that a header newly declares is used by nobody else, so adding one touches no other file; a changed inline function or
macro reaches every unit in whose text its name stands, directly or by other macros and inline functions of headers. The
search is by words in the sources that include a changed header, directly or not: it finds too many units rather than too
few, and those whose code turns out the same are dropped after they are compiled. A struct that changes its layout is refused
whoever uses it, so it is enough that a few units see it.
"""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath

from kmend.core.process import run
from kmend.factory.build.includes import include_lines, includers
from kmend.factory.build.preflight import including_units
from kmend.factory.build.refusal import Refusal, RefusalCode
from kmend.factory.derive.declarations import DeclarationKind, changed_declarations, declarations, only_expands
from kmend.factory.kernels.prepared import Kernel

MAX_UNITS = 150
"""More units than this are not compiled for one fix."""
_MAX_NAMES = 3000
_WITNESSES = 4
"""Units that are compiled so that the layout of a changed type is seen."""


def affected_units(
    kernel: Kernel, headers: Mapping[str, tuple[bytes, bytes]], own: Collection[str]
) -> tuple[str, ...] | Refusal:
    """The units that may change with the given headers (path -> content before and after), or a refusal if too many.

    A `.c` file that others include (`kernel/sched/rt.c`) counts as a header.

    Args:
        own: units that are compiled anyway.

    Raises:
        SystemProblemError: xargs(1) is missing.
    """
    search = _Search(kernel)
    units: set[str] = set()
    names: set[str] = set()
    types: set[str] = set()
    for path, (old, new) in headers.items():
        if path.endswith(".c"):
            units |= including_units(path, kernel.units, kernel.included_in)
            continue
        here, seen = _changed_names(old, new)
        names |= here
        types |= seen
    search.narrow(headers)
    known: set[str] = set()
    while fresh := names - known:
        known |= fresh
        found = search.mentioning(fresh)
        units.update(path for path in found if path in search.compiled)
        if len(units) > MAX_UNITS or len(known) > _MAX_NAMES:
            return _too_many(headers, len(units))
        for path in found:
            if path.endswith(".h"):
                here, seen = _reached((kernel.tree.path / path).read_bytes(), fresh)
                names |= here
                types |= seen
            elif path not in search.compiled:
                units |= including_units(path, kernel.units, kernel.included_in)
    if types:
        units |= search.witnesses(types, [*own, *sorted(units)])
    return tuple(sorted(units))


def _too_many(headers: Iterable[str], count: int) -> Refusal:
    return Refusal(
        RefusalCode.HEADER,
        f"what changes in {', '.join(sorted(headers))} is used, directly or not, by at least {count} files of this kernel; "
        f"at most {MAX_UNITS} are built for one fix",
        hint="make the change in the .c files that need it, under a new name",
        file=min(headers),
    )


def _changed_names(old: bytes, new: bytes) -> tuple[set[str], set[str]]:
    """Names whose users may change, and names of types whose layout must be looked at."""
    names: set[str] = set()
    before: set[str] = set()
    after: set[str] = set()
    for change in changed_declarations(old, new):
        if change.kind is DeclarationKind.TYPE:
            before |= {name for piece in change.before for name in piece.names}
            after |= {name for piece in change.after for name in piece.names}
        elif not only_expands(change):
            names |= change.names
    # A word that becomes an enumerator or a type may have meant something else where it stands already.
    return names | (after - before), before & after


def _reached(content: bytes, names: Iterable[str]) -> tuple[set[str], set[str]]:
    """Names of a header's macros and inline functions that use one of `names`, and of its types that do.

    A prototype or a variable's declaration that does generates no code.
    """
    wanted = set(names)
    reached: set[str] = set()
    types: set[str] = set()
    for piece in declarations(content):
        if not wanted.isdisjoint(piece.words):
            if piece.kind in (DeclarationKind.MACRO, DeclarationKind.FUNCTION):
                reached |= piece.names
            elif piece.kind is DeclarationKind.TYPE:
                types |= piece.names
    return reached, types


def shared_files(kernel: Kernel) -> tuple[str, ...]:
    """The headers that this kernel's files can reach, and the `.c` files beside those."""
    search = _Search(kernel)
    generated = ("include/generated/", "arch/x86/include/generated/", "include/config/")
    return tuple(path for path in search.files if path not in search.compiled and not path.startswith(generated))


class _Search:
    """Searches the sources that this kernel compiles, and the headers that they can reach."""

    def __init__(self, kernel: Kernel) -> None:
        self._tree = kernel.tree.path
        self.compiled = {path for path in kernel.units if path.endswith(".c")}
        self._folders = {posixpath.dirname(path) for path in kernel.units}
        self._files: list[str] | None = None
        self._reached: list[str] | None = None

    @property
    def files(self) -> list[str]:
        """Compiled sources, headers, and `.c` files beside compiled ones, which those may include."""
        if self._files is None:
            found = set(self.compiled)
            above = {str(parent) for folder in self._folders for parent in PurePosixPath(folder).parents}
            for root in sorted(self._folders | (above - {"."})):
                found.update(self._below(root, "*.[ch]"))
                found.update(self._below(f"{root}/include", "**/*.h"))
            found.update(self._below("include", "**/*.h"))
            self._files = sorted(path for path in found if (self._tree / path).is_file())
        return self._files

    def narrow(self, headers: Iterable[str]) -> None:
        """From now on, search only in what includes one of these headers."""
        reached = includers(include_lines(self._tree, self.files), headers)
        if reached is not None:
            self._reached = sorted(reached.intersection(self.files))

    def _below(self, folder: str, pattern: str) -> list[str]:
        return [str(path.relative_to(self._tree)) for path in (self._tree / folder).glob(pattern)]

    def mentioning(self, names: Iterable[str]) -> list[str]:
        """The files in which one of the words stands."""
        with tempfile.NamedTemporaryFile(suffix=".words") as words:
            words.write("".join(f"{name}\n" for name in sorted(names)).encode())
            words.flush()
            searched = self.files if self._reached is None else self._reached
            listed = "".join(f"{path}\0" for path in searched).encode()
            # xargs tells of grep's status 1 (nothing found in one of its portions) by its own 123.
            done = run(
                ["xargs", "-0", "grep", "-lwF", "-f", words.name, "--"], cwd=self._tree, stdin=listed, check=False
            )
        return done.text.splitlines()

    def witnesses(self, types: Iterable[str], preferred: Iterable[str]) -> set[str]:
        """A few units in which one of these types stands, the preferred ones first."""
        found = [path for path in self.mentioning(types) if path in self.compiled]
        ordered = [path for path in preferred if path in found] + found
        return set(list(dict.fromkeys(ordered))[:_WITNESSES])
