"""`kmend-server inventory`: the organisation's own list of its machines, so that those without an agent are seen."""

from __future__ import annotations

import time
from pathlib import Path

import click

from kmend.core import durable
from kmend.server.access import audit
from kmend.server.commands.client import connect
from kmend.server.commands.output import json_option, print_json, print_table
from kmend.server.commands.parameters import config_option
from kmend.server.config import read_config
from kmend.server.evidence import inventory
from kmend.server.store import open_store


@click.group()
def command() -> None:
    """The list of machines that the fleet is held against."""


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@config_option
@json_option
def bring_in(file: Path, config_path: Path, as_json: bool) -> None:
    """Take a list of machines in, in place of the one before; on the server's machine.

    FILE: CSV with the columns name, machine, address, owner, scope (name or machine is needed), or JSON, a list of objects with
    these members. `machine` is a host's ID or the digest of its machine; without it a host is found by its name.
    """
    found = inventory.read(durable.read_bounded(file, max_bytes=inventory.MAX_BYTES))
    now = int(time.time())
    store = open_store(read_config(config_path).database_url)
    try:
        store.transact(lambda connection: inventory.keep(connection, found, actor=audit.SERVER, now=now))
        with store.read() as connection:
            enrolled = sum(bool(machine.host) for machine in inventory.listing(connection))
    finally:
        store.close()
    if as_json:
        print_json({"machines": len(found), "enrolled": enrolled})
    else:
        click.echo(f"{len(found)} machines, {enrolled} of them are enrolled hosts")


@command.command()
@json_option
@click.pass_context
def coverage(context: click.Context, as_json: bool) -> None:
    """How many machines have an agent, and which have none."""
    found = connect(context).get("inventory", "coverage")
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['enrolled']} of {found['machines']} machines are enrolled hosts")
    if found["without"]:
        click.echo("without an agent:")
        print_table(found["without"], {"name": "NAME", "machine": "MACHINE", "address": "ADDRESS", "owner": "OWNER",
                                       "scope": "SCOPE"})  # fmt: skip
