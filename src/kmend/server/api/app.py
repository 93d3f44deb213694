"""The API as one ASGI application: hosts' four paths, and everything of people below `/api/v1`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from sqlalchemy.exc import DataError, IntegrityError

from kmend import __version__
from kmend.core.errors import KmendError
from kmend.server.api import problems
from kmend.server.api.guarding import Guard, caller_of
from kmend.server.api.hostside import HostSide, Receive, Scope, Send
from kmend.server.api.routes import compliance, documents, evidence, hosts, knowledge, levels, people, rings, rollouts
from kmend.server.api.services import Services

PREFIX = "/api/v1"
MAX_BODY_BYTES = 4 * 1024 * 1024
"""Of a person's request: a rollout of every kernel build there is."""


_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


def create_app(services: Services) -> Callable[[Scope, Receive, Send], Any]:
    """The application for one process."""
    people_side = create_litestar(services)
    host_side = HostSide(services)

    async def application(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and str(scope["path"]).startswith("/v1/"):
            await host_side(scope, receive, send)
        else:
            await people_side(scope, receive, _guarded(send))  # type: ignore[arg-type]

    return application


def _guarded(send: Send) -> Send:
    """Every answer to people, refusals too, with what keeps it out of caches and from being taken for something else."""

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return sending


def create_litestar(services: Services) -> Litestar:
    """What people and programs speak to."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        services.hold.start()
        yield

    return Litestar(
        route_handlers=[
            Router(
                PREFIX,
                route_handlers=[
                    hosts.router,
                    rings.router,
                    rollouts.router,
                    levels.router,
                    knowledge.router,
                    compliance.router,
                    documents.router,
                    evidence.router,
                    people.router,
                ],
                guards=[Guard(services)],
                dependencies={
                    "services": Provide(lambda: services, use_cache=True, sync_to_thread=False),
                    "caller": Provide(caller_of, sync_to_thread=False),
                    "wanted": Provide(hosts.wanted, sync_to_thread=False),
                },
                security=[{"token": []}],
            )
        ],
        exception_handlers={
            KmendError: problems.of_ours,
            HTTPException: problems.of_http,
            IntegrityError: problems.of_conflict,
            DataError: problems.of_data,
            RecursionError: problems.of_depth,
            Exception: problems.unforeseen,
        },
        openapi_config=OpenAPIConfig(
            title="kmend-server",
            version=__version__,
            description="Hosts, rings, rollouts, levels, tokens and the audit log of a kmend server.",
            path=f"{PREFIX}/schema",
            render_plugins=[JsonRenderPlugin()],
            use_handler_docstrings=True,
            components=Components(security_schemes={"token": SecurityScheme(type="http", scheme="bearer")}),
        ),
        lifespan=[lifespan],
        request_max_body_size=MAX_BODY_BYTES,
        state=State(),
        logging_config=None,
        debug=False,
    )
