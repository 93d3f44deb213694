"""Which lines of a C file this kernel's configuration leaves out: `#if` groups, as far as `CONFIG_` options decide them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from kmend.factory.fixes.ctext import scan

_TOKEN = re.compile(r"\s*(defined\b|\w+|&&|\|\||[!()]|==|!=|<=|>=|<|>)")
_ENABLED = frozenset({"IS_ENABLED", "IS_REACHABLE", "IS_BUILTIN", "IS_MODULE"})
_MAX_TOKENS = 200

Truth = bool | None
"""None: the configuration alone does not say."""


def left_out(content: bytes, config: Mapping[str, str], *, module: bool) -> dict[int, str]:
    """Line number, from 1 -> the condition that keeps it out, for every line that certainly is.

    Args:
        config: option -> value, `n` if it is not set.
        module: whether the file is compiled for a module (`MODULE` is defined).
    """
    found: dict[int, str] = {}
    texts = content.decode("latin-1").split("\n")
    stack: list[tuple[Truth, Truth, str]] = []  # this branch's truth, whether one before it was taken, the condition
    for number, line in enumerate(scan(content), start=1):
        directive = line.directive if line.starts_clean else None
        if directive in ("if", "ifdef", "ifndef"):
            text = _condition(line.code)
            truth = _decide(directive, text, config, module)
            stack.append((truth, truth, f"#{directive} {text}"))
        elif directive in ("elif", "else") and stack:
            _, taken, told = stack[-1]
            text = _condition(line.code) if directive == "elif" else ""
            own: Truth = _decide("if", text, config, module) if directive == "elif" else True
            truth = False if taken else (own if taken is False or own is False else None)
            stack[-1] = (truth, _or(taken, truth), f"#elif {text}" if directive == "elif" else f"#else of {told}")
        elif directive == "endif" and stack:
            stack.pop()
        elif number <= len(texts):
            told = next((told for truth, _, told in stack if truth is False), "")
            if told:
                found[number] = told
    return found


def _condition(code: str) -> str:
    return " ".join(code.lstrip().lstrip("#").split()[1:])


def _decide(directive: str | None, text: str, config: Mapping[str, str], module: bool) -> Truth:
    if directive == "ifdef":
        return _defined(text, config, module)
    if directive == "ifndef":
        return _not(_defined(text, config, module))
    return _Expression(text, config, module).truth()


def _defined(name: str, config: Mapping[str, str], module: bool) -> Truth:
    if name == "MODULE":
        return module
    if not name.startswith("CONFIG_"):
        return None
    value = config.get(name)
    if value is None and name.endswith("_MODULE"):
        return config.get(name.removesuffix("_MODULE")) == "m"
    return value not in (None, "n", "m")


def _not(truth: Truth) -> Truth:
    return None if truth is None else not truth


def _or(left: Truth, right: Truth) -> Truth:
    return True if left or right else (None if left is None or right is None else False)


def _and(left: Truth, right: Truth) -> Truth:
    return _not(_or(_not(left), _not(right)))


class _Expression:
    """`#if`'s expression, three-valued; anything unknown in it is taken as undecided."""

    def __init__(self, text: str, config: Mapping[str, str], module: bool) -> None:
        self._config = config
        self._module = module
        self._tokens: list[str] = []
        at = 0
        while at < len(text) and (match := _TOKEN.match(text, at)):
            self._tokens.append(match[1])
            at = match.end()
        self._whole = not text[at:].strip() and len(self._tokens) <= _MAX_TOKENS

    def truth(self) -> Truth:
        """What the configuration makes of it."""
        if not self._whole or not self._tokens:
            return None
        try:
            found = self._either()
        except IndexError:
            return None
        return found if not self._tokens else None

    def _next(self) -> str:
        return self._tokens.pop(0)

    def _either(self) -> Truth:
        found = self._both()
        while self._tokens[:1] == ["||"]:
            self._next()
            found = _or(found, self._both())
        return found

    def _both(self) -> Truth:
        found = self._compared()
        while self._tokens[:1] == ["&&"]:
            self._next()
            found = _and(found, self._compared())
        return found

    def _compared(self) -> Truth:
        found = self._one()
        if self._tokens[:1] and self._tokens[0] in ("==", "!=", "<", ">", "<=", ">="):
            self._next()
            self._one()
            return None
        return found

    def _one(self) -> Truth:
        word = self._next()
        if word == "!":
            return _not(self._one())
        if word == "(":
            found = self._either()
            self._next()
            return found
        if word == "defined":
            return _defined(self._argument(), self._config, self._module)
        if word in _ENABLED:
            value = self._config.get(self._argument(), "n")
            meant = {"IS_BUILTIN": ("y",), "IS_MODULE": ("m",)}.get(word, ("y", "m"))
            return value in meant if word != "IS_REACHABLE" or value != "m" else None
        if word.isdigit():
            return int(word) != 0
        if word.startswith("CONFIG_"):
            value = self._config.get(word, "n")
            return None if value not in ("y", "n", "m", "0") else value == "y"
        if self._tokens[:1] == ["("]:
            self._skip_arguments()
        return None

    def _argument(self) -> str:
        name = self._next()
        if name != "(":
            return name
        name = self._next()
        self._next()
        return name

    def _skip_arguments(self) -> None:
        depth = 0
        while True:
            word = self._next()
            depth += (word == "(") - (word == ")")
            if depth == 0:
                return
