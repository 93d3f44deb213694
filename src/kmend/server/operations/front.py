"""The outermost ASGI application: what is not the API's, and what is done for every request.

It answers `/repository/...`, `/v1/authority`, `/healthz`, `/readyz` and `/metrics` by itself and hands everything else on. Each
request gets a number (or keeps the one that a proxy gave it), is counted, and logged if it is a person's or was refused.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from kmend.core import wire
from kmend.server.operations import health, logs, metrics
from kmend.server.repository import Mirror
from kmend.server.repository.files import Receive, RepositoryFiles, Scope, Send
from kmend.server.store import Store

App = Callable[[Scope, Receive, Send], Any]
AUTHORITY_PATH = "/v1/authority"
REQUEST_HEADER = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_logger = logging.getLogger("kmend.server.requests")


@dataclass(slots=True)
class Front:
    """The application that uvicorn runs.

    Attributes:
        inner: the API.
        files: the repository's files; None if somebody else hands them out.
        authority: the certificate of the server's own authority, PEM; empty if it has none.
        metrics_token: what others than this machine read the metrics with; empty: nobody else may.
        busy_at: so many requests at once, and further ones are told to come back later.
    """

    inner: App
    store: Store
    mirror: Mirror
    clock: Callable[[], int]
    files: RepositoryFiles | None = None
    authority: str = ""
    metrics_token: str = field(default="", repr=False)
    busy_at: int = 20_000
    log_requests: bool = True
    _active: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        headers = _headers(scope)
        given = headers.get(REQUEST_HEADER, "")
        number = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        logs.request_id.set(number)
        scope.setdefault("state", {})["request_id"] = number
        path, area = str(scope["path"]), area_of(str(scope["path"]))
        status = 500
        begun = time.monotonic()

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_HEADER.encode(), number.encode())]
            await send(message)

        self._active += 1
        metrics.connections.set(self._active)
        try:
            if self._active > self.busy_at and area != "health":
                metrics.refusals.labels(area=area, problem="busy").inc()
                await _problem(noted, 503, "busy", "the server has too much to do", {"retry-after": "5"})
            else:
                await self._route(area, path, headers, scope, receive, noted)
        finally:
            self._active -= 1
            metrics.connections.set(self._active)
            seconds = time.monotonic() - begun
            method = (
                str(scope["method"]) if scope["method"] in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE") else "?"
            )
            metrics.requests.labels(area=area, method=method, status=str(status)).inc()
            if path != wire.NEWS_PATH:
                metrics.request_seconds.labels(area=area).observe(seconds)
            self._log(area, path, status, seconds, scope)

    async def _route(
        self, area: str, path: str, headers: Mapping[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        if area == "repository":
            if self.files is None:
                await _problem(send, 404, "not-found", "the repository is handed out elsewhere")
            else:
                await self.files(scope, receive, send)
        elif path == AUTHORITY_PATH and self.authority and scope["method"] == "GET":
            await _respond(send, 200, self.authority.encode(), "application/x-pem-file")
        elif path == "/healthz":
            await _respond(send, 200, b'{"status":"alive"}', "application/json")
        elif path == "/readyz":
            found = await asyncio.to_thread(health.readiness, self.store, self.mirror, self.clock())
            body = {"ready": found.ready, "problems": found.problems, "remarks": found.remarks}
            await _respond(send, 200 if found.ready else 503, json.dumps(body).encode(), "application/json")
        elif path == "/metrics":
            if self._may_read_metrics(headers, scope):
                await _respond(
                    send, 200, await asyncio.to_thread(metrics.text), "text/plain; version=0.0.4; charset=utf-8"
                )
            else:
                metrics.refusals.labels(area="health", problem="metrics-denied").inc()
                await _problem(send, 401, "unauthenticated", "metrics are for this machine, or need their token")
        else:
            await self.inner(scope, receive, send)

    def _may_read_metrics(self, headers: Mapping[str, str], scope: Scope) -> bool:
        given = headers.get("authorization", "").removeprefix("Bearer ").encode()
        if self.metrics_token and hmac.compare_digest(given, self.metrics_token.encode()):
            return True
        # A load balancer on this machine comes from loopback, too; what it hands on is not this machine's.
        forwarded = "x-forwarded-for" in headers or "forwarded" in headers
        client = scope.get("client")
        try:
            return client is not None and not forwarded and ipaddress.ip_address(client[0]).is_loopback
        except ValueError:
            return False

    def _log(self, area: str, path: str, status: int, seconds: float, scope: Scope) -> None:
        person = area == "api" and self.log_requests
        if not person and (status < 400 or area == "repository"):
            return
        client = scope.get("client")
        level = logging.INFO if status < 500 else logging.WARNING
        extra = {"method": scope["method"], "path": path[:200], "status": status, "seconds": round(seconds, 4)}
        if client is not None:
            extra["client"] = client[0]
        _logger.log(level, "request", extra=extra)


def area_of(path: str) -> str:
    """Which part of the server a path belongs to; one of a few words."""
    if path.startswith("/repository/"):
        return "repository"
    if path in ("/healthz", "/readyz", "/metrics"):
        return "health"
    if path.startswith("/v1/"):
        return path[4:] if path in (wire.ENROL_PATH, wire.CHECK_IN_PATH, wire.NEWS_PATH, wire.SPLIT_PATH) else "host"
    return "api" if path.startswith("/api/") else "other"


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


async def _respond(send: Send, status: int, body: bytes, kind: str, extra: Mapping[str, str] | None = None) -> None:
    headers = {"content-type": kind, "content-length": str(len(body)), "cache-control": "no-store", **(extra or {})}
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


async def _problem(send: Send, status: int, word: str, detail: str, extra: Mapping[str, str] | None = None) -> None:
    tree = {"type": f"urn:kmend:problem:{word}", "title": word, "status": status, "detail": detail}
    await _respond(send, status, json.dumps(tree).encode(), "application/problem+json", extra)
