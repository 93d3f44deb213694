"""Lists in pages: `limit`, and a `cursor` that says where the next page begins. A cursor is nobody's to make or to read."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, Generic, TypeVar

import msgspec
from litestar.params import QueryParameter

from kmend.core.errors import MalformedError

T = TypeVar("T")

MAX_LIMIT = 500
Limit = Annotated[int, QueryParameter(name="limit", ge=1, le=MAX_LIMIT, description="How many at most.")]
Cursor = Annotated[str, QueryParameter(name="cursor", max_length=1000, description="`next` of the page before.")]


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A page.

    Attributes:
        next: the cursor of the page after this one; empty on the last.
    """

    items: tuple[T, ...]
    next: str = ""


def write_cursor(*parts: str | int) -> str:
    """Where a page ends, as text for a URL."""
    return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")


def read_named(cursor: str) -> tuple[str, str] | None:
    """A cursor of two texts; None for an empty one.

    Raises:
        MalformedError: it is none of ours.
    """
    if not cursor:
        return None
    parts = _read(cursor)
    if len(parts) != 2 or not isinstance(parts[0], str) or not isinstance(parts[1], str):
        raise _unusable()
    return parts[0], parts[1]


def read_timed(cursor: str) -> tuple[int, str] | None:
    """A cursor of a time and a text.

    Raises:
        MalformedError: it is none of ours.
    """
    if not cursor:
        return None
    parts = _read(cursor)
    if len(parts) != 2 or type(parts[0]) is not int or not isinstance(parts[1], str) or not 0 <= parts[0] < 2**62:
        raise _unusable()
    return parts[0], parts[1]


def _read(cursor: str) -> list[object]:
    try:
        tree = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise _unusable() from None
    if not isinstance(tree, list) or any(isinstance(part, str) and not part.isprintable() for part in tree):
        raise _unusable()
    return tree


def _unusable() -> MalformedError:
    return MalformedError("that is not a cursor", hint="take `next` of the page before as it is")
