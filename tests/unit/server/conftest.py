"""Databases for tests of the server: SQLite in a file, and a PostgreSQL of the test session's own, both with every table made."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.server.cluster import Cluster
from sqlalchemy import create_engine, text

from kmend.server.store import Store, initialise, migrate, open_store

SERVER_ID = "5e" * 16
NOW = 1_790_000_000
_numbers = itertools.count(1)


class Databases:
    """Makes empty databases, each a copy of one that was brought to the present form."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cluster: Cluster | None = None
        self._sqlite = folder / "template.sqlite"

    def fresh(self, kind: str) -> str:
        """The URL of a database of its own, `sqlite` or `postgresql`."""
        name = f"test{next(_numbers)}"
        if kind == "sqlite":
            if not self._sqlite.exists():
                _make(f"sqlite:///{self._sqlite}")
            path = self._folder / f"{name}.sqlite"
            shutil.copyfile(self._sqlite, path)
            return f"sqlite:///{path}"
        if self._cluster is None:
            self._cluster = Cluster(self._folder / "pg", durable=False)
            self._cluster.create()
            self._administer("CREATE DATABASE template")
            _make(self._cluster.database_url("template"))
        self._administer(f"CREATE DATABASE {name} TEMPLATE template")
        return self._cluster.database_url(name)

    def empty(self, kind: str) -> str:
        """The URL of a database without any table."""
        self.fresh(kind)
        name = f"empty{next(_numbers)}"
        if kind == "sqlite":
            return f"sqlite:///{self._folder / name}.sqlite"
        assert self._cluster is not None
        self._administer(f"CREATE DATABASE {name}")
        return self._cluster.database_url(name)

    def close(self) -> None:
        """Stop the cluster."""
        if self._cluster is not None:
            self._cluster.stop("immediate")

    def _administer(self, statement: str) -> None:
        assert self._cluster is not None
        engine = create_engine(self._cluster.database_url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()


def _make(url: str) -> None:
    migrate(url)
    store = open_store(url)
    initialise(store, SERVER_ID, NOW)
    store.close()


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    # Not pytest's own folder: its name is too long for a socket, and PostgreSQL's account must be able to enter.
    folder = Path(tempfile.mkdtemp(prefix="kmend-db-", dir="/tmp"))
    folder.chmod(0o755)
    made = Databases(folder)
    yield made
    made.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, databases: Databases) -> str:
    """The URL of a database of the test's own."""
    kind: str = request.param
    return databases.fresh(kind)


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    opened = open_store(database)
    yield opened
    opened.close()


@pytest.fixture
def sqlite(databases: Databases) -> Iterator[Store]:
    """A store on SQLite alone, for what has nothing to do with the database."""
    opened = open_store(databases.fresh("sqlite"))
    yield opened
    opened.close()
