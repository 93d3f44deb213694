"""One server process: the API over TLS, the check-ins' batches, and the clockwork, from the first request to an orderly end.

The end: no new connections; hosts that wait for news are let go; requests under way are answered, within a limit; the clockwork
stops and gives its leases back; what check-ins still wait for the database is written; the database is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from kmend.core import durable
from kmend.core.errors import KmendError
from kmend.core.notifying import Notifier
from kmend.server.api.app import create_app
from kmend.server.api.services import Services
from kmend.server.config import ServerConfig
from kmend.server.operations import authority, founding, front
from kmend.server.operations.certificates import ServedCertificate
from kmend.server.operations.clockwork import Clockwork
from kmend.server.operations.duties import Duties
from kmend.server.operations.errors import OperationError
from kmend.server.operations.listening import BACKLOG
from kmend.server.operations.protocol import BoundedProtocol
from kmend.server.repository import Mirror
from kmend.server.repository.files import RepositoryFiles, Source
from kmend.server.repository.folder import Folder
from kmend.server.repository.objects import Bucket
from kmend.server.store import Store, open_store

GRACE_SECONDS = 20
"""What requests under way get at the end."""
FAREWELL_SECONDS = 0.5
"""What connections without a request get."""
KEEP_ALIVE_SECONDS = 75
_MAX_TOKEN = 4096
_logger = logging.getLogger(__name__)


def whole_seconds() -> int:
    """The clock of the whole server: seconds since 1970-01-01 UTC."""
    return int(time.time())


@dataclass(slots=True)
class Process:
    """Everything that one server process is made of; `build` puts it together, `serve` runs it."""

    config: ServerConfig
    store: Store
    services: Services
    duties: Duties
    clockwork: Clockwork
    front: front.Front
    served: ServedCertificate | None

    def close(self) -> None:
        """After the last request: everything that still has to be written is."""
        self.clockwork.stop()
        self.services.close()
        self.duties.close()
        self.store.close()


def build(config: ServerConfig, *, clock: Callable[[], int] = whole_seconds) -> Process:
    """Put a server process together; nothing runs yet but the check-ins' thread.

    Raises:
        KmendError: something that it needs is missing or not usable.
    """
    store = open_store(config.database_url, pool=config.database.pool)
    try:
        with store.read() as connection:
            if founding.founded_at(connection) is None:
                raise OperationError("this server is not complete", hint="run kmend-server init again")
        served = None if config.tls.off else _certificate(config)
        mirror = Mirror(store)
        services = Services.create(store=store, config=config, mirror=mirror, clock=clock)
        duties = Duties(config, store, mirror, served)
        source = _source(config)
        outer = front.Front(
            create_app(services),
            store,
            mirror,
            clock,
            files=RepositoryFiles(source) if source is not None else None,
            authority=config.authority.read_text("ascii") if config.authority is not None else "",
            metrics_token=_secret(config.metrics.token_file),
            busy_at=config.limits.requests,
            log_requests=config.log.requests,
        )
        return Process(config, store, services, duties, Clockwork(store, duties.all(), clock), outer, served)
    except BaseException:
        store.close()
        raise


def serve(
    process: Process, sockets: Sequence[socket.socket], *, notifier: Notifier, stop_after: float | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, or for `stop_after` seconds."""
    context = process.served.context if process.served is not None else None
    settings = uvicorn.Config(
        process.front,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(process.config.server.proxies),
        forwarded_allow_ips=list(process.config.server.proxies),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        backlog=BACKLOG,
        ssl_context_factory=(lambda _, __: context) if context is not None else None,
    )
    server = _Server(settings, process, notifier, stop_after)
    try:
        server.run(sockets=list(sockets))
    finally:
        process.close()


class _Server(uvicorn.Server):
    """uvicorn's, that ends as we do and tells systemd."""

    def __init__(
        self, settings: uvicorn.Config, process: Process, notifier: Notifier, stop_after: float | None
    ) -> None:
        super().__init__(settings)
        self._process = process
        self._notifier = notifier
        self._stop_after = stop_after
        self._alive_at = 0.0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """A signal is a wish to end, which is fulfilled with exit status 0; uvicorn would raise it again afterwards."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open, then begin what is done by time."""
        await super().startup(sockets=sockets)
        if self.should_exit:
            return
        # What is there by now stays: left in, each full collection would walk all of it, and hold up whoever waits meanwhile.
        gc.collect()
        gc.freeze()
        self._process.clockwork.start()
        if self._stop_after is not None:
            asyncio.get_running_loop().call_later(self._stop_after, self._end)
        self._notifier.ready()
        _logger.info("ready")

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; tell systemd while everything turns."""
        if self._notifier.watchdog and self._process.clockwork.alive:
            moment = time.monotonic()
            if moment - self._alive_at > self._notifier.watchdog / 3:
                self._alive_at = moment
                self._notifier.alive()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let waiting hosts go first: they would keep their connections for minutes."""
        self._notifier.stopping()
        self._process.services.release()
        cutting = asyncio.ensure_future(self._cut_idle())
        try:
            await super().shutdown(sockets=sockets)
        finally:
            cutting.cancel()

    async def _cut_idle(self) -> None:
        """Cut kept connections on which nothing goes on: their owners do not listen, and would not answer TLS's farewell."""
        while True:
            await asyncio.sleep(FAREWELL_SECONDS)
            for connection in list(self.server_state.connections):
                if isinstance(connection, BoundedProtocol) and connection.idle:
                    connection.transport.abort()

    def _end(self) -> None:
        self.should_exit = True


def _certificate(config: ServerConfig) -> ServedCertificate:
    if config.authority is not None:
        try:
            authority.renew(config.data / "tls", now=datetime.datetime.now(datetime.timezone.utc))
        except (KmendError, ValueError) as problem:  # what is there may be good for weeks
            _logger.error("the server's certificate cannot be issued anew: %s", problem)
    return ServedCertificate(config.certificate, config.key)


def _source(config: ServerConfig) -> Source | None:
    if config.object_store.serve:
        return Bucket.of(config.object_store)
    return Folder(config.repository_folder) if config.repository_folder is not None else None


def _secret(path: str) -> str:
    return durable.read_bounded(Path(path), max_bytes=_MAX_TOKEN).decode().strip() if path else ""
