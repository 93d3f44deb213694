"""A server process without sockets: the whole ASGI application in an event loop of its own, and who asks it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote

from tests.unit.server.conftest import NOW, SERVER_ID
from tests.unit.server.hosts.machines import Machine

from kmend.core import wire
from kmend.core.document import encode
from kmend.core.wire import NewsRequest, Purpose, signed_bytes
from kmend.server.access import tokens
from kmend.server.access.permissions import Role
from kmend.server.api.app import create_app
from kmend.server.api.services import Services
from kmend.server.config import ServerConfig
from kmend.server.operations.front import Front
from kmend.server.repository import Mirror
from kmend.server.store import Store

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def word(self) -> str:
        """Of a problem."""
        assert self.headers["content-type"].startswith("application/problem+json"), self
        return str(self.json["type"]).removeprefix("urn:kmend:problem:")


@dataclass
class Asked:
    """The application, and the time there."""

    store: Store
    config: ServerConfig = field(default_factory=ServerConfig)
    now: int = NOW

    def __post_init__(self) -> None:
        mirror = Mirror(self.store)
        self.services = Services.create(store=self.store, config=self.config, mirror=mirror, clock=lambda: self.now)
        self.app = Front(create_app(self.services), self.store, mirror, lambda: self.now, authority="-----BEGIN")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._life: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._run(self._begin())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self.services.release)
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.services.close()

    def start(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, gone: bool = False
    ) -> Future[Answer]:
        """Send a request; its answer comes later."""
        return asyncio.run_coroutine_threadsafe(self._ask(method, path, body, headers or {}, gone), self._loop)

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        return self.start(method, path, body, headers).result(30)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _begin(self) -> None:
        begun = asyncio.Event()
        ended = self._ended = asyncio.Event()
        await self._life.put({"type": "lifespan.startup"})

        async def send(message: Any) -> None:
            assert "failed" not in message["type"], message
            (begun if message["type"] == "lifespan.startup.complete" else ended).set()

        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self._task = asyncio.ensure_future(self.app(scope, self._life.get, send))
        await begun.wait()

    async def _end(self) -> None:
        await self._life.put({"type": "lifespan.shutdown"})
        await self._ended.wait()
        await self._task

    async def _ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str], gone: bool) -> Answer:
        where, _, query = path.partition("?")
        sent: list[dict[str, Any]] = []
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        over = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop(0)
            if not gone:
                await over.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(dict(message))
            if message["type"] == "http.response.body" and not message.get("more_body"):
                over.set()

        given = {"content-length": str(len(body)), **{name.lower(): value for name, value in headers.items()}}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": unquote(where),
            "raw_path": where.encode(), "query_string": query.encode(), "root_path": "", "scheme": "https",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("192.0.2.7", 40000), "server": ("kmend.example", 8443), "state": {}, "extensions": {},
        }  # fmt: skip
        await self.app(scope, receive, send)
        if not sent:
            return Answer(0, {}, b"")
        found = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:]))


@dataclass(frozen=True)
class Person:
    """Who asks with a token."""

    asked: Asked
    secret: str
    id: str

    def __call__(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        content = b"" if body is None else json.dumps(body).encode()
        given = {"Authorization": f"Bearer {self.secret}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        if body is not None:
            given["Content-Type"] = "application/json"
        return self.asked.ask(method, f"/api/v1{path}", content, given)


def person(asked: Asked, *roles: Role, rings: tuple[str, ...] = (), seconds: int = 3600) -> Person:
    def work(connection: Any) -> Any:
        return tokens.create(
            connection,
            name="p",
            roles=roles,
            rings=rings,
            expires_at=asked.now + seconds,
            actor="server",
            now=asked.now,
        )

    token, secret = asked.store.transact(work)
    return Person(asked, secret, token.id)


def host_headers(machine: Machine, signature: str) -> dict[str, str]:
    return {wire.HOST_HEADER: machine.id, wire.SIGNATURE_HEADER: signature}


def news_request(machine: Machine, seen: str, at: int, wait: int = 300) -> tuple[bytes, dict[str, str]]:
    body = encode(NewsRequest(machine.id, seen, at, wait))
    signature = machine.key.sign(signed_bytes(Purpose.NEWS, SERVER_ID, body)).hex()
    return body, host_headers(machine, signature)
