"""`kmend-server repository`: the signed repository, from the server's side."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

from kmend.core import durable
from kmend.core.manifest import sha256_hex
from kmend.server.commands.output import json_option, print_json
from kmend.server.commands.parameters import config_option, now
from kmend.server.config import read_config
from kmend.server.operations import founding
from kmend.server.repository import refreshing
from kmend.server.repository.errors import RepositoryError
from kmend.server.repository.objects import Bucket
from kmend.server.repository.pushing import push as push_folder
from kmend.server.store import open_store
from kmend.trust import current, online
from kmend.trust.client import MAX_ROOT_BYTES


@click.group()
def command() -> None:
    """The signed repository: its trust root, its freshness, its copies."""


@command.command()
@click.argument("root", type=click.Path(path_type=Path))
@config_option
@json_option
def adopt(root: Path, config_path: Path, as_json: bool) -> None:
    """Take a trust root: the first, or the next version of the present one.

    ROOT is what `kmend-factory keys init` or `keys admit` left. Compare the digest that is printed with the one at its maker's.
    """
    config = read_config(config_path)
    content = durable.read_bounded(root, max_bytes=MAX_ROOT_BYTES)
    adopted = refreshing.adopt(config, content, now=now()).signed
    ours = online.names(adopted, online.OnlineKeys(config.online))
    if as_json:
        print_json({"version": adopted.version, "sha256": sha256_hex(content), "names_our_keys": ours})
        return
    click.echo(f"trust root version {adopted.version}, until {adopted.expires:%Y-%m-%d}, SHA-256 {sha256_hex(content)}")
    click.echo("it names this server's online keys" if ours else "it does not name this server's online keys")


@command.command()
@config_option
@json_option
def request(config_path: Path, as_json: bool) -> None:
    """Make what online keys are missing, and a request that the root keys name them: `kmend-factory keys admit`.

    For new ones, move the old ones out of the data folder's `online` first.
    """
    config = read_config(config_path)
    path = founding.make_request(config)
    if as_json:
        print_json({"request": str(path)})
    else:
        click.echo(f"carry this to where the root keys are:  {path}")


@command.command()
@config_option
@json_option
def refresh(config_path: Path, as_json: bool) -> None:
    """Sign snapshot and timestamp anew, with the online keys; a running server does so by itself."""
    version = refreshing.refresh(read_config(config_path), now=now())
    if as_json:
        print_json({"timestamp_version": version})
    else:
        click.echo(f"repository version {version}")


@command.command("import")
@config_option
@json_option
def import_(config_path: Path, as_json: bool) -> None:
    """Verify the repository and bring its levels and recalls into the database; a running server does so by itself."""
    from kmend.server import rollouts
    from kmend.server.repository.importing import import_repository

    config = read_config(config_path)
    store = open_store(config.database_url)
    try:
        found = import_repository(
            store,
            config.repository_source,
            refreshing.read_root(config),
            config.data / "mirror",
            int(now().timestamp()),
            begin=rollouts.begin_automatic,
        )
    finally:
        store.close()
    if as_json:
        print_json({
            "version": found.timestamp.version,
            "new_levels": found.new_levels,
            "recalls_changed": found.recalls_changed,
        })  # fmt: skip
        return
    for level in found.new_levels:
        click.echo(f"level {level.level} of kernel build {level.build_id}")
    recalls = ", other recalls" if found.recalls_changed else ""
    click.echo(f"repository version {found.timestamp.version}: {len(found.new_levels)} new levels{recalls}")


@command.command()
@config_option
@json_option
def push(config_path: Path, as_json: bool) -> None:
    """Bring the repository's folder into the object store of the configuration; only what is new, `timestamp.json` last."""
    config = read_config(config_path)
    folder = config.repository_folder
    if folder is None:
        raise RepositoryError("the repository is no folder of this machine", hint="push from where it lies")
    done = push_folder(folder, Bucket.of(config.object_store))
    if as_json:
        print_json(done)
    else:
        click.echo(f"{done.files} files with {done.bytes} bytes; {done.kept} were there already")


@command.command()
@config_option
@json_option
def show(config_path: Path, as_json: bool) -> None:
    """The repository's trust root and versions, as they lie on this machine."""
    config = read_config(config_path)
    folder = config.repository_folder
    tree = current.load(folder, refreshing.read_root(config)) if folder is not None else None
    if tree is None:
        raise RepositoryError(f"there is no repository at {config.repository_source} on this machine")
    parts = {"root": tree.root.signed, "targets": tree.targets.signed, "snapshot": tree.snapshot.signed,
             "timestamp": tree.timestamp.signed}  # fmt: skip
    if as_json:
        print_json({name: {"version": part.version, "expires": _stamp(part.expires)} for name, part in parts.items()})
        return
    for name, part in parts.items():
        click.echo(f"{name:<10} version {part.version}, until {part.expires:%Y-%m-%d %H:%M}")


def _stamp(moment: datetime.datetime) -> int:
    return int(moment.timestamp())
