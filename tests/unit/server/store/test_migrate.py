"""Every step of the database's form, on both databases."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, text
from tests.unit.server.conftest import NOW, SERVER_ID, Databases

from kmend.server.store import initialise, migrate, open_store
from kmend.server.store.database import make_engine
from kmend.server.store.errors import SchemaError, StoreDamagedError, StoreUnreachableError, StoreUrlError
from kmend.server.store.tables import metadata, settings

KINDS = ("sqlite", "postgresql")


@pytest.mark.parametrize("kind", KINDS)
def test_the_steps_lead_to_the_tables(databases: Databases, kind: str) -> None:
    url = databases.empty(kind)
    assert migrate(url) == ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
    assert migrate(url) == ()
    engine = make_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


@pytest.mark.parametrize("kind", KINDS)
def test_an_older_and_a_newer_form_are_refused(databases: Databases, kind: str) -> None:
    url = databases.empty(kind)
    with pytest.raises(SchemaError, match="is empty"):
        open_store(url)
    migrate(url)
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(SchemaError, match=r"9999.*does not know"):
        open_store(url)
    with pytest.raises(SchemaError, match="9999"):
        migrate(url)


def test_initialising_twice_changes_nothing(database: str) -> None:
    store = open_store(database)
    initialise(store, "f0" * 16, NOW + 5)
    with store.read() as connection:
        rows = connection.execute(settings.select()).all()
    assert [tuple(row) for row in rows] == [("server_id", SERVER_ID)]
    store.close()


@pytest.mark.parametrize("url", ["mysql://x", "nonsense", "sqlite:///relative", "sqlite://", ""])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(StoreUrlError):
        open_store(url)


def test_a_database_that_is_not_there(tmp_path: object) -> None:
    with pytest.raises(StoreUnreachableError):
        open_store("postgresql+psycopg://kmend@/none?host=/nowhere")


def test_a_file_that_is_no_database(tmp_path: object) -> None:
    path = f"{tmp_path}/file"
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"not a database, by any means" * 100)
    with pytest.raises(StoreDamagedError):
        open_store(f"sqlite:///{path}")


def test_rows_survive_a_second_migration(database: str) -> None:
    store = open_store(database)
    with store.write() as connection:
        connection.execute(insert(settings).values(name="kept", value="1"))
    store.close()
    migrate(database)
    store = open_store(database)
    with store.read() as connection:
        assert connection.execute(text("SELECT value FROM settings WHERE name = 'kept'")).scalar() == "1"
    store.close()
