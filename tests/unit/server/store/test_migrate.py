"""Every step of the database's form, on both databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection, MetaData, insert, select, text
from tests.unit.sample_livepatch import fix, livepatch
from tests.unit.server.conftest import NOW, SERVER_ID, Databases

import kmend.server.store as store_package
from kmend.core.document import encode
from kmend.core.manifest import Manifest, PatchedFunction, PatchedObject
from kmend.server.store import initialise, migrate, open_store
from kmend.server.store.database import make_engine
from kmend.server.store.errors import SchemaError, StoreDamagedError, StoreUnreachableError, StoreUrlError
from kmend.server.store.tables import level_cves, metadata, settings

KINDS = ("sqlite", "postgresql")


@pytest.mark.parametrize("kind", KINDS)
def test_the_steps_lead_to_the_tables(databases: Databases, kind: str) -> None:
    url = databases.empty(kind)
    assert migrate(url) == ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009")
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", ["0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008"])
def test_what_an_earlier_form_holds_comes_along(databases: Databases, kind: str, step: str) -> None:
    url = databases.empty(kind)
    before = {}
    with at_step(url, step) as (connection, found):
        for table in found.sorted_tables:
            if table.name != "alembic_version":
                before[table.name] = {column.name: anything(column) for column in table.columns}
                connection.execute(insert(table).values(before[table.name]))
    migrate(url)
    engine = make_engine(url)
    with engine.connect() as connection:
        for name, row in before.items():
            kept = connection.execute(text(f"SELECT * FROM {name}")).mappings().one()  # noqa: S608
            assert {column: kept[column] for column in row if column in kept} == row
    engine.dispose()


def manifests() -> list[Manifest]:
    """Levels with CVEs in one object, in several, and in a header that no replaced function comes from."""
    plain, _ = livepatch(1, ["CVE-2026-1001", "CVE-2026-1002"])
    elsewhere = PatchedObject("nf_tables", "ab" * 20, (PatchedFunction("nft_flush", 0, 1, 2, "net/netfilter/nft.c"),))
    files = (("net/netfilter/nft.c",), ("net/unix/af_unix.c", "net/netfilter/nft.c"), ("include/net/sock.h",))
    fixes = [replace(fix(f"CVE-2026-{number}"), files=names) for number, names in enumerate(files, start=1003)]
    several, _ = livepatch(2, ["CVE-2026-1001"], base=1)
    return [plain, replace(several, fixes=(*several.fixes, *fixes), objects=(*several.objects, elsewhere))]


@pytest.mark.parametrize("kind", KINDS)
def test_objects_of_levels_that_were_there_are_read_from_their_manifests(databases: Databases, kind: str) -> None:
    url = databases.empty(kind)
    wanted = {}
    with at_step(url, "0007") as (connection, found):
        built = {column.name: anything(column) for column in found.tables["kernel_builds"].columns}
        connection.execute(insert(found.tables["kernel_builds"]).values(built))
        for manifest in manifests():
            row = {column.name: anything(column) for column in found.tables["levels"].columns}
            row |= {"level": manifest.level, "manifest": encode(manifest)}
            connection.execute(insert(found.tables["levels"]).values(row))
            for cve in manifest.cves:
                wanted[manifest.level, cve] = list(manifest.objects_of(cve))
                row = {"build_id": row["build_id"], "level": manifest.level, "cve": cve}
                connection.execute(insert(found.tables["level_cves"]).values(row))
    migrate(url)
    store = open_store(url)
    with store.read() as connection:
        rows = connection.execute(select(level_cves)).all()
    store.close()
    assert {(row.level, row.cve): json.loads(row.objects) for row in rows} == wanted
    assert wanted[2, "CVE-2026-1003"] == ["nf_tables"]
    assert wanted[2, "CVE-2026-1005"] == ["vmlinux", "nf_tables"]


@contextmanager
def at_step(url: str, step: str) -> Iterator[tuple[Connection, MetaData]]:
    """A database as an earlier version left it, with its tables as they were."""
    engine = make_engine(url)
    try:
        config = Config()
        config.set_main_option("script_location", str(Path(store_package.__file__).with_name("migrations")))
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, step)
        found = MetaData()
        found.reflect(engine)
        with engine.begin() as connection:
            yield connection, found
    finally:
        engine.dispose()


def anything(column: Column[Any]) -> object:
    """A value that the column takes; references lead to the one row of their table."""
    values = {str: "x", int: 1, bytes: b"{}", bool: True, float: 0.5}
    return values[column.type.python_type]
