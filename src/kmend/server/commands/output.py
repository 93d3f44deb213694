"""What every command of the server prints the same way: results, one JSON document, tables, errors."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping, Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kmend.core.document import plain
from kmend.core.errors import KmendError

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")


def print_json(value: object) -> None:
    """One JSON document on standard output; messages go to standard error."""
    click.echo(json.dumps(plain(value), indent=2, sort_keys=True, ensure_ascii=False))


def print_table(rows: Sequence[Mapping[str, object]], columns: Mapping[str, str]) -> None:
    """Rows for people.

    Args:
        columns: member of a row -> title.
    """
    if not rows:
        click.echo("none")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in columns.values():
        table.add_column(title, overflow="fold")
    for row in rows:
        # What hosts say of themselves is text, never markup or a terminal's control sequence.
        table.add_row(*(Text(_cell(row.get(name))) for name in columns))
    width = None if sys.stdout.isatty() else 200
    Console(width=width, soft_wrap=False).print(table)


def print_fields(row: Mapping[str, object], titles: Mapping[str, str]) -> None:
    """One thing for people: a line for each member that says something."""
    width = max(len(title) for title in titles.values())
    for name, title in titles.items():
        text = _cell(row.get(name))
        if text:
            click.echo(f"{title + ':':<{width + 1}} {text}")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_cell(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(item) for item in value)
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def say(message: str) -> None:
    """A line for people, on standard error, so that standard output stays the result's."""
    click.echo(message, err=True)


def wants_json() -> bool:
    """Whether the command line asks for a JSON document."""
    return "--json" in sys.argv[1:]


def print_error_json(kind: str, message: str, hint: str) -> None:
    """The document that stands in the place of a result."""
    print_json({"error": {"kind": kind, "message": message, "hint": hint}})


def report_error(problem: KmendError) -> int:
    """Print an error for people, as JSON too when `--json` was asked for; returns the exit status it calls for."""
    if wants_json():
        print_error_json(problem.kind, problem.message, problem.hint)
    click.echo(click.style("error: ", fg="red", bold=True) + problem.message, err=True)
    if problem.hint:
        click.echo(f"hint: {problem.hint}", err=True)
    if logging.getLogger().isEnabledFor(logging.DEBUG):
        traceback.print_exception(problem)
    return problem.exit_status
