"""Making a server: configuration, certificates, keys, database, and the first administrator's token.

Every step looks first whether it was done, and the mark that all of them were is set last; so what was killed half-way is run
again, and what is complete is never touched. No password is made up here, and none has a default.
"""

from __future__ import annotations

import datetime
import os
import pwd
import secrets
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import Connection

from kmend.core import durable
from kmend.core.errors import SystemProblemError
from kmend.core.manifest import sha256_hex
from kmend.core.process import run
from kmend.server.access import audit, tokens
from kmend.server.access.permissions import Role
from kmend.server.config import ServerConfig, read_config
from kmend.server.operations import authority
from kmend.server.operations.errors import FoundedError, OperationError
from kmend.server.store import Store, initialise, migrate, open_store, settings
from kmend.trust import layout, online

FOUNDED = "founded_at"
REQUEST_NAME = "online-keys.json"
KEYS = "keys"
"""The folder of the root and targets keys, if they are made here; no account but root's has to do with it."""
FIRST_TOKEN = "first administrator"  # noqa: S105 - what the token is called
TOKEN_DAYS = 365
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What server to make.

    Attributes:
        config: where its configuration is to be.
        data: its folder.
        names: host names and addresses by which it is reached; the first stands in its URL.
        listen: addresses with ports.
        database: URL; empty for SQLite in the data folder.
        one_box: make the root and targets keys here too.
    """

    config: Path
    data: Path
    names: tuple[str, ...]
    listen: tuple[str, ...]
    database: str = ""
    one_box: bool = False


@dataclass(frozen=True, slots=True)
class Founded:
    """The server that is there now.

    Attributes:
        pin: SHA-256 of its authority's certificate.
        token: the first administrator's; shown once, kept nowhere.
        root_sha256: of the trust root; empty while there is none.
        request: where the request for the online keys lies; None if the trust root names them already.
        keys: where the keys that sign levels lie on this machine; None if they do not.
    """

    server_id: str
    url: str
    pin: str
    token: str
    root_sha256: str
    request: Path | None
    keys: Path | None


def found(plan: Plan, *, now: datetime.datetime, say: Say) -> Founded:
    """Make a server, or finish one that was begun.

    Raises:
        FoundedError: there is a complete one; nothing was changed.
    """
    _make_config(plan, say)
    config = read_config(plan.config)
    if config.data != plan.data:
        raise FoundedError(
            f"{plan.config} is the configuration of the server in {config.data}; nothing was changed",
            hint="give another --config for another server",
        )
    durable.make_folder(config.data, mode=0o750)
    authority.make_authority(config.data / "tls", plan.names[0], now=now)
    if not (config.data / "tls" / "server.pem").exists():
        authority.issue(config.data / "tls", plan.names, now=now)
    online.make(config.online)
    _make_repository(config)
    # Whoever holds the database's file holds the server, so it is made for its owner alone.
    before = os.umask(0o077)
    try:
        applied = migrate(config.database_url)
    finally:
        os.umask(before)
    if applied:
        say("the database has its tables")
    store = open_store(config.database_url)
    try:
        with store.read() as connection:
            if founded_at(connection) is not None:
                raise FoundedError(
                    f"there is a server in {config.data} already; nothing was changed",
                    hint="kmend-server rescue makes a new administrator's token, on this machine only",
                )
        request = make_request(config)
        folder = _one_box(config, request, say) if plan.one_box else None
        at = int(now.timestamp())
        initialise(store, secrets.token_hex(16), at)
        server_id, token = store.transact(lambda connection: _begin(connection, at))
    finally:
        store.close()
    return Founded(
        server_id,
        config.server.public_url,
        authority.pin_of(authority.read_certificate(config.data / "tls" / "authority.pem")),
        token,
        sha256_hex(durable.read_bounded(config.root, max_bytes=512_000)) if config.root.exists() else "",
        None if plan.one_box else request,
        folder,
    )


def make_request(config: ServerConfig) -> Path:
    """Make what online keys are missing, and the file that asks for them to be named in the trust root."""
    online.make(config.online)
    machine = urlsplit(config.server.public_url).hostname or socket.gethostname()
    path = config.data / REQUEST_NAME
    durable.write_durably(path, online.request(online.OnlineKeys(config.online), machine))
    return path


def founded_at(connection: Connection) -> int | None:
    """When the server in this database was complete, in seconds since 1970-01-01 UTC; None if it is not."""
    value = settings.read(connection, FOUNDED)
    return int(value) if value is not None else None


def rescue(store: Store, *, now: int) -> str:
    """A new administrator's token, for who has access to the machine and has lost every other; it is audited."""

    def work(connection: Connection) -> str:
        return _token(connection, "rescued administrator", now)

    return store.transact(work)


