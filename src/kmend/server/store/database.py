"""Connections and transactions, alike on SQLite and PostgreSQL.

SQLite: write-ahead log, `synchronous=FULL` (a commit is on disk when it returns), one writer at a time, which waits its turn. A
write begins with BEGIN IMMEDIATE, so that it never has to be given up half-way because another one wrote meanwhile.
PostgreSQL: READ COMMITTED, rows that are decided upon are locked by whoever decides (`FOR UPDATE`), in one order everywhere:
rollouts, their stages, hosts, grants, each by its key. A read is a snapshot on both.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, exc, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import QueuePool

from kmend.server.store.errors import (
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreUnreachableError,
    StoreUrlError,
)

T = TypeVar("T")

BUSY_SECONDS = 15.0
ATTEMPTS = 8
TRANSACT_SECONDS = 20.0
"""Nothing is tried again after so long: whoever waits for the answer has given up by then."""
_WRITES = "kmend_writes"
_RETRIED = {"40001", "40P01", "55P03", "57014"}
"""SQLSTATE: serialization failure, deadlock, lock not available, statement ended by its time limit."""


class Store:
    """An open database; may be used from many threads. `open_store` makes one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = threading.Lock()
        self.postgresql = engine.dialect.name == "postgresql"
        self.url = engine.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A snapshot to read from.

        Raises:
            StoreError: see `kmend.server.store.errors`.
        """
        with translated(), self._engine.connect() as connection:
            if self.postgresql:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is on disk when the block has ended, and has never been when it was left by an error.

        Raises:
            StoreError: as above.
        """
        if self.postgresql:
            with translated(), self._engine.begin() as connection:
                yield connection
            return
        # Threads of this process wait here, in their order, rather than by trying again at SQLite's lock.
        with self._writer, translated(), self._engine.connect() as connection:
            connection.execution_options(**{_WRITES: True})
            with connection.begin():
                yield connection

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Do `work` in a write, again if it got in another's way; it must be repeatable.

        Raises:
            StoreBusyError: it got in the way too often.
        """
        end = time.monotonic() + TRANSACT_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self.write() as connection:
                    return work(connection)
            except StoreBusyError:
                if attempt == ATTEMPTS or time.monotonic() > end:
                    raise
                time.sleep(random.random() * 0.01 * 2**attempt)  # noqa: S311 - only spreads retries
        raise AssertionError("not reached")

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def read_url(url: str) -> URL:
    """The URL of a database, checked.

    Raises:
        StoreUrlError: it is none that kmend-server works with.
    """
    try:
        found = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise StoreUrlError("database.url cannot be read") from None
    if found.drivername not in ("sqlite", "postgresql+psycopg"):
        raise StoreUrlError(f"database.url is for {found.drivername[:40]!r}")
    if found.drivername == "sqlite" and not (found.database or "").startswith("/"):
        raise StoreUrlError("the SQLite file must be named by an absolute path")
    return found


_POSTGRESQL = ("-c lock_timeout=5s", "-c max_parallel_workers_per_gather=0")
"""Whatever counts many rows takes one processor and not all of them: check-ins go on beside it."""


def make_engine(url: str, *, pool: int = 8) -> Engine:
    """An engine with everything set as it must be; most want `open_store`."""
    found = read_url(url)
    if found.drivername == "sqlite":
        engine = create_engine(
            found, poolclass=QueuePool, pool_size=pool, max_overflow=pool, connect_args={"timeout": BUSY_SECONDS}
        )
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return create_engine(
        found,
        pool_size=pool,
        max_overflow=pool,
        pool_pre_ping=True,
        connect_args={"connect_timeout": 10, "application_name": "kmend-server", "options": " ".join(_POSTGRESQL)},
    )


def _set_up_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    for setting in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={int(BUSY_SECONDS * 1000)}",
    ):
        connection.execute(f"PRAGMA {setting}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def translated() -> Iterator[None]:
    """Turn the database's own errors into ours."""
    try:
        yield
    except exc.IntegrityError:
        raise  # a rule of ours was broken: whoever wrote knows which, or it is our own fault
    except exc.DBAPIError as problem:
        raise _translate(problem) from problem
    except exc.TimeoutError:
        raise StoreBusyError("every connection to the database is in use", hint="raise database.pool") from None


def _translate(problem: exc.DBAPIError) -> StoreError | exc.DBAPIError:
    said = str(problem.orig).strip().splitlines()[0][:300] if problem.orig is not None else ""
    state = getattr(problem.orig, "sqlstate", None) or ""
    lower = said.lower()
    if state in _RETRIED or "database is locked" in lower or "database table is locked" in lower:
        return StoreBusyError(f"the database is busy: {said}")
    if state == "53100" or "disk is full" in lower or "no space left" in lower:
        return StoreFullError(f"the database has no space left: {said}")
    if "malformed" in lower or "not a database" in lower or "disk i/o error" in lower:
        return StoreDamagedError(f"the database is damaged: {said}")
    if "readonly database" in lower or state == "25006":
        return StoreError(
            f"the database cannot be written: {said}", hint="look at the file's owner and mode, and at the file system"
        )
    if state.startswith(("08", "57P", "28", "3D")) or isinstance(problem, exc.OperationalError):
        return StoreUnreachableError(f"the database cannot be reached: {said}")
    return problem


def alive(store: Store) -> None:
    """Ask the database anything.

    Raises:
        StoreError: it does not answer.
    """
    with store.read() as connection:
        connection.execute(text("SELECT 1"))
