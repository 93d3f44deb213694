"""Bring a database to the form of this version, step by step; the steps are in `migrations/versions`.

A step works beside the running version before it (servers are upgraded one after the other), waits for locks at most four
seconds, and is one transaction: done or not done.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, insert, select, text

from kmend.core.cache import locked
from kmend.server.store.database import Store, make_engine, read_url, translated
from kmend.server.store.errors import SchemaError
from kmend.server.store.tables import rings, settings

DEFAULT_RING = "default"
LOCK = 0x6B6D656E64  # "kmend": PostgreSQL's advisory lock of whoever migrates


def migrate(url: str) -> tuple[str, ...]:
    """Bring the database to this version's form; returns the names of the steps that were taken.

    Raises:
        SchemaError: it has been worked on by a newer version.
        StoreError: it cannot be reached or written.
    """
    found = read_url(url)
    engine = make_engine(url, pool=1)
    try:
        if found.drivername == "sqlite":
            with locked(Path(f"{found.database}.migrating")):
                return _upgrade(engine)
        return _upgrade(engine)
    finally:
        engine.dispose()


def open_store(url: str, *, pool: int = 8) -> Store:
    """Open a database that has this version's form.

    Raises:
        SchemaError: it has another one.
        StoreError: it cannot be reached.
    """
    engine = make_engine(url, pool=pool)
    try:
        with translated(), engine.connect() as connection:
            found, wanted = _revision(connection), _script().get_current_head()
        if found != wanted:
            _refuse(found)
    except BaseException:
        engine.dispose()
        raise
    return Store(engine)


def initialise(store: Store, server_id: str, now: int) -> None:
    """What every database holds from the first day: the server's ID, and the ring `default`. Does nothing the second time."""
    with store.write() as connection:
        if connection.execute(select(settings.c.name).where(settings.c.name == "server_id")).first() is None:
            connection.execute(insert(settings).values(name="server_id", value=server_id))
        if connection.execute(select(rings.c.name).where(rings.c.name == DEFAULT_RING)).first() is None:
            described = "where hosts are that nobody has put elsewhere"
            connection.execute(
                insert(rings).values(name=DEFAULT_RING, position=100, description=described, created_at=now)
            )


def _upgrade(engine: Engine) -> tuple[str, ...]:
    with translated(), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET lock_timeout = '4s'"))
            connection.execute(text("SET statement_timeout = '10min'"))
            connection.execute(text(f"SELECT pg_advisory_lock({LOCK})"))
            connection.commit()
        try:
            before = _revision(connection)
            script = _script()
            if before is not None and before not in {item.revision for item in script.walk_revisions()}:
                _refuse(before)
            connection.rollback()
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            steps = tuple(item.revision for item in script.iterate_revisions("head", before or "base"))
            return steps[::-1]
        finally:
            connection.rollback()
            if engine.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_unlock({LOCK})"))
                connection.commit()


def _refuse(found: str | None) -> None:
    known = {item.revision for item in _script().walk_revisions()}
    if found is None or found in known:
        which = f"is at step {found}" if found else "is empty"
        raise SchemaError(f"the database {which}, which is older than this version", hint="run: kmend-server migrate")
    raise SchemaError(
        f"the database is at step {found}, which this version does not know",
        hint="run the newer version of kmend-server",
    )


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    return config


def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())
