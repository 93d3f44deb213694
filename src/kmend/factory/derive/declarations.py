"""What a header declares, piece by piece, and which pieces differ between two versions of it.

A scanner, not a parser: it cuts at the ends of top-level declarations and at preprocessor directives. Where it is unsure of a
piece's name it takes every word that could be it, so that a search for those who use it finds too many rather than too few.
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kmend.factory.derive.cfunctions import declared_name
from kmend.factory.fixes.ctext import Line, scan

WORD = re.compile(r"[A-Za-z_]\w*")
_COMMENT_OR_STRING = re.compile(
    r'/\*.*?(?:\*/|\Z)|//(?:\\\n|[^\n])*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL
)
_SPACE = re.compile(r"\s+")
_FORWARD = re.compile(r"(?:struct|union|enum) \w+ ?;")
"""A type's name without its members, which generates no code and changes no layout."""
_ASSEMBLY = re.compile(r"\s*#\s*(?:ifdef\s+|if\s+defined\s*\(?\s*)__ASSEMBLY__\b")
_EXPANSION = re.compile(r"\w+ ?\(")
"""A macro's expansion at top level: the macro's own name is not what it declares."""
_CAPITALS = re.compile(r"[A-Z][A-Z0-9_]*\s*\(")
_DEFINE = re.compile(r"\s*#\s*(?:define|undef)\s+(\w+)")
_TAG = re.compile(r"\b(?:struct|union|enum)\s+(?:__\w+(?:\([^)]*\))?\s+)*(\w+)\s*\{")
_ENUM_BODY = re.compile(r"\benum\b[^{};]*\{([^}]*)\}")
_ENUMERATOR = re.compile(r"(?:^|,)\s*([A-Za-z_]\w*)")
_POINTER = re.compile(r"\w\s*\(\s*\*\s*(\w+)\s*\)\s*\(")
_TYPES = frozenset(
    {"void", "int", "long", "short", "char", "unsigned", "bool", "struct", "const", "enum", "u8", "u16", "u32", "u64"}
)
_LAST_WORD = re.compile(r"([A-Za-z_]\w*)\s*(?:\[[^\]]*\]\s*)*(?:=.*)?;?\s*$", re.DOTALL)
_MAX_LINES = 20_000


class DeclarationKind(enum.Enum):
    """What a piece is."""

    MACRO = "macro"
    FUNCTION = "function"
    """With its body."""
    TYPE = "type"
    """A struct, union or enum with its members, or a typedef."""
    OTHER = "other"
    """A prototype, a variable, or a macro's expansion at top level."""
    DIRECTIVE = "directive"
    """`#include` and the like, and a type named without its members; nobody uses it by a name."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """A piece of a header.

    Attributes:
        names: by which code elsewhere can refer to it.
        text: without comments, white space made single.
        conditions: the `#if`s around it, outermost first.
        start: line, from 1; end: its last line.
    """

    kind: DeclarationKind
    names: frozenset[str]
    text: str
    conditions: tuple[str, ...]
    start: int
    end: int

    @property
    def is_expansion(self) -> bool:
        """Whether it is a macro's expansion (`DEFINE_FREE(...)`) rather than a declaration in plain C."""
        return self.kind is DeclarationKind.OTHER and _CAPITALS.match(self.text) is not None

    @property
    def words(self) -> frozenset[str]:
        """Every word in it."""
        return frozenset(WORD.findall(self.text))


@dataclass(frozen=True, slots=True)
class DeclarationChange:
    """Pieces of one kind and name that differ: `before` or `after` is empty if they were added or removed."""

    kind: DeclarationKind
    names: frozenset[str]
    before: tuple[Declaration, ...]
    after: tuple[Declaration, ...]


