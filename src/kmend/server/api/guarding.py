"""Who asks, and whether they may. Every route says in its `opt` which permission it takes; one that does not is a mistake."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from kmend.server.access import tokens
from kmend.server.access.errors import UnauthenticatedError
from kmend.server.access.permissions import Caller, Permission, may
from kmend.server.access.tokens import Token
from kmend.server.api.services import Services

PERMISSION = "permission"
_SCHEME = "bearer "


def needs(permission: Permission) -> dict[str, Any]:
    """What a route says: `@get(..., opt=needs(Permission.READ))`."""
    return {PERMISSION: permission}


class Guard:
    """The guard of every route of the API."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def __deepcopy__(self, memo: dict[int, object]) -> Guard:
        """Itself: Litestar copies routers with everything that hangs on them, and there is one database."""
        return self

    async def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Let pass, with the caller as the connection's user.

        Raises:
            UnauthenticatedError: no token, or none that counts.
            ForbiddenError: a token that is not for this.
        """
        given = connection.headers.get("authorization", "")
        secret = given[len(_SCHEME) :].strip() if given.lower().startswith(_SCHEME) else ""
        token = await asyncio.to_thread(self._recognise, secret) if secret else None
        if token is None:
            raise UnauthenticatedError("there is no token in the request, or none that counts")
        permission: Permission = handler.opt[PERMISSION]
        caller = tokens.caller(token)
        may(caller, permission)
        connection.scope["user"] = caller

    def _recognise(self, secret: str) -> Token | None:
        services, now = self._services, self._services.clock()
        with services.store.read() as connection:
            token = tokens.recognise(connection, secret, now)
        if token is None:
            return None
        if token.last_used_at is None or token.last_used_at <= now - tokens.USE_EVERY_SECONDS:
            services.store.transact(lambda connection: tokens.note_use(connection, token.id, now))
        return token


def caller_of(request: Request[Caller, Any, Any]) -> Caller:
    """The caller, for routes that ask for `caller`."""
    return request.user
