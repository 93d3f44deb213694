"""Whether the server is alive, and whether it is of use: `/healthz` for who restarts it, `/readyz` for who sends it requests."""

from __future__ import annotations

from dataclasses import dataclass

from kmend.server.repository import Mirror
from kmend.server.store import Store, StoreError
from kmend.server.store.database import alive


@dataclass(frozen=True, slots=True)
class Readiness:
    """What was found.

    Attributes:
        problems: what keeps the server from being of use; empty if nothing does.
        remarks: what a person should look at; requests are answered all the same.
    """

    problems: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return not self.problems


def readiness(store: Store, mirror: Mirror, now: int) -> Readiness:
    """Ask the database, and look how fresh the repository is.

    An expired repository is a remark: hosts must be told of it by somebody.
    """
    problems, remarks = [], []
    try:
        alive(store)
    except StoreError as problem:
        problems.append(f"database: {problem.message}")
    timestamp = mirror.timestamp()
    if not timestamp.version:
        remarks.append("repository: nothing has been imported yet")
    elif timestamp.expires <= now:
        remarks.append("repository: its timestamp has expired; hosts take it for a frozen one")
    return Readiness(tuple(problems), tuple(remarks))