def only_expands(change: DeclarationChange) -> bool:
    """Whether macros' expansions come to what was there and stays: who used the name before gets the same as before."""
    stays = [(piece.text, piece.conditions) for piece in change.before]
    come = [piece for piece in change.after if (piece.text, piece.conditions) not in stays]
    kept = [piece for piece in change.after if (piece.text, piece.conditions) in stays]
    return bool(stays) and len(kept) == len(stays) and all(piece.is_expansion for piece in come)


def declarations(content: bytes) -> list[Declaration]:
    """The pieces of a header (or of a C file), in order."""
    lines = _without_assembly(scan(content)[:_MAX_LINES])
    raw = content.decode("latin-1").split("\n")
    conditions: list[str] = []
    found: list[Declaration] = []
    for first, last, directive in _pieces(lines):
        text = _plain("\n".join(raw[first : last + 1]))
        if directive in ("if", "ifdef", "ifndef"):
            conditions.append(text)
        elif directive in ("else", "elif") and conditions:
            conditions[-1] += f" {text}"
        elif directive == "endif":
            if conditions:
                conditions.pop()
        elif _FORWARD.fullmatch(text):
            found.append(
                Declaration(DeclarationKind.DIRECTIVE, frozenset(), text, tuple(conditions), first + 1, last + 1)
            )
        elif text and text != ";":
            kind, names = _identify(text, directive)
            found.append(Declaration(kind, names, text, tuple(conditions), first + 1, last + 1))
    return found


def changed_declarations(old: bytes, new: bytes) -> list[DeclarationChange]:
    """What differs, comments and white space aside."""
    sides: tuple[dict[_Key, list[Declaration]], dict[_Key, list[Declaration]]] = ({}, {})
    for side, content in zip(sides, (old, new), strict=True):
        for piece in declarations(content):
            side.setdefault((piece.kind, piece.names), []).append(piece)
    changes = []
    for kind, names in dict.fromkeys([*sides[0], *sides[1]]):
        before, after = (side.get((kind, names), []) for side in sides)
        if kind is DeclarationKind.DIRECTIVE:
            # Many directives have no name: only those that came or went count.
            gone, come = _without(before, after), _without(after, before)
            if gone or come:
                changes.append(DeclarationChange(kind, names, tuple(gone), tuple(come)))
        elif [(p.text, p.conditions) for p in before] != [(p.text, p.conditions) for p in after]:
            changes.append(DeclarationChange(kind, names, tuple(before), tuple(after)))
    return changes


_Key = tuple[DeclarationKind, frozenset[str]]


def _without(some: Sequence[Declaration], others: Sequence[Declaration]) -> list[Declaration]:
    known = Counter(piece.text for piece in others)
    found = []
    for piece in some:
        if known[piece.text]:
            known[piece.text] -= 1
        else:
            found.append(piece)
    return found


def _without_assembly(lines: list[Line]) -> list[Line]:
    """Lines that only an assembler sees (`#ifdef __ASSEMBLY__`) made empty: they are no declarations, and end none."""
    found: list[Line] = []
    hidden = depth = 0
    for line in lines:
        starts = line.directive is not None and line.starts_clean
        if starts and line.directive in ("if", "ifdef", "ifndef"):
            depth += 1
            if not hidden and _ASSEMBLY.match(line.code):
                hidden = depth
                found.append(line)
                continue
        ends = starts and hidden == depth and line.directive in ("else", "elif", "endif")
        if ends:
            hidden = 0
        if starts and line.directive == "endif":
            depth = max(0, depth - 1)
        found.append(Line("", None, line.starts_clean) if hidden else line)
    return found


