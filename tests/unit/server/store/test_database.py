"""Transactions: on disk or never, one writer after the other, and ours are the errors."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Connection, insert, select, text

from kmend.server.store import Store, news, open_store, settings
from kmend.server.store.errors import StoreBusyError, StoreError
from kmend.server.store.tables import settings as table


def test_a_write_that_fails_leaves_nothing(store: Store) -> None:
    def broken() -> None:
        with store.write() as connection:
            settings.write(connection, "a", "1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    with store.read() as connection:
        assert settings.read(connection, "a") is None


def test_a_read_is_a_snapshot(store: Store) -> None:
    with store.read() as reading:
        assert settings.read(reading, "a") is None
        with store.write() as writing:
            settings.write(writing, "a", "1")
        assert settings.read(reading, "a") is None


def test_many_writers_lose_nothing(database: str) -> None:
    """Two processes' worth of stores, each with threads that add to one number."""
    stores = [open_store(database), open_store(database)]
    with stores[0].write() as connection:
        settings.write(connection, "n", "0")

    def add(connection: Connection) -> None:
        query = select(table.c.value).where(table.c.name == "n").with_for_update()
        settings.write(connection, "n", str(int(connection.execute(query).scalar_one()) + 1))

    def work(store: Store) -> None:
        for _ in range(10):
            store.transact(add)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with stores[0].read() as connection:
        assert settings.read(connection, "n") == "60"
    for store in stores:
        store.close()


def test_what_gets_in_the_way_is_tried_again_so_often(store: Store) -> None:
    tried = 0

    def busy(connection: Connection) -> None:
        nonlocal tried
        tried += 1
        raise StoreBusyError("as if")

    with pytest.raises(StoreBusyError):
        store.transact(busy)
    assert tried == 8


def test_a_read_only_database_says_so(sqlite: Store) -> None:
    def write() -> None:
        with sqlite.write() as connection:
            connection.execute(text("PRAGMA query_only=ON"))
            try:
                connection.execute(insert(table).values(name="a", value="b"))
            finally:
                connection.execute(text("PRAGMA query_only=OFF"))

    with pytest.raises(StoreError, match="cannot be written"):
        write()


def test_generations_of_news(store: Store) -> None:
    for _ in range(2):
        with store.write() as connection:
            news.bump(connection, news.ALL, news.ring_key("early"))
    with store.write() as connection:
        news.bump(connection, news.ALL)
    with store.read() as connection:
        assert news.generations(connection) == {"all": 3, "ring:early": 2}
