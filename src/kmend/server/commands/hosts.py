"""`kmend-server hosts`: who is there, what they run, what they wait for."""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import click

from kmend.server.commands.client import connect
from kmend.server.commands.output import json_option, print_fields, print_json, print_table, say
from kmend.server.commands.parameters import DURATION
from kmend.server.commands.times import moment, span

_COLUMNS = {"name": "NAME", "ring": "RING", "level_text": "LEVEL", "phase": "PHASE", "release": "KERNEL", "seen": "SEEN",
            "trouble": "TROUBLE", "id": "ID"}  # fmt: skip


@click.group()
def command() -> None:
    """Hosts of the fleet."""


def _filters(function: Any) -> Any:
    for option in reversed((
        click.option("--name", help="Name, with * for any characters."),
        click.option("--ring", help="Of this ring."),
        click.option("--state", type=click.Choice(["enrolled", "expired", "decommissioned"])),
        click.option("--kernel", help="Release or build ID of the running kernel."),
        click.option("--level", type=int, help="Whose level in force is this one; 0: none."),
        click.option("--level-below", type=int, help="Whose level in force is lower."),
        click.option("--phase", help="Where the agent stands, for example soaking."),
        click.option("--tag", help="NAME or NAME=VALUE."),
        click.option("--agent", help="Version of the agent."),
        click.option("--seen-within", type=DURATION, help="Checked in within this time: 15m, 2h, 7d."),
        click.option("--seen-before", type=DURATION, help="Has not checked in for this time."),
        click.option("--enrolled-within", type=DURATION, help="Enrolled within this time."),
        click.option("--trouble", help="The word of its worst remark, or 'any'."),
    )):  # fmt: skip
        function = option(function)
    return function


@command.command("list")
@_filters
@click.option("--limit", type=click.IntRange(1), default=200, show_default=True, help="How many at most.")
@click.option("--format", "form", type=click.Choice(["ndjson", "csv"]), help="Everything, as NDJSON or CSV.")
@click.option("--count", is_flag=True, help="Only how many there are.")
@json_option
@click.pass_context
def list_(
    context: click.Context, /, limit: int, form: str | None, count: bool, as_json: bool, **filters: object
) -> None:
    """Hosts by name; what is given must hold, all of it."""
    client = connect(context)
    if form is not None:
        for piece in client.lines("hosts", "export", format=form, **filters):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    if count:
        found = client.get("hosts", "count", **filters)
        click.echo(found["count"]) if not as_json else print_json(found)
        return
    rows = list(islice(client.every("hosts", **filters), limit + 1))
    if as_json:
        print_json(rows[:limit])
        return
    now = int(time.time())
    print_table([_shown(row, now) for row in rows[:limit]], _COLUMNS)
    if len(rows) > limit:
        say("there are more; --limit or --format shows them, --count counts them")


@command.command()
@click.argument("host")
@json_option
@click.pass_context
def show(context: click.Context, host: str, as_json: bool) -> None:
    """One host, by ID or by a name that is unique."""
    client = connect(context)
    row = client.get("hosts", id_of(client, host))
    if as_json:
        print_json(row)
        return
    titles = {"id": "ID", "name": "name", "ring": "ring", "state": "state", "release": "kernel", "build_id": "build ID",
              "level_text": "level", "module": "module", "phase": "phase", "trouble": "trouble", "seen": "last seen",
              "due": "next check-in", "enrolled": "enrolled", "address": "address", "hardware": "hardware", "role": "role",
              "distro": "distribution", "agent": "agent", "tags": "tags", "parent": "copy of"}  # fmt: skip
    print_fields(_shown(row, int(time.time())), titles)


@command.command()
@click.argument("host")
@json_option
@click.pass_context
def why(context: click.Context, host: str, as_json: bool) -> None:
    """What each rollout that goes on has to do with a host: its grant, or what it waits for."""
    client = connect(context)
    rows = client.get("hosts", id_of(client, host), "why")
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo("no rollout that goes on concerns its kernel build")
    for row in rows:
        click.echo(f"{row['name']} ({row['status']}), level {row['level']}: {row['state']}: {row['reason']}")


@command.command()
@click.argument("host")
@click.argument("ring")
@json_option
@click.pass_context
def move(context: click.Context, host: str, ring: str, as_json: bool) -> None:
    """Put a host into another ring; nothing that is loaded changes."""
    client = connect(context)
    _done(client.post("hosts", id_of(client, host), "move", body={"ring": ring}), as_json)


@command.command()
@click.argument("host")
@click.argument("tags", nargs=-1)
@click.option("--remove", multiple=True, help="The name of a tag to take away.")
@json_option
@click.pass_context
def tag(context: click.Context, host: str, tags: tuple[str, ...], remove: tuple[str, ...], as_json: bool) -> None:
    """Give a host tags: NAME=VALUE ..."""
    client = connect(context)
    host_id = id_of(client, host)
    wanted = dict(client.get("hosts", host_id)["tags"])
    for item in tags:
        name, sign, value = item.partition("=")
        if not sign:
            raise click.UsageError(f"{item!r} is not NAME=VALUE")
        wanted[name] = value
    for name in remove:
        wanted.pop(name, None)
    _done(client.put("hosts", host_id, "tags", body={"tags": wanted}), as_json)


@command.command()
@click.argument("host")
@click.option("--reason", default="", help="For the audit log.")
@json_option
@click.pass_context
def decommission(context: click.Context, host: str, reason: str, as_json: bool) -> None:
    """Take a host out of the fleet: its credential is worth nothing from now on. What it runs, it goes on running."""
    client = connect(context)
    _done(client.post("hosts", id_of(client, host), "decommission", body={"reason": reason}), as_json)


@command.command()
@click.argument("host")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write each as it was signed into this folder.")
@json_option
@click.pass_context
def reports(context: click.Context, host: str, limit: int, output: Path | None, as_json: bool) -> None:
    """What a host has reported, with its signature: evidence that the server cannot have made up."""
    client = connect(context)
    rows = client.get("hosts", id_of(client, host), "reports", limit=limit)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        for row in rows:
            (output / f"{row['counter']}.json").write_bytes(base64.b64decode(row["body"]))
            (output / f"{row['counter']}.signature").write_text(row["signature"] + "\n")
    if as_json:
        print_json(rows)
        return
    shown = [{**row, "at": moment(row["received_at"])} for row in rows]
    print_table(shown, {"counter": "CHECK-IN", "at": "RECEIVED", "digest": "DIGEST"})


def id_of(client: Any, text: str) -> str:
    """The ID of a host that is named by it, or by a name that only one has."""
    if len(text) == 32 and not set(text) - set("0123456789abcdef"):
        return text
    rows = client.get("hosts", name=text.replace("*", ""), limit=2)["items"]
    if len(rows) != 1:
        count = "no host has" if not rows else "several hosts have"
        raise click.UsageError(f"{count} the name {text}; kmend-server hosts list --name shows IDs")
    return str(rows[0]["id"])


def _shown(row: Mapping[str, Any], now: int) -> dict[str, Any]:
    level = str(row["level"] or "none")
    if row["trying"]:
        level += f" (trying {row['trying']})"
    return {
        **row,
        "level_text": level,
        "seen": f"{span(max(0, now - row['last_seen']))} ago",
        "due": moment(row["next_due"]),
        "enrolled": moment(row["enrolled_at"]),
    }


def _done(row: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(row)
    else:
        tags = ", ".join(f"{name}={value}" for name, value in row["tags"].items())
        click.echo(f"{row['name']} ({row['id']}): ring {row['ring']}, {row['state']}" + (f", {tags}" if tags else ""))
