"""What else of the newer kernel a file needs to compile: header hunks, other files. The compiler is asked, error by error."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from kmend.factory.derive import Change, compare, functions
from kmend.factory.derive.declarations import (
    WORD,
    DeclarationChange,
    DeclarationKind,
    changed_declarations,
    declarations,
)
from kmend.factory.derive.difference import hunks
from kmend.factory.fixes import ADDED
from kmend.factory.fixes.applying import split_lines
from kmend.factory.survey.changes import ChangedFile

_NAMED = re.compile(
    r"implicit declaration of function '(\w+)'|'(\w+)' undeclared|unknown type name '(\w+)'"
    r"|(?:undefined|incomplete) type '(?:struct |union |enum )?(\w+)|arguments to function '(\w+)'|argument \d+ of '(\w+)'"
    r"|conflicting types for '(\w+)'|redefinition of '(?:struct |union |enum )?(\w+)'|declaration of '(\w+)' follows"
    r"|macro \"(\w+)\"|storage size of '(\w+)'|redeclaration of '(?:enumerator |struct |union |enum )?(\w+)'"
)
_MEMBER = re.compile(r"has no member named '(\w+)'|to function '[^']*(?:->|\.)(\w+)'")
_LINE = re.compile(r"^([\w./-]+):(\d+):\d+: error:", re.MULTILINE)
_MAX_STEPS = 4
"""Through how many macros and inline functions of headers a change is followed."""
_MIN_WORD = 4
"""Shorter words than this tell nothing."""
_KEYWORDS = frozenset(
    WORD.findall(
        "auto bool break case char const continue default double else enum extern false float goto inline long register"
        " return short signed sizeof static struct switch true typeof union unsigned void volatile while NULL"
    )
)
"""Words that name nothing."""
_INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*["<]([^">\n]+)[">]', re.MULTILINE)
_MISSING_FILE = re.compile(r"fatal error: ([\w./-]+): No such file")


@dataclass(slots=True)
class Companions:
    """Changes of headers and of other files, chosen step by step.

    Attributes:
        differing: path -> content in the older and the newer kernel, of everything that may come along.
        reach: the headers that hunks may be taken of: those that the file includes.
    """

    differing: Mapping[str, tuple[bytes, bytes]]
    reach: set[str]
    _taken: dict[str, set[int]] = field(default_factory=dict)
    _created: dict[str, bytes] = field(default_factory=dict)
    _changes: dict[str, list[Change]] = field(default_factory=dict)
    _directives: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        """The files of which something is taken."""
        return tuple(sorted({*self._taken, *self._created}))

    def patch(self) -> bytes:
        """What was chosen, as unified hunks."""
        parts = []
        for path, numbers in sorted(self._taken.items()):
            old, new = self.differing[path]
            chosen = [change for number, change in enumerate(self._of(path)) if number in numbers]
            parts.append(f"--- a/{path}\n+++ b/{path}\n".encode() + hunks(old, new, chosen))
        for path, content in sorted(self._created.items()):
            lines = split_lines(content)
            body = b"".join(b"+" + line for line in lines)
            parts.append(f"--- /dev/null\n+++ b/{path}\n@@ -0,0 +1,{len(lines)} @@\n".encode() + body)
        return b"".join(parts)

    def create(self, path: str, content: bytes) -> bool:
        """Take a header that only the newer kernel has; returns whether that is new."""
        if path in self._created:
            return False
        self._created[path] = content
        return True

    def add_file(self, path: str) -> bool:
        """Take all that differs in a file; returns whether that is anything new."""
        if path not in self.differing:
            return False
        everything = set(range(len(self._of(path))))
        known = self._taken.get(path, set())
        self._taken[path] = everything
        return known != everything

    def add(
        self,
        names: Iterable[str],
        members: Iterable[str] = (),
        near: Iterable[str] = (),
        *,
        within: Collection[str] | None = None,
    ) -> bool:
        """Take from headers what declares one of `names` or ceases to use one, what gains or loses one of `members`,
        and types that change and have a member called like one of `near`.

        Args:
            within: only these headers; without it, all within reach.

        Returns whether that is anything new.
        """
        wanted, gained, anywhere = set(names), set(members), set(near)
        found = False
        reach = self.reach if within is None else self.reach & set(within)
        for path in sorted(reach & self.differing.keys()):
            old, new = self.differing[path]
            if not path.endswith(".h") or (wanted | gained | anywhere).isdisjoint(
                WORD.findall((old + new).decode("latin-1"))
            ):
                continue
            for change in changed_declarations(old, new):
                before = {word for piece in change.before for word in piece.words}
                after = {word for piece in change.after for word in piece.words}
                if not (
                    wanted & change.names
                    or wanted & (before - after)
                    or gained & (before ^ after)
                    or (change.kind is DeclarationKind.TYPE and change.before and anywhere & after)
                ):
                    continue
                olds = [(piece.start, piece.end) for piece in change.before]
                news = [(piece.start, piece.end) for piece in change.after]
                found |= self._take(path, olds, news)
        return found

    def add_mentions(self, names: Iterable[str]) -> bool:
        """Take what brings these names to headers in a way that no declaration shows: a tracepoint `trace_x` by
        `TRACE_EVENT(x, ...)`, an entry of a list that macros expand. First the lines, then the headers whole.

        Returns whether that is anything new.
        """
        wanted = {word for name in names for word in (name, name.removeprefix("trace_"))}
        headers = [path for path in sorted(self.reach & self.differing.keys()) if path.endswith(".h")]
        mentioning = [path for path in headers if wanted & _new_words(*self.differing[path])]
        found = False
        for path in mentioning:
            lines = split_lines(self.differing[path][1])
            for number, change in enumerate(self._of(path)):
                text = b"".join(lines[change.new_start : change.new_end]).decode("latin-1")
                taken = self._taken.setdefault(path, set())
                if number not in taken and not wanted.isdisjoint(WORD.findall(text)):
                    taken.add(number)
                    found = True
        if not found:
            for path in mentioning:
                found |= self.add_file(path)
        return found

    def add_definitions(self, names: Iterable[str]) -> bool:
        """Take from other files the functions of these names that only the newer kernel has; returns whether there are any."""
        wanted = set(names)
        found = False
        for path, (old, new) in self.differing.items():
            if not path.endswith(".c") or wanted.isdisjoint(WORD.findall(new.decode("latin-1"))):
                continue
            before = {function.name for function in functions(old)}
            places = [
                (function.start, function.end)
                for function in functions(new)
                if function.name in wanted and function.name not in before
            ]
            if places:
                found |= self._take(path, [], places)
        return found

    def add_reached(self, words: Iterable[str], read: Callable[[str], bytes | None]) -> bool:
        """Take from headers every change that code with these words can see, directly or by other headers' macros,
        inline functions and types; returns whether that is anything new.

        Args:
            read: gives a header of the older kernel.
        """
        origins: dict[str, set[tuple[str, int]]] = {}
        changes: dict[tuple[str, int], DeclarationChange] = {}
        for path in sorted(self.reach & self.differing.keys()):
            if path.endswith(".h"):
                for number, change in enumerate(changed_declarations(*self.differing[path])):
                    changes[path, number] = change
                    for name in change.names:
                        origins.setdefault(name, set()).add((path, number))
        headers = {path: (read(path) or b"").decode("latin-1") for path in self.reach if path.endswith(".h")}
        fresh = set(origins)
        for _ in range(_MAX_STEPS):
            reached = _users(headers, fresh)
            fresh = set()
            for name, used in reached.items():
                led = set().union(*(origins.get(word, set()) for word in used))
                if not led <= origins.get(name, set()):
                    origins.setdefault(name, set()).update(led)
                    fresh.add(name)
            if not fresh:
                break
        seen = set().union(*(origins.get(word, set()) for word in words))
        taken = False
        for path, number in sorted(seen):
            change = changes[path, number]
            olds = [(piece.start, piece.end) for piece in change.before]
            news = [(piece.start, piece.end) for piece in change.after]
            taken |= self._take(path, olds, news)
        return taken

    def add_directives(self) -> bool:
        """Take the `#include`s, `#if`s and the like that came with what was taken; returns whether that is anything new."""
        found = False
        for path in list(self._taken):
            old, new = self.differing[path]
            for change in changed_declarations(old, new):
                if change.kind is DeclarationKind.DIRECTIVE:
                    olds = [(piece.start, piece.end) for piece in change.before]
                    news = [(piece.start, piece.end) for piece in change.after]
                    found |= self._take(path, olds, news)
        return found

    def _of(self, path: str) -> list[Change]:
        if path not in self._changes:
            self._changes[path] = compare(*self.differing[path])
        return self._changes[path]

    def _take(self, path: str, olds: list[tuple[int, int]], news: list[tuple[int, int]]) -> bool:
        """Take the changes that lie in these lines (from 1, the last one included) of the old or the new header."""
        before = len(self._taken.get(path, ()))
        for number, change in enumerate(self._of(path)):
            in_old = any(
                change.old_start < end and change.old_end >= start
                for start, end in olds
                if change.old_end > change.old_start
            )
            in_new = any(
                change.new_start < end and change.new_end >= start
                for start, end in news
                if change.new_end > change.new_start
            )
            if in_old or in_new:
                self._taken.setdefault(path, set()).add(number)
        return len(self._taken.get(path, ())) > before


def _new_words(old: bytes, new: bytes) -> set[str]:
    return set(WORD.findall(new.decode("latin-1"))) - set(WORD.findall(old.decode("latin-1")))


def _users(headers: Mapping[str, str], names: set[str]) -> dict[str, set[str]]:
    """Macros, inline functions and types of `headers` -> those of `names` that they use."""
    found: dict[str, set[str]] = {}
    for text in headers.values():
        if names.isdisjoint(WORD.findall(text)):
            continue
        for piece in declarations(text.encode("latin-1")):
            if piece.kind in (DeclarationKind.MACRO, DeclarationKind.FUNCTION, DeclarationKind.TYPE):
                used = names & piece.words
                for name in piece.names if used else ():
                    found.setdefault(name, set()).update(used)
    return found


def named_headers(text: bytes, source: str) -> set[str]:
    """Where the headers that a file's own text includes could be."""
    roots = ("include", "include/uapi", "arch/x86/include", posixpath.dirname(source))
    names = [match.decode(errors="replace") for match in _INCLUDE.findall(text)]
    return {posixpath.normpath(posixpath.join(root, name)) for name in names for root in roots}


