"""Where the functions of a C file are: enough of the kernel's way of writing to say which function a line belongs to.

A scanner of braces and declarations, not a parser: it knows attributes, macros that define functions (system calls, BPF
helpers) and both branches of `#if`, and takes a `}` in the first column as a function's end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kmend.factory.fixes.ctext import Line, scan

_MARK = re.compile(r"[(){};=]")
_CALL = re.compile(r"([A-Za-z_]\w*)\s*\(\s*([A-Za-z_]\w*)?")
_CONSTANT_CASE = re.compile(r"[A-Z][A-Z0-9_]*")
_SYSCALL = re.compile(r"(?P<compat>COMPAT_)?SYSCALL(?:32)?_DEFINE[0-6]")
_BPF_CALL = re.compile(r"(?:NOTRACE_)?BPF_CALL_[0-5]")
_ATTRIBUTE = re.compile(
    r"""__(?:attribute__|printf|scanf|(?:cond_)?acquires(?:_shared)?|releases(?:_shared)?|must_hold|cond_lock|section
      |aligned|alloc_size|assume_aligned|no_sanitize|format_arg|malloc|realloc_size|bpf_kfunc|nonnull|alias|error|warning
      |compiletime_error|compiletime_warning|cleanup|typeof__)
      |asm|typeof|sizeof|if|while|for|switch|return""",
    re.VERBOSE,
)
"""Words before a parenthesis that do not name the function being defined."""
_MAX_HEADER = 10_000
"""Longest text, in characters, before a function's brace; more means that the scanner lost its way."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function's definition.

    Attributes:
        name: as the compiler knows it; `__do_sys_x` for a system call's body.
        aliases: other names by which people ask for it.
        start: line, from 1, where its declaration starts.
        end: line of its closing brace.
    """

    name: str
    aliases: frozenset[str]
    start: int
    end: int

    @property
    def names(self) -> frozenset[str]:
        """All names that mean this function."""
        return self.aliases | {self.name}


def functions(content: bytes) -> list[Function]:
    """The functions defined in a C file, in the order of their lines."""
    scanner = _Scanner()
    for number, line in enumerate(scan(content), 1):
        scanner.take(number, line)
    return scanner.found


@dataclass(slots=True)
class _Place:
    """Where the scanner is between declarations; kept at `#if`, taken up again at `#else`."""

    braces: int = 0
    parens: int = 0
    header: str = ""
    header_start: int = 0
    is_data: bool = False
    opened: tuple[str, frozenset[str], int] | None = None

    def copy(self) -> _Place:
        return _Place(self.braces, self.parens, self.header, self.header_start, self.is_data, self.opened)

    def forget_header(self) -> None:
        self.header, self.header_start, self.is_data = "", 0, False


class _Scanner:
    def __init__(self) -> None:
        self.found: list[Function] = []
        self._place = _Place()
        self._branches: list[_Place] = []

    def take(self, number: int, line: Line) -> None:
        if line.directive is not None:
            self._take_directive(line)
            return
        code = line.code
        if not code and line.starts_clean and not self._place.braces and not self._place.parens:
            self._place.forget_header()
            return
        if code[:1] == "}" and self._place.opened is not None:
            self._place.braces, self._place.parens = 1, 0
        at = 0
        for mark in _MARK.finditer(code):
            self._gather(code[at : mark.start()], number)
            at = mark.end()
            self._take_mark(mark[0], number)
        self._gather(code[at:] + " ", number)

    def _take_directive(self, line: Line) -> None:
        if not line.starts_clean:
            return
        if line.directive in ("if", "ifdef", "ifndef"):
            self._branches.append(self._place.copy())
        elif line.directive in ("else", "elif") and self._branches:
            self._place = self._branches[-1].copy()
        elif line.directive == "endif" and self._branches:
            self._branches.pop()

    def _gather(self, text: str, number: int) -> None:
        place = self._place
        if place.braces:
            return
        if text.strip() and not place.header:
            place.header_start = number
        if place.header or text.strip():
            place.header += text
        if len(place.header) > _MAX_HEADER:
            place.forget_header()

    def _take_mark(self, mark: str, number: int) -> None:
        place = self._place
        if mark in "()":
            if not place.braces:
                place.parens = max(0, place.parens + (1 if mark == "(" else -1))
                self._gather(mark, number)
        elif mark == "{":
            if not place.braces and not place.parens:
                named = None if place.is_data else declared_name(place.header)
                place.opened = (*named, place.header_start) if named else None
            place.braces += 1
        elif mark == "}":
            place.braces = max(0, place.braces - 1)
            if not place.braces:
                if place.opened is not None:
                    self.found.append(Function(place.opened[0], place.opened[1], place.opened[2], number))
                    place.opened = None
                place.forget_header()
        elif not place.braces and not place.parens:
            if mark == ";":
                place.forget_header()
            else:
                place.is_data = True


def declared_name(header: str) -> tuple[str, frozenset[str]] | None:
    """The function that a declaration names, with its aliases; None if it declares none (a struct, an enum)."""
    candidates = [match for match in _calls(header) if not _ATTRIBUTE.fullmatch(match[1])]
    if not candidates:
        return None
    plain = [match for match in candidates if not _CONSTANT_CASE.fullmatch(match[1])]
    if plain:
        return plain[-1][1], frozenset()
    macro, argument = candidates[-1][1], candidates[-1][2]
    if argument is None:
        return macro, frozenset()
    syscall = _SYSCALL.fullmatch(macro)
    if syscall is not None:
        kind = "compat_sys" if syscall["compat"] else "sys"
        wrappers = {f"{kind}_{argument}", f"__se_{kind}_{argument}", f"__x64_{kind}_{argument}"}
        return f"__do_{kind}_{argument}", frozenset({argument, *wrappers})
    if _BPF_CALL.fullmatch(macro):
        return f"____{argument}", frozenset({argument})
    return argument, frozenset({macro})


def _calls(header: str) -> list[re.Match[str]]:
    """`word(` outside of parentheses."""
    found = []
    at = 0
    while match := _CALL.search(header, at):
        found.append(match)
        depth, at = 0, match.end(1)
        for at in range(match.end(1), len(header)):
            depth += (header[at] == "(") - (header[at] == ")")
            if depth == 0 and header[at] == ")":
                break
        at += 1
    return found
