"""`kmend-server rings` and `keys`: groups of hosts, and how hosts come into them."""

from __future__ import annotations

import time

import click

from kmend.server.commands.client import connect
from kmend.server.commands.output import json_option, print_json, print_table, say
from kmend.server.commands.parameters import DURATION
from kmend.server.commands.times import moment


@click.group()
def rings() -> None:
    """Groups of hosts, in the order in which they receive new levels."""


@rings.command("list")
@json_option
@click.pass_context
def list_rings(context: click.Context, as_json: bool) -> None:
    """Every ring, in its order."""
    rows = connect(context).get("rings")
    if as_json:
        print_json(rows)
    else:
        print_table(rows, {"name": "RING", "position": "POSITION", "hosts": "HOSTS", "description": "DESCRIPTION"})


@rings.command("set")
@click.argument("name")
@click.option("--position", type=click.IntRange(0, 10_000), default=100, show_default=True, help="Lower comes first.")
@click.option("--description", default="")
@click.option(
    "--exposed/--not-exposed",
    default=None,
    help="Whether the internet reaches its hosts; without either nobody has said, and deadlines take it for yes.",
)
@json_option
@click.pass_context
def set_ring(
    context: click.Context, name: str, position: int, description: str, exposed: bool | None, as_json: bool
) -> None:
    """Make a ring, or change one."""
    body = {"position": position, "description": description, "exposed": exposed}
    row = connect(context).put("rings", name, body=body)
    if as_json:
        print_json(row)
    else:
        click.echo(f"ring {row['name']}: position {row['position']}, {row['hosts']} hosts")


@rings.command("remove")
@click.argument("name")
@click.pass_context
def remove_ring(context: click.Context, name: str) -> None:
    """Remove a ring without hosts."""
    connect(context).delete("rings", name)


@click.group()
def keys() -> None:
    """Enrolment keys: what takes a new host in."""


@keys.command("create")
@click.option("--ring", default="default", show_default=True, help="Where hosts come that enrol with it.")
@click.option("--expires", type=DURATION, default="7d", show_default=True, help="15m, 36h, 7d.")
@click.option("--uses", type=click.IntRange(1), help="How many hosts; without it any number.")
@click.option("--network", "networks", multiple=True, help="Only hosts from there, like 10.0.0.0/8.")
@click.option("--tag", "tags", multiple=True, help="NAME=VALUE, given to every host that enrols with it.")
@click.option("--ephemeral", type=DURATION, help="Hosts that are silent for so long are let go.")
@click.option("--note", default="", help="For people.")
@json_option
@click.pass_context
def create_key(
    context: click.Context,
    ring: str,
    expires: int,
    uses: int | None,
    networks: tuple[str, ...],
    tags: tuple[str, ...],
    ephemeral: int | None,
    note: str,
    as_json: bool,
) -> None:
    """Make an enrolment key, and print the one line that takes a host in. It is shown this once.

    The line pins this server's authority and the digest of the installing script, which the publisher's offline keys have signed.
    """
    pairs = [item.partition("=") for item in tags]
    if any(not sign for _, sign, _ in pairs):
        raise click.UsageError("tags are NAME=VALUE")
    body = {"ring": ring, "expires_in": expires, "note": note, "networks": list(networks),
            "tags": {name: value for name, _, value in pairs}, "max_uses": uses, "ephemeral_seconds": ephemeral}  # fmt: skip
    made = connect(context).post("enrolment-keys", body=body)
    if as_json:
        print_json(made)
        return
    say(f"enrolment key {made['key']['id']} for the ring {ring}, until {moment(made['key']['expires_at'])} UTC")
    if made["line"]:
        say("on each host, as root:")
        click.echo(made["line"])
        return
    say(f"there is no line to install by: {made['remark']}")
    say("on a host that has the agent: KMEND_ENROLMENT_KEY=... kmend enrol --server URL --pin PIN")
    click.echo(made["secret"])


@keys.command("list")
@json_option
@click.pass_context
def list_keys(context: click.Context, as_json: bool) -> None:
    """Enrolment keys, the newest first; never their secrets."""
    rows = list(connect(context).every("enrolment-keys"))
    if as_json:
        print_json(rows)
        return
    now = int(time.time())
    shown = [{
        **row,
        "until": moment(row["expires_at"]),
        "count": f"{row['uses']}" + (f" of {row['max_uses']}" if row["max_uses"] else ""),
        "state": "revoked" if row["revoked_at"] else "expired" if row["expires_at"] <= now else "good",
    } for row in rows]  # fmt: skip
    print_table(
        shown, {"id": "ID", "ring": "RING", "state": "STATE", "until": "UNTIL", "count": "USED", "note": "NOTE"}
    )


@keys.command("revoke")
@click.argument("key")
@click.pass_context
def revoke_key(context: click.Context, key: str) -> None:
    """Let nobody enrol with a key any more; hosts that did stay."""
    connect(context).delete("enrolment-keys", key)
