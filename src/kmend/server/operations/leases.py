"""Who does what only one server process need do: a lease in the database, held for a while and taken anew in time.

A lease spares work, nothing depends on it: whatever is done under one is right, too, when two do it at once, since a process may
be stopped for longer than its lease and go on afterwards.
"""

from __future__ import annotations

import os
import secrets
import socket

from sqlalchemy import Connection, text, update

from kmend.server.store.tables import leases

_TAKE = text(
    "INSERT INTO leases (name, holder, until) VALUES (:name, :holder, :until) ON CONFLICT (name) DO UPDATE "
    "SET holder = :holder, until = :until WHERE leases.holder = :holder OR leases.until < :now "
    "OR leases.until > :now + 10 * :seconds"  # taken by a clock that was ahead
)


def own_name() -> str:
    """A name for this process that no other has."""
    return f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"


def take(connection: Connection, name: str, holder: str, now: int, seconds: int) -> bool:
    """Take a lease, or keep it; whether `holder` has it now.

    Args:
        seconds: for how long.
    """
    values = {"name": name, "holder": holder, "until": now + seconds, "now": now, "seconds": seconds}
    return connection.execute(_TAKE, values).rowcount == 1


def give_back(connection: Connection, name: str, holder: str) -> None:
    """Let another process have it at once."""
    connection.execute(update(leases).where(leases.c.name == name, leases.c.holder == holder).values(until=0))
