"""`kmend-server migrate` and `check`."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from kmend.core.errors import KmendError
from kmend.server.commands.output import json_option, print_json
from kmend.server.commands.parameters import config_option, now
from kmend.server.config import ServerConfig, read_config
from kmend.server.notices.sending import Sender
from kmend.server.operations import authority, founding
from kmend.server.operations.errors import OperationError
from kmend.server.repository import refreshing
from kmend.server.repository.mirror import read_timestamp
from kmend.server.store import open_store
from kmend.server.store.migrate import migrate as bring_up
from kmend.trust import current, online


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    good: bool
    told: str
    hint: str = ""


@click.command()
@config_option
@json_option
def migrate(config_path: Path, as_json: bool) -> None:
    """Bring the database to the form of this version. Servers of the version before may go on running meanwhile."""
    steps = bring_up(read_config(config_path).database_url)
    if as_json:
        print_json({"applied": steps})
    else:
        click.echo("\n".join(steps) if steps else "the database has this version's form already")


@click.command()
@config_option
@json_option
def check(config_path: Path, as_json: bool) -> int:
    """Look at configuration, certificate, keys, database and repository; exit status 1 if something is not in order."""
    config = read_config(config_path)
    findings = [Finding("configuration", True, str(config_path)), *_look(config, now())]
    if as_json:
        print_json({"good": all(finding.good for finding in findings), "findings": findings})
    else:
        for finding in findings:
            mark = click.style("ok", fg="green") if finding.good else click.style("NOT IN ORDER", fg="red")
            click.echo(f"{finding.what + ':':<14} {mark}: {finding.told}")
            if finding.hint:
                click.echo(f"{'':<15}hint: {finding.hint}")
    return 0 if all(finding.good for finding in findings) else 1


def _look(config: ServerConfig, moment: datetime.datetime) -> Iterator[Finding]:
    looks: dict[str, Callable[[], str]] = {
        "certificate": lambda: _certificate(config, moment),
        "database": lambda: _database(config),
        "trust root": lambda: _root(config, moment),
        "repository": lambda: _repository(config, moment),
        "notices": lambda: _notices(config),
    }
    for what, look in looks.items():
        try:
            yield Finding(what, True, look())
        except KmendError as problem:
            yield Finding(what, False, problem.message, problem.hint)


def _certificate(config: ServerConfig, moment: datetime.datetime) -> str:
    if config.tls.off:
        return "off: whoever stands before this server speaks TLS"
    certificate = authority.read_certificate(config.certificate)
    if not authority.fits(config.certificate, config.key):
        raise OperationError(f"{config.key} is not the key of {config.certificate}")
    if certificate.not_valid_after_utc < moment:
        raise OperationError(f"{config.certificate} has expired", hint="kmend-server run issues another")
    names = ", ".join(authority.names_of(certificate))
    return f"for {names}, until {certificate.not_valid_after_utc:%Y-%m-%d}"


def _database(config: ServerConfig) -> str:
    store = open_store(config.database_url)
    try:
        with store.read() as connection:
            if founding.founded_at(connection) is None:
                raise OperationError("the server is not complete", hint="run kmend-server init again")
        return store.url
    finally:
        store.close()


def _root(config: ServerConfig, moment: datetime.datetime) -> str:
    root = current.read_root(refreshing.read_root(config)).signed
    folder = config.repository_folder
    if folder is not None:
        root = current.load_root(folder, refreshing.read_root(config)).signed
    current.check_root(root, moment)
    if folder is not None and not online.names(root, online.OnlineKeys(config.online)):
        raise OperationError(
            f"version {root.version} of the trust root does not name this server's online keys",
            hint="kmend-factory keys admit, then kmend-server repository adopt",
        )
    return f"version {root.version}, until {root.expires:%Y-%m-%d}"


def _repository(config: ServerConfig, moment: datetime.datetime) -> str:
    store = open_store(config.database_url)
    try:
        with store.read() as connection:
            timestamp = read_timestamp(connection)
    finally:
        store.close()
    if not timestamp.version:
        return f"{config.repository_source}: nothing has been imported yet"
    expires = datetime.datetime.fromtimestamp(timestamp.expires, datetime.timezone.utc)
    if expires < moment:
        raise OperationError(
            f"version {timestamp.version} has expired on {expires:%Y-%m-%d}", hint="kmend-server repository refresh"
        )
    return f"{config.repository_source}: version {timestamp.version}, until {expires:%Y-%m-%d %H:%M}"


def _notices(config: ServerConfig) -> str:
    sender = Sender.of(config)
    return f"by e-mail through {sender.mail.host}, and by webhooks" if sender.mail.host else "by webhooks alone"
