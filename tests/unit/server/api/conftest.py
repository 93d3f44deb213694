"""A server to ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.unit.server.api.asking import Asked

from kmend.server.hosts import rings
from kmend.server.store import Store


def _with_rings(store: Store, asked: Asked) -> Asked:
    for position, name in enumerate(("ring0", "ring1")):
        store.transact(
            lambda connection, name=name, position=position: rings.put(  # type: ignore[misc]
                connection, name, position=position, description="", actor="server", now=asked.now
            )
        )
    return asked


@pytest.fixture
def asked(sqlite: Store) -> Iterator[Asked]:
    """On SQLite: what has nothing to do with the database."""
    made = _with_rings(sqlite, Asked(sqlite))
    yield made
    made.close()


@pytest.fixture
def asked_both(store: Store) -> Iterator[Asked]:
    """On SQLite and PostgreSQL."""
    made = _with_rings(store, Asked(store))
    yield made
    made.close()