def give_to(user: str, data: Path) -> None:
    """Make a data folder belong to the account that the server runs as; all but the keys that sign levels.

    Raises:
        SystemProblemError: there is no such account, or we may not.
    """
    try:
        entry = pwd.getpwnam(user)
        for path in (data, *data.rglob("*")):
            if data / KEYS not in (path, *path.parents):
                os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
    except KeyError:
        raise SystemProblemError(f"there is no account {user}", hint="the package makes it") from None
    except OSError as problem:
        raise SystemProblemError(f"cannot hand {problem.filename} to {user}: {problem.strerror}") from None


def factory_program() -> Path:
    """`kmend-factory`, which makes the keys that this program may not have.

    Raises:
        OperationError: it is not installed.
    """
    beside = Path(sys.executable).parent / "kmend-factory"
    found = str(beside) if beside.exists() else shutil.which("kmend-factory")
    if found is None:
        raise OperationError(
            "kmend-factory is not installed here, so no trust root can be made",
            hint="install kmend[factory], or make the keys elsewhere: kmend-factory keys init, keys admit",
        )
    return Path(found)


def _begin(connection: Connection, at: int) -> tuple[str, str]:
    """What is in the database from the beginning, and the mark that the server is complete."""
    server_id = settings.read(connection, settings.SERVER_ID) or ""
    audit.append(connection, at=at, actor="server", action="server.init", subject=server_id, detail={})
    token = _token(connection, FIRST_TOKEN, at)
    settings.write(connection, FOUNDED, str(at))
    return server_id, token


def _token(connection: Connection, name: str, at: int) -> str:
    _, secret = tokens.create(
        connection,
        name=name,
        roles=(Role.ADMINISTRATOR,),
        rings=(),
        expires_at=at + TOKEN_DAYS * 86_400,
        actor="server",
        now=at,
    )
    return secret


def _one_box(config: ServerConfig, request: Path, say: Say) -> Path:
    """Make all keys and the trust root on this machine, by the factory's own program."""
    folder = config.data / KEYS
    factory = factory_program()
    if not (folder / "root.json").exists():
        # A folder of keys is never overwritten, so one that was half made must not stand in the way.
        half = folder.with_name("keys.half")
        shutil.rmtree(half, ignore_errors=True)
        run([factory, "keys", "init", half, "--name", f"kmend {request.parent.name}"])
        half.rename(folder)
        durable.sync_folder(folder.parent)
    roots = folder / "roots"
    if not (roots / "2.root.json").exists():
        run([factory, "keys", "admit", request, "--keys", folder])
    say(
        f"the root and targets keys were made on this machine, in {folder}/offline.\n"
        "Whoever has them can make every host run any code. Move that folder to where no machine can reach it\n"
        "as soon as this is more than a trial; publishing needs it back, serving and refreshing do not."
    )
    if not config.root.exists():
        durable.write_durably(config.root, durable.read_bounded(roots / "2.root.json", max_bytes=512_000))
    return folder


def _make_repository(config: ServerConfig) -> None:
    """The folder for a repository, empty, so that it is this server's account that may refresh what others publish into it."""
    folder = config.repository_folder
    if folder is not None:
        durable.make_folder(folder / layout.METADATA)
        (folder / ".lock").touch()


def _make_config(plan: Plan, say: Say) -> None:
    if plan.config.exists():
        return
    port = plan.listen[0].rpartition(":")[2]
    name = f"[{plan.names[0]}]" if ":" in plan.names[0] else plan.names[0]
    lines = [
        "# Made by kmend-server init; packaging/server/server.toml describes every member, kmend-server check looks at it.",
        "[server]",
        f"data = {_quoted(str(plan.data))}",
        f"listen = [{', '.join(_quoted(address) for address in plan.listen)}]",
        f"public_url = {_quoted(f'https://{name}:{port}')}",
    ]
    if plan.database:
        lines += ["", "[database]", f"url = {_quoted(plan.database)}"]
    durable.make_folder(plan.config.parent)
    # A database's URL may hold a password.
    durable.write_durably(plan.config, ("\n".join(lines) + "\n").encode(), mode=0o640)
    say(f"the configuration is {plan.config}")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
