"""`kmend-server tokens` and `channels`: who may do what, and who is told of what."""

from __future__ import annotations

import time

import click

from kmend.server.access.permissions import Role
from kmend.server.commands.client import connect
from kmend.server.commands.output import json_option, print_json, print_table, say
from kmend.server.commands.parameters import DURATION
from kmend.server.commands.times import moment
from kmend.server.notices.events import Event


@click.group()
def tokens() -> None:
    """Tokens of people and programs."""


@tokens.command("create")
@click.argument("name")
@click.option("--role", "roles", multiple=True, required=True, type=click.Choice([role.value for role in Role]))
@click.option("--ring", "rings", multiple=True, help="Bind it to this ring; several may be given.")
@click.option("--expires", type=DURATION, default="90d", show_default=True, help="36h, 7d, 52w.")
@json_option
@click.pass_context
def create_token(
    context: click.Context, name: str, roles: tuple[str, ...], rings: tuple[str, ...], expires: int, as_json: bool
) -> None:
    """Make a token. It is shown this once."""
    body = {"name": name, "roles": list(roles), "rings": list(rings), "expires_in": expires}
    made = connect(context).post("tokens", body=body)
    if as_json:
        print_json(made)
        return
    say(f"token {made['token']['id']} for {name}, until {moment(made['token']['expires_at'])} UTC")
    click.echo(made["secret"])


@tokens.command("list")
@json_option
@click.pass_context
def list_tokens(context: click.Context, as_json: bool) -> None:
    """Tokens, the newest first; never their secrets."""
    rows = list(connect(context).every("tokens"))
    if as_json:
        print_json(rows)
        return
    now = int(time.time())
    shown = [{
        **row,
        "until": moment(row["expires_at"]),
        "used": moment(row["last_used_at"]) or "never",
        "state": "revoked" if row["revoked_at"] else "expired" if row["expires_at"] <= now else "good",
    } for row in rows]  # fmt: skip
    print_table(
        shown,
        {
            "id": "ID",
            "name": "NAME",
            "roles": "ROLES",
            "rings": "RINGS",
            "state": "STATE",
            "until": "UNTIL",
            "used": "USED",
        },
    )


@tokens.command("revoke")
@click.argument("token")
@click.pass_context
def revoke_token(context: click.Context, token: str) -> None:
    """Make a token worth nothing from now on."""
    connect(context).delete("tokens", token)


@click.group()
def channels() -> None:
    """Channels: webhooks and e-mail, by which people are told."""


@channels.command("create")
@click.argument("kind", type=click.Choice(["webhook", "email"]))
@click.argument("target")
@click.option(
    "--event", "events", multiple=True, type=click.Choice([event.value for event in Event]), help="Default: all."
)
@json_option
@click.pass_context
def create_channel(context: click.Context, kind: str, target: str, events: tuple[str, ...], as_json: bool) -> None:
    """Tell TARGET, a URL or an e-mail address. The secret that signs webhooks is shown this once."""
    made = connect(context).post("channels", body={"kind": kind, "target": target, "events": list(events)})
    if as_json:
        print_json(made)
        return
    say(f"channel {made['channel']['id']}; try it: kmend-server channels test {made['channel']['id']}")
    if made["secret"]:
        click.echo(made["secret"])


@channels.command("list")
@json_option
@click.pass_context
def list_channels(context: click.Context, as_json: bool) -> None:
    """Channels; never their secrets."""
    rows = connect(context).get("channels")
    if as_json:
        print_json(rows)
        return
    shown = [{**row, "told": ", ".join(row["events"]) or "all", "at": moment(row["created_at"])} for row in rows]
    print_table(shown, {"id": "ID", "kind": "KIND", "target": "TARGET", "told": "EVENTS", "at": "MADE"})


@channels.command("remove")
@click.argument("channel")
@click.pass_context
def remove_channel(context: click.Context, channel: str) -> None:
    """Remove a channel, with what it would still have told."""
    connect(context).delete("channels", channel)


@channels.command("test")
@click.argument("channel")
@click.pass_context
def try_channel(context: click.Context, channel: str) -> None:
    """Send a notice that says nothing, to see whether it arrives."""
    connect(context).post("channels", channel, "test")
    say("it is on its way")