def related(headers: Iterable[str], source: str) -> frozenset[str]:
    """Those headers that lie in the folder of a file, or carry that folder's name: `include/linux/ceph/` for `fs/ceph/`.

    What words alone suggest is looked for here first: a word like `wait` is declared anew in many a header.
    """
    folder = posixpath.dirname(source)
    name = posixpath.basename(folder)
    return frozenset(
        header
        for header in headers
        if posixpath.dirname(header) == folder or name in posixpath.splitext(header)[0].split("/")
    )


def missing_names(errors: str) -> frozenset[str]:
    """The names of which the compiler complains."""
    return frozenset(name for groups in _NAMED.findall(errors) for name in groups if name)


def missing_members(errors: str) -> frozenset[str]:
    """The members that the compiler misses in a struct or union."""
    return frozenset(name for groups in _MEMBER.findall(errors) for name in groups if name)


def words_of_errors(errors: str, path: str, text: bytes) -> frozenset[str]:
    """The longer words of those lines of `path`, whose text is given, that the compiler finds wrong."""
    lines = text.decode("latin-1").split("\n")
    numbers = [
        int(number) for where, number in _LINE.findall(errors) if posixpath.normpath(where.removeprefix(ADDED)) == path
    ]
    words = (WORD.findall(lines[number - 1]) for number in numbers if 0 < number <= len(lines))
    return frozenset(word for found in words for word in found if len(word) >= _MIN_WORD and word not in _KEYWORDS)


def missing_files(errors: str, source: str) -> tuple[str, ...]:
    """Where the headers that the compiler does not find could be."""
    folder = posixpath.dirname(source)
    return tuple(
        posixpath.normpath(posixpath.join(root, name))
        for name in _MISSING_FILE.findall(errors)
        for root in ("include", "arch/x86/include", folder)
    )


def words_of_change(change: ChangedFile) -> frozenset[str]:
    """Every word in the lines that the newer version adds."""
    lines = split_lines(change.new)
    return frozenset(
        word
        for part in compare(change.old, change.new)
        for line in lines[part.new_start : part.new_end]
        for word in WORD.findall(line.decode("latin-1"))
        if word not in _KEYWORDS
    )
