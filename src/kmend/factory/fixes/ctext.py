"""C source as text: where comments and strings are, which lines the preprocessor takes, where a new line may be put in.

Not a C parser: enough of translation phases 1 to 3 (ISO C, 5.1.1.2) to tell code from what only looks like it.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass

_SKIPPED = re.compile(
    r"""/\*.*?(?:\*/|\Z)            # block comment
      | //(?:\\\n|[^\n])*           # line comment
      | "(?:\\.|[^"\\\n])*"         # string
      | '(?:\\.|[^'\\\n])*'         # character
    """,
    re.DOTALL | re.VERBOSE,
)
_NOT_NEWLINE = re.compile(r"[^\n]")
_DIRECTIVE = re.compile(r"[ \t]*#[ \t]*([a-z]*)")


@dataclass(frozen=True, slots=True)
class Line:
    """What is known of a physical line.

    Attributes:
        code: its text with comments blanked and strings emptied, without the newline.
        directive: the preprocessor directive's name on the line where it starts, `define` on all lines of a macro; None for code.
        starts_clean: no comment, string or continued line reaches into it from the line before.
    """

    code: str
    directive: str | None
    starts_clean: bool


def scan(content: bytes) -> list[Line]:
    """The lines of a C source file."""
    text = content.decode("latin-1")
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    unclean: set[int] = set()

    def blank(match: re.Match[str]) -> str:
        skipped = match[0]
        if "\n" in skipped:
            first = bisect.bisect_right(starts, match.start()) - 1
            unclean.update(range(first + 1, first + 1 + skipped.count("\n")))
        if skipped[0] == "/":
            return _NOT_NEWLINE.sub(" ", skipped)
        return skipped[0] + _NOT_NEWLINE.sub(" ", skipped[1:-1]) + skipped[-1]

    masked = _SKIPPED.sub(blank, text)
    lines: list[Line] = []
    directive: str | None = None
    continued = False
    originals = text.split("\n")
    for number, code in enumerate(masked.split("\n")):
        clean = number not in unclean and not continued
        if not (continued and directive is not None):
            match = _DIRECTIVE.match(code) if not continued else None
            directive = match[1] if match else None
        lines.append(Line(code, directive, clean))
        continued = originals[number].endswith("\\")
    if text.endswith("\n") or not text:
        lines.pop()
    return lines


def splice_points(lines: list[Line]) -> list[bool]:
    """For each line, whether a preprocessor directive may be put before it without changing what the code means.

    Not inside a comment, a string, a continued line or parentheses (a directive among a macro's arguments is undefined,
    ISO C 6.10.3p11), nor right after a word, which may be the name of a macro whose arguments are still to come.
    """
    points: list[bool] = []
    depth = 0
    entered: list[int] = []
    before = ";"
    for line in lines:
        points.append(line.starts_clean and depth == 0 and not (before.isalnum() or before == "_"))
        if line.directive is None:
            depth = max(0, depth + line.code.count("(") - line.code.count(")"))
            stripped = line.code.rstrip(" \t\\")
            before = stripped[-1] if stripped else before
        elif line.starts_clean:
            before = ";"
            if line.directive in ("if", "ifdef", "ifndef"):
                entered.append(depth)
            elif line.directive in ("else", "elif") and entered:
                depth = entered[-1]
            elif line.directive == "endif" and entered:
                entered.pop()
    return points
