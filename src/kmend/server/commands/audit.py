"""`kmend-server audit`: who did what, exported and verified."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import click

from kmend.core.errors import SystemProblemError
from kmend.server.access import audit
from kmend.server.access.audit import MAX_LINE, Head
from kmend.server.commands.client import connect
from kmend.server.commands.output import json_option, print_json, print_table
from kmend.server.commands.times import moment


@click.group()
def command() -> None:
    """The audit log: append-only, each record chained to the one before."""


@command.command("list")
@click.option("--after", type=click.IntRange(0), default=0, help="Only records after this number.")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@json_option
@click.pass_context
def list_(context: click.Context, after: int, limit: int, as_json: bool) -> None:
    """Records, in their order."""
    rows = connect(context).get("audit", after=after, limit=limit)
    if as_json:
        print_json(rows)
        return
    shown = [{**row, "when": moment(row["at"])} for row in rows]
    print_table(shown, {"number": "NUMBER", "when": "AT", "actor": "ACTOR", "action": "ACTION", "subject": "SUBJECT",
                        "detail": "DETAIL"})  # fmt: skip


@command.command()
@json_option
@click.pass_context
def head(context: click.Context, as_json: bool) -> None:
    """Number and digest of the newest record: keep them elsewhere, to verify by later."""
    row = connect(context).get("audit", "head")
    if as_json:
        print_json(row)
    else:
        click.echo(f"{row['number']}:{row['digest']}")


@command.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: standard output.")
@click.option("--format", "form", type=click.Choice(["ndjson", "csv"]), default="ndjson", show_default=True)
@click.pass_context
def export(context: click.Context, output: Path | None, form: str) -> None:
    """The whole log. NDJSON can be verified offline."""
    pieces = connect(context).lines("audit", "export", format=form)
    try:
        with output.open("wb") if output is not None else nullcontext(sys.stdout.buffer) as stream:
            for piece in pieces:
                stream.write(piece)
            stream.flush()
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise SystemProblemError(f"cannot write {output}: {problem.strerror}") from None


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--known", help="NUMBER:DIGEST of a record that must be in it, as `audit head` printed it.")
@json_option
def verify(file: Path, known: str | None, as_json: bool) -> None:
    """Verify an export, without a server: nothing was changed, taken out, put in or put elsewhere."""
    number, _, digest = (known or "").partition(":")
    if known is not None and (not number.isdigit() or len(digest) != 64):
        raise click.UsageError("--known is NUMBER:DIGEST")
    found = audit.verify(_lines(file), known=Head(int(number), digest) if known is not None else None)
    if as_json:
        print_json(found)
    else:
        click.echo(f"{found.number} records, whole and in order; the last is {found.digest}")


def _lines(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb") as stream:
            while line := stream.readline(MAX_LINE + 1):
                yield line
    except OSError as problem:
        raise SystemProblemError(f"cannot read {file}: {problem.strerror}") from None
