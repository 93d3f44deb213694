"""What every command of the factory prints the same way: results, one JSON document, errors, steps with their time."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click

from kmend.core.document import plain
from kmend.core.errors import KmendError

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")


def print_json(value: object) -> None:
    """One JSON document on standard output; messages go to standard error."""
    click.echo(json.dumps(plain(value), indent=2, sort_keys=True, ensure_ascii=False))


def say(message: str) -> None:
    """A line for people, on standard error, so that standard output stays the result's."""
    click.echo(message, err=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Say what is being done and, when it is done, how long it took."""
    start = time.monotonic()
    say(f"- {title} ...")
    yield
    say(f"  {title}: {time.monotonic() - start:.1f} s")


def wants_json() -> bool:
    """Whether the command line asks for a JSON document; what stands after `--` belongs to another program."""
    words = sys.argv[1:]
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def print_error_json(kind: str, message: str, hint: str) -> None:
    """The document that stands in the place of a result."""
    print_json({"error": {"kind": kind, "message": message, "hint": hint}})


def report_error(problem: KmendError) -> int:
    """Print an error for people, as JSON too when `--json` was asked for; returns the exit status it calls for."""
    if wants_json():
        print_error_json(problem.kind, problem.message, problem.hint)
    say_error(problem)
    return problem.exit_status


def say_error(problem: KmendError) -> None:
    """An error for people, on standard error."""
    click.echo(click.style("error: ", fg="red", bold=True) + problem.message, err=True)
    if problem.hint:
        click.echo(f"hint: {problem.hint}", err=True)
    if logging.getLogger().isEnabledFor(logging.DEBUG):
        traceback.print_exception(problem)
