"""What the API stands on, put together once for a process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Connection

from kmend.server.api.holding import Hold
from kmend.server.compliance.keeping import Keeping
from kmend.server.config import ServerConfig
from kmend.server.hosts.batching import Batcher
from kmend.server.hosts.checkin import Circumstances
from kmend.server.repository import Mirror
from kmend.server.rollouts import Rollouts
from kmend.server.store import Store, settings


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that a request may need; `create` makes one.

    Attributes:
        server_id: part of every signature of a host.
        clock: seconds since 1970-01-01 UTC.
        answers: what takes long to find out of a large fleet.
    """

    store: Store
    config: ServerConfig
    mirror: Mirror
    clock: Callable[[], int]
    server_id: str
    batcher: Batcher
    hold: Hold
    answers: Keeping = field(default_factory=Keeping)

    @classmethod
    def create(cls, *, store: Store, config: ServerConfig, mirror: Mirror, clock: Callable[[], int]) -> Services:
        """Put them together; the check-ins' thread runs from now on."""
        with store.read() as connection:
            server_id = settings.read(connection, settings.SERVER_ID) or ""

        def circumstances(connection: Connection) -> Circumstances:
            return Circumstances(server_id, mirror.current(connection).text, config.server.interval, clock())

        batcher = Batcher(store, Rollouts(), circumstances, most=config.limits.waiting)
        return cls(store, config, mirror, clock, server_id, batcher, Hold(store, most=config.limits.held))

    def release(self) -> None:
        """From the event loop: let hosts that wait for news go, and have no other wait."""
        self.hold.release()

    def close(self) -> None:
        """Judge what check-ins have been submitted; end own threads."""
        self.hold.close()
        self.batcher.close()
