"""Frozen dataclasses to JSON documents and back, strictly.

Reading checks every value against the dataclass's own type hints, bounds size and nesting, refuses duplicate keys and
non-finite numbers, and ignores members it does not know (a newer writer may add some). Writing is canonical: sorted keys,
no white space, UTF-8, so that equal values have equal bytes and digests.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from functools import lru_cache
from pathlib import PurePath
from typing import Any, TypeVar

from kmend.core.errors import MalformedError

T = TypeVar("T")

MAX_DEPTH = 16
DEFAULT_MAX_BYTES = 4 * 1024 * 1024
_LATER = "kmend.later"
LATER = types.MappingProxyType({_LATER: True})
"""`dataclasses.field(default=..., metadata=LATER)`: a member that came after a document's form was first in use.

It is left out of the document while it holds its default, so that a document which has nothing to say there keeps the bytes and
the digest that it always had.
"""


def encode(value: object) -> bytes:
    """The canonical JSON bytes of a dataclass value."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def pretty(value: object) -> str:
    """The same document, indented for people; `--json` output uses it."""
    return json.dumps(plain(value), sort_keys=True, indent=2, ensure_ascii=False)


def plain(value: object) -> object:
    """`value` as JSON's own types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if _LATER not in field.metadata or getattr(value, field.name) != field.default
        }
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    return value


def decode(kind: type[T], content: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES) -> T:
    """Read one document.

    Args:
        kind: the dataclass that the document must be.
        content: the bytes from outside.
        max_bytes: refuse anything longer before parsing it.

    Raises:
        MalformedError: not JSON, too large, too deep, or not of that form; the message names the member.
    """
    if len(content) > max_bytes:
        raise MalformedError(f"the document is {len(content)} bytes; at most {max_bytes} are accepted")
    try:
        tree = json.loads(content.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
        if b"\\u" in content:
            json.dumps(tree, ensure_ascii=False).encode()  # half a surrogate pair is text that cannot be written again
    except (ValueError, RecursionError) as problem:
        raise MalformedError(f"not a valid JSON document: {problem}") from None
    return from_plain(kind, tree)


def from_plain(kind: type[T], tree: object) -> T:
    """Like `decode`, from JSON's own types."""
    return typing.cast(T, _convert(kind, tree, kind.__name__, 0))


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("a member is given twice")
    return tree


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")


@lru_cache(maxsize=256)
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _convert(kind: Any, value: Any, where: str, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise MalformedError(f"{where}: nested too deeply")
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        return _convert_union(typing.get_args(kind), value, where, depth)
    if origin is tuple:
        item = typing.get_args(kind)[0]
        if not isinstance(value, list):
            raise MalformedError(f"{where}: a list is expected, not {_name(value)}")
        return tuple(_convert(item, part, f"{where}[{number}]", depth + 1) for number, part in enumerate(value))
    if origin is dict:
        item = typing.get_args(kind)[1]
        if not isinstance(value, dict):
            raise MalformedError(f"{where}: an object is expected, not {_name(value)}")
        return {key: _convert(item, part, f"{where}.{key}", depth + 1) for key, part in value.items()}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            raise MalformedError(f"{where}: {value!r} is not one of {', '.join(str(m.value) for m in kind)}") from None
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(typing.cast(type, kind), value, where, depth)
    if kind is float and type(value) is int:
        return float(value)  # JSON has one kind of number
    if type(value) is not kind:
        raise MalformedError(f"{where}: {getattr(kind, '__name__', kind)} is expected, not {_name(value)}")
    return value


def _convert_union(kinds: tuple[Any, ...], value: Any, where: str, depth: int) -> object:
    if value is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    if len(others) != 1:
        raise TypeError(f"{where}: only unions with None can be read")
    return _convert(others[0], value, where, depth)


def _convert_dataclass(kind: type, value: Any, where: str, depth: int) -> object:
    if not isinstance(value, dict):
        raise MalformedError(f"{where}: an object is expected, not {_name(value)}")
    hints = _hints(kind)
    members = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            members[field.name] = _convert(hints[field.name], value[field.name], f"{where}.{field.name}", depth + 1)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise MalformedError(f"{where}.{field.name} is missing")
    try:
        return kind(**members)
    except MalformedError as problem:
        raise MalformedError(f"{where}: {problem.message}", hint=problem.hint) from None


def _name(value: object) -> str:
    return "null" if value is None else type(value).__name__
