"""Single values of the whole installation, in the table `settings`."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select, update

from kmend.server.store.tables import settings

SERVER_ID = "server_id"


def read(connection: Connection, name: str) -> str | None:
    """One value; None if there is none."""
    value = connection.execute(select(settings.c.value).where(settings.c.name == name)).scalar()
    return str(value) if value is not None else None


def write(connection: Connection, name: str, value: str) -> None:
    """Set one value. Two that set a new one at once: one of them fails, and tries again."""
    changed = connection.execute(update(settings).where(settings.c.name == name).values(value=value))
    if changed.rowcount == 0:
        connection.execute(insert(settings).values(name=name, value=value))