def _pieces(lines: list[Line]) -> Iterator[tuple[int, int, str | None]]:
    """(first line, last line, directive's name or None), lines counted from 0."""
    start: int | None = None
    braces = parens = 0
    data = False
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.directive is not None:
            last = number
            while last + 1 < len(lines) and lines[last + 1].directive is not None and not lines[last + 1].starts_clean:
                last += 1
            if start is None:
                yield number, last, line.directive
            number = last + 1
            continue
        for mark in re.finditer(r"[(){};=]", line.code):
            sign = mark[0]
            if start is None:
                start = number
            if sign in "()":
                parens = max(0, parens + (1 if sign == "(" else -1))
            elif sign == "{":
                braces += 1
            elif sign == "}":
                braces = max(0, braces - 1)
            if sign == "=" and not braces and not parens:
                data = True
            ends_body = sign == "}" and not braces and not data and _is_function(lines, start, number)
            if not parens and not braces and (sign == ";" or ends_body):
                yield start, number, None
                start, data = None, False
        if start is None and _starts_something(line.code):
            start = number
        if start is not None and not (parens or braces or data) and _is_expansion(lines, start, number):
            yield start, number, None
            start = None
        number += 1
    if start is not None:
        yield start, len(lines) - 1, None


def _starts_something(code: str) -> bool:
    rest = re.split(r"[;}]", code)[-1].strip()
    return bool(rest) and not rest.startswith("*")


def _is_expansion(lines: list[Line], start: int, end: int) -> bool:
    """Whether these lines are a macro's expansion that needs no semicolon: `DEFINE_FREE(...)`, but not the head of a body."""
    if not lines[end].code.rstrip().endswith(")") or not _CAPITALS.match(lines[start].code):
        return False
    following = next((line.code.lstrip() for line in lines[end + 1 :] if line.code.strip()), "")
    return not following.startswith(("{", ";", "="))


def _is_function(lines: list[Line], start: int, end: int) -> bool:
    """Whether what ends with that brace is a function's body rather than a struct's, which goes on to a semicolon."""
    head = " ".join(line.code for line in lines[start : end + 1] if line.directive is None).partition("{")[0]
    return "(" in head and not re.match(r"\s*(?:typedef\b|(?:struct|union|enum)\s+\w*\s*$)", head)


def _identify(text: str, directive: str | None) -> tuple[DeclarationKind, frozenset[str]]:
    if directive in ("define", "undef"):
        match = _DEFINE.match(text)
        return DeclarationKind.MACRO, frozenset({match[1]} if match else ())
    if directive is not None:
        return DeclarationKind.DIRECTIVE, frozenset()
    head, brace, _ = text.partition("{")
    if brace and "(" in head and not head.lstrip().startswith("typedef") and "=" not in head:
        return DeclarationKind.FUNCTION, frozenset(_called(head))
    tags = set(_TAG.findall(text))
    for enumerators in _ENUM_BODY.findall(text):
        tags.update(_ENUMERATOR.findall(re.sub(r"\([^()]*\)", "", enumerators)))
    if text.startswith("typedef"):
        tail = text.rpartition("}")[2] if brace else text
        pointer = _POINTER.search(tail)
        last = _LAST_WORD.search(tail)
        tags.update({pointer[1]} if pointer else {last[1]} if last else set())
        return DeclarationKind.TYPE, frozenset(tags)
    if tags:
        return DeclarationKind.TYPE, frozenset(tags)
    names = _called(text) if "(" in text else []
    if not names:
        last = _LAST_WORD.search(text)
        names = [last[1]] if last else []
    return DeclarationKind.OTHER, frozenset(names)


def _called(head: str) -> list[str]:
    """The name that a prototype, a function's head or a top-level macro declares."""
    pointer = _POINTER.search(head)
    if pointer is not None and pointer.start() < head.find("("):
        return [pointer[1]]
    named = declared_name(head)
    words = [word for word in (named[0], *named[1]) if word not in _TYPES] if named is not None else []
    macro = _EXPANSION.match(head)
    if macro is not None and len(words) > 1:
        words = [word for word in words if word != WORD.match(head)[0]]  # type: ignore[index]
    return words


def _plain(text: str) -> str:
    kept = _COMMENT_OR_STRING.sub(lambda match: " " if match[0].startswith("/") else match[0], text)
    return _SPACE.sub(" ", kept.replace("\\\n", " ")).strip()
