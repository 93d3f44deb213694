"""Whole lists as NDJSON or CSV, sent piece by piece: nothing holds all of it."""

from __future__ import annotations

import csv
import enum
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec
from litestar.response import Stream

T = TypeVar("T")

_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


class Format(str, enum.Enum):
    """What an export looks like."""

    NDJSON = "ndjson"
    CSV = "csv"


def export(pages: Callable[[], Iterator[Sequence[Any]]], form: Format, columns: Sequence[str], name: str) -> Stream:
    """An answer that holds every row.

    Args:
        pages: gives the rows, some at a time.
        columns: of the CSV; members of a row.
        name: of the file, without its ending.
    """
    pieces = _csv(pages(), columns) if form is Format.CSV else _ndjson(pages())
    kind = "text/csv; charset=utf-8" if form is Format.CSV else "application/x-ndjson"
    headers = {"content-disposition": f'attachment; filename="{name}.{form.value}"'}
    return Stream(pieces, media_type=kind, headers=headers)


def cell(value: object) -> str:
    """A value for a spreadsheet: text of hosts never becomes a formula there."""
    if value is None:
        return ""
    if isinstance(value, enum.Enum):
        value = value.value
    text = ";".join(f"{name}={item}" for name, item in value.items()) if isinstance(value, dict) else str(value)
    return f"'{text}" if isinstance(value, (str, dict)) and text.startswith(_FORMULAS) else text


def _ndjson(pages: Iterator[Sequence[Any]]) -> Iterator[bytes]:
    for page in pages:
        if page:
            yield b"".join(msgspec.json.encode(row) + b"\n" for row in page)


def _csv(pages: Iterator[Sequence[Any]], columns: Sequence[str]) -> Iterator[bytes]:
    yield _lines([list(columns)])
    for page in pages:
        if page:
            yield _lines([[cell(getattr(row, name)) for name in columns] for row in page])


def _lines(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
