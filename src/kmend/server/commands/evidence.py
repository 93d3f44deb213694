"""`kmend-server evidence`: packs for auditors. Only `pack` speaks to a server; the rest needs neither server nor network."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import click

from kmend.core import durable
from kmend.core.errors import SystemProblemError
from kmend.server.access.audit import Head
from kmend.server.commands.client import connect
from kmend.server.commands.output import json_option, print_fields, print_json, print_table, say
from kmend.server.commands.times import moment
from kmend.server.evidence import showing, signing
from kmend.server.evidence.countersigning import countersign
from kmend.server.evidence.reading import Reader
from kmend.server.evidence.verifying import Outcome, Trusted
from kmend.server.evidence.verifying import verify as verify_pack

MAX_ROOT_BYTES = 512_000
DATE = click.DateTime(formats=["%Y-%m-%d"])
FILE = click.Path(path_type=Path)


@click.group()
def command() -> None:
    """Evidence for auditors: what the fleet ran, what was open, who approved what, and what proves it."""


@command.command()
@click.option("--from", "first", type=DATE, required=True, help="First day of the period, UTC.")
@click.option("--to", "last", type=DATE, required=True, help="Last day of the period, UTC; all of it.")
@click.option("--ring", default="", help="Only hosts of this ring.")
@click.option("-o", "--output", type=FILE, required=True, help="The file to write; a tar.")
@json_option
@click.pass_context
def pack(
    context: click.Context, first: datetime.datetime, last: datetime.datetime, ring: str, output: Path, as_json: bool
) -> None:
    """Have a pack made by the server."""
    since, until = (int(day.replace(tzinfo=datetime.timezone.utc).timestamp()) for day in (first, last))
    if since < 0:
        raise click.UsageError("there was nothing before 1970")
    pieces = connect(context).lines("evidence", "pack", **{"from": since, "to": until + 86_400, "ring": ring})
    unfinished = output.with_name(f"{output.name}.part")
    try:
        with unfinished.open("wb") as stream:
            for piece in pieces:
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
        reader = Reader(unfinished)
        about = reader.about()
        unfinished.replace(output)
    except OSError as problem:
        raise SystemProblemError(f"cannot write {output}: {problem.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    if as_json:
        print_json(about)
        return
    click.echo(f"{output}: {about.hosts} hosts, {about.reports} reports, {output.stat().st_size} bytes")
    say(f"write down the head of the audit log: {about.audit.number}:{about.audit.digest}")
    say(f"then verify it, and countersign it with a key that is not on the server: kmend-server evidence sign {output}")


@command.command()
@click.argument("file", metavar="PACK", type=FILE)
@click.option("--root", type=FILE, required=True, help="The trust root, root.json, as the publisher hands it out.")
@click.option("--key", "keys", type=FILE, multiple=True, help="Public key of a person who may countersign.")
@click.option(
    "--head", "heads", multiple=True, help="NUMBER:DIGEST of a record of the audit log, as it was kept earlier."
)
@click.option(
    "--server-alone", is_flag=True, help="Ask for no countersignature: what only the server says is believed."
)
@click.option("--gaps", is_flag=True, help="Name reports of hosts that are missing, and go on: that is then no fault.")
@json_option
def verify(
    file: Path,
    root: Path,
    keys: tuple[Path, ...],
    heads: tuple[str, ...],
    server_alone: bool,
    gaps: bool,
    as_json: bool,
) -> int:
    """Verify a pack, without a server and without a network; exit status 1 if anything is wrong.

    A person must have countersigned it, with one of the keys that the trust root keeps offline (root, targets, recall), or with
    one that --key names.
    """
    trusted = Trusted(
        durable.read_bounded(root, max_bytes=MAX_ROOT_BYTES),
        {signing.public_key(path): path.name for path in keys},
        tuple(_head(text) for text in heads),
        server_alone,
        gaps,
    )
    found = verify_pack(file, trusted)
    if as_json:
        print_json(found)
    else:
        _print(file, found)
    return 0 if found.verified else 1


@command.command()
@click.argument("file", metavar="PACK", type=FILE)
@click.option("--key", type=FILE, required=True, help="Private ed25519 key, as kmend-factory keys init makes them.")
@click.option("--name", default="", help="Who signs.")
@click.option("--note", default="", help="What is stated by it, in one line.")
@json_option
def sign(file: Path, key: Path, name: str, note: str, as_json: bool) -> None:
    """Countersign a pack, with a key that is not on the server. Verify it before."""
    found = countersign(file, signing.private_key(key, _passphrase), name=name, note=note, at=int(time.time()))
    if as_json:
        print_json(found)
    else:
        click.echo(f"countersigned by {found.public_key}")


@command.command()
@click.argument("file", metavar="PACK", type=FILE)
@click.option("--host", default="", help="The timeline of this host: its ID, or its name.")
@click.option("--cve", default="", help="How hosts stood to this CVE.")
@json_option
def show(file: Path, host: str, cve: str, as_json: bool) -> None:
    """What a pack says; nothing is verified by it."""
    reader = Reader(file)
    if not host and not cve:
        about = reader.about()
        if as_json:
            print_json(about)
        else:
            _print_about(showing.summary(about))
    elif cve:
        rows = list(showing.of_cve(reader, cve.strip().upper(), host))
        if as_json:
            print_json(rows)
            return
        if not rows:
            click.echo(f"{cve.strip().upper()} was open on no host in the period")
            return
        print_table(
            [{**showing.plain_row(row), **{name: moment(getattr(row, name)) for name in showing.TIMES}} for row in rows],
            {"name": "HOST", "published": "PUBLISHED", "detected": "DETECTED", "fix_available": "FIX", "closed_at": "CLOSED",
             "closed_by": "BY", "mitigated": "MITIGATED", "reopened": "REOPENED", "since_published": "DAYS",
             "since_fix": "DAYS SINCE FIX"},
        )  # fmt: skip
    else:
        found = showing.of_host(reader, host)
        if as_json:
            print_json(found)
            return
        rows_ = [{**showing.plain_row(turn), "when": moment(turn.at)} for turn in found.turns]
        print_table(rows_, {"when": "AT", "counter": "REPORT", "by": "BY", "closed": "CLOSED", "reopened": "REOPENED",
                            "open": "OPEN"})  # fmt: skip


def _print(file: Path, found: Outcome) -> None:
    rows = [
        {"check": item.check, "good": "good" if item.good else "WRONG", "message": item.message}
        for item in found.findings
    ]
    print_table(rows, {"check": "CHECK", "good": "", "message": "WHAT WAS FOUND"})
    click.echo(f"{file}: {'verified' if found.verified else 'NOT verified'}")


def _print_about(row: dict[str, object]) -> None:
    print_fields(row, {name: name for name in row})


def _head(text: str) -> Head:
    number, _, digest = text.partition(":")
    if not number.isascii() or not number.isdigit() or len(digest) != 64:
        raise click.UsageError("--head is NUMBER:DIGEST, as `kmend-server audit head` prints it")
    return Head(int(number), digest)


def _passphrase(path: Path) -> bytes:
    text: str = click.prompt(f"Passphrase of {path}", hide_input=True, err=True)
    return text.encode()
