"""`kmend-server init`: make a server. `kmend-server rescue`: a new administrator's token, from this machine only."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path

import click

from kmend.core import durable
from kmend.core.errors import MalformedError
from kmend.server.commands.output import json_option, print_json, say
from kmend.server.commands.parameters import config_option, now
from kmend.server.config import DEFAULT_DATA, read_address, read_config
from kmend.server.operations import founding
from kmend.server.operations.founding import Founded, Plan
from kmend.server.store import open_store

ACCOUNT = "kmend-server"


@click.command()
@config_option
@click.option(
    "--data",
    default=DEFAULT_DATA,
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for everything that the server keeps.",
)
@click.option(
    "--name", "names", multiple=True, help="Host name or address by which it is reached; several may be given."
)
@click.option("--listen", multiple=True, default=("0.0.0.0:8443",), show_default=True, help="Address and port.")
@click.option("--database", default="", help="postgresql+psycopg://...; without it SQLite in the data folder.")
@click.option("--one-box", is_flag=True, help="Make and use the root and targets keys on this machine, too.")
@click.option("--token-file", type=click.Path(path_type=Path), help="Write the administrator's token there, too.")
@json_option
def command(
    config_path: Path,
    data: Path,
    names: tuple[str, ...],
    listen: tuple[str, ...],
    database: str,
    one_box: bool,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Make a server: configuration, TLS certificate, online keys, database, and the first administrator's token.

    The token is printed once. Interrupted, it is run again; where a server is complete, nothing is changed (exit status 2).
    """
    for address in listen:
        try:
            read_address(address)
        except MalformedError as problem:
            raise click.UsageError(problem.message) from None
    if token_file is not None and token_file.exists():
        raise click.UsageError(f"{token_file} exists; it is not overwritten")
    names = names or (socket.gethostname(),)
    every = tuple(dict.fromkeys((*names, "localhost", "127.0.0.1")))
    plan = Plan(config_path, data.absolute(), every, listen, database, one_box)
    found = founding.found(plan, now=now(), say=say)
    if token_file is not None:
        durable.write_durably(token_file.absolute(), f"{found.token}\n".encode(), mode=0o600)
    _hand_over(config_path, plan.data)
    if as_json:
        print_json(found)
    else:
        _show(found, config_path)


@click.command()
@config_option
@json_option
def rescue(config_path: Path, as_json: bool) -> None:
    """A new administrator's token, for who has lost every other; only on the server's machine, and it is audited."""
    config = read_config(config_path)
    store = open_store(config.database_url)
    try:
        token = founding.rescue(store, now=int(now().timestamp()))
    finally:
        store.close()
    if as_json:
        print_json({"token": token})
    else:
        click.echo(token)


def _hand_over(config: Path, data: Path) -> None:
    """Give what root has made to the account that the service runs as, where there is one."""
    if os.getuid() != 0:
        return
    try:
        entry = pwd.getpwnam(ACCOUNT)
    except KeyError:
        return
    founding.give_to(ACCOUNT, data)
    os.chown(config, 0, entry.pw_gid)


def _show(found: Founded, config: Path) -> None:
    click.echo(f"server:               {found.url}")
    click.echo(f"pin of its authority: {found.pin}")
    click.echo("administrator's token, shown this once:")
    click.echo(f"    {found.token}")
    if found.root_sha256:
        click.echo(f"trust root, SHA-256:  {found.root_sha256}")
    option = "" if str(config) == "/etc/kmend/server.toml" else f" --config {config}"
    if found.request is not None:
        click.echo(
            f"\nNothing is signed yet. Carry {found.request} to where the root keys are:\n"
            f"    kmend-factory keys admit {found.request.name} --keys KEYS\n"
            f"and its result back:\n    kmend-server repository adopt{option} ROOT_JSON"
        )
    if found.keys is not None:
        click.echo(f"\nPublish with:\n    kmend-factory publish --keys {found.keys} --repository "
                   f"{found.keys.parent / 'repository'} BUILD")  # fmt: skip
    click.echo(f"\nStart it:\n    kmend-server run{option}")
