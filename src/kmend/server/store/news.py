"""Generations of news: a number for each key that rises when hosts that wait there are to be told.

Keys are `all` and `ring:<name>`. Every server process reads the whole table, which has a row a ring, twice a second.
"""

from __future__ import annotations

from sqlalchemy import Connection, select, text

from kmend.server.store.tables import news

ALL = "all"
_BUMP = text(
    "INSERT INTO news (key, generation) VALUES (:key, 1) ON CONFLICT (key) DO UPDATE SET generation = news.generation + 1"
)


def ring_key(ring: str) -> str:
    """The key of a ring's hosts."""
    return f"ring:{ring}"


def bump(connection: Connection, *keys: str) -> None:
    """Tell who waits at these keys, once the transaction is committed."""
    for key in sorted(set(keys)):  # in one order, so that no two wait for each other
        connection.execute(_BUMP, {"key": key})


def generations(connection: Connection) -> dict[str, int]:
    """Every key's generation."""
    return {row.key: row.generation for row in connection.execute(select(news.c.key, news.c.generation))}
