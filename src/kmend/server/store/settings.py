"""Single values of the whole installation, in the table `settings`."""

from __future__ import annotations

from sqlalchemy import Connection, select, text

from kmend.server.store.tables import settings

LOOKED_AT, AWAKE_SINCE, ASLEEP_SINCE = "rollouts.looked_at", "rollouts.awake_since", "rollouts.asleep_since"
SERVER_ID = "server_id"
_WRITE = text(
    "INSERT INTO settings (name, value) VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET value = :value"
)


def read(connection: Connection, name: str) -> str | None:
    """One value; None if there is none."""
    value = connection.execute(select(settings.c.value).where(settings.c.name == name)).scalar()
    return str(value) if value is not None else None


def write(connection: Connection, name: str, value: str) -> None:
    """Set one value."""
    connection.execute(_WRITE, {"name": name, "value": value})
