"""`kmend-server backup` and `restore`: the database, the keys and the configuration in one file."""

from __future__ import annotations

from pathlib import Path

import click

from kmend.server.commands.output import json_option, print_json, say
from kmend.server.commands.parameters import config_option, now
from kmend.server.config import read_config
from kmend.server.operations import backing


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@config_option
@json_option
def backup(file: Path, config_path: Path, as_json: bool) -> None:
    """Write everything that cannot be made again into FILE, while the server runs.

    FILE holds private keys: keep it as you keep them. The repository and its offline keys are not in it.
    """
    done = backing.backup(read_config(config_path), config_path, file, now=now())
    for remark in done.remarks:
        say(remark)
    if as_json:
        print_json(done)
    else:
        click.echo(f"{file}: {len(done.files)} files, {done.bytes} bytes")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Another data folder than the one that was backed up.")
@config_option
@json_option
def restore(file: Path, data: Path | None, config_path: Path, as_json: bool) -> None:
    """Bring a server back from FILE, onto a machine that has none.

    Hosts then find their counters behind and go on from there by themselves; nothing that hosts reported since is known.
    """
    done = backing.restore(file, config_path, data.absolute() if data is not None else None)
    for remark in done.remarks:
        say(remark)
    if as_json:
        print_json(done)
    else:
        click.echo(f"restored into {done.data}: {len(done.files)} files")
