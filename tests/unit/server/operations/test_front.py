"""The outermost application: areas, the limit, and who reads the metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from kmend.server.operations.front import Front, area_of
from kmend.server.repository import Mirror
from kmend.server.store import Store


async def inner(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def front(store: Store, **other: Any) -> Front:
    return Front(inner, store, Mirror(store), lambda: 1_790_000_000, **other)


async def ask(
    app: Front, path: str, client: str = "192.0.2.1", headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    given = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": "GET", "path": path, "headers": given, "client": (client, 1)}
    await app(scope, receive, send)
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize(
    ("path", "area"),
    [
        ("/v1/check-in", "check-in"), ("/v1/news", "news"), ("/v1/x", "host"), ("/api/v1/hosts", "api"), ("/healthz", "health"),
        ("/repository/files/aa/x", "repository"), ("/repository", "other"), ("/" + "a" * 500, "other"),
    ],
)  # fmt: skip
def test_every_path_is_of_one_of_a_few_areas(path: str, area: str) -> None:
    assert area_of(path) == area


def test_too_many_at_once_are_told_to_come_back_and_health_is_still_answered(sqlite: Store) -> None:
    app = front(sqlite, busy_at=3)

    async def many() -> list[tuple[int, bytes]]:
        return await asyncio.gather(*(ask(app, "/api/v1/x") for _ in range(10)), ask(app, "/healthz"))

    found = asyncio.run(many())
    assert [status for status, _ in found[:10]].count(204) == 3
    assert {status for status, _ in found[:10]} == {204, 503}
    assert found[10][0] == 200
    assert json.loads(next(body for status, body in found if status == 503))["type"] == "urn:kmend:problem:busy"
    assert asyncio.run(ask(app, "/api/v1/x"))[0] == 204


def test_metrics_are_for_this_machine_and_for_who_has_the_token(sqlite: Store) -> None:
    app, open_to_none = front(sqlite, metrics_token="let me in"), front(sqlite)
    for client, headers, status in (
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("192.0.2.1", {}, 401),
        ("127.0.0.1", {"x-forwarded-for": "192.0.2.1"}, 401),
        ("192.0.2.1", {"authorization": "Bearer let me in"}, 200),
        ("192.0.2.1", {"authorization": "Bearer let me out"}, 401),
        ("192.0.2.1", {"authorization": "Bearer "}, 401),
        ("nonsense", {}, 401),
    ):
        assert asyncio.run(ask(app, "/metrics", client, headers))[0] == status, (client, headers)
    assert asyncio.run(ask(open_to_none, "/metrics", headers={"authorization": "Bearer "}))[0] == 401


def test_readiness_needs_the_database(sqlite: Store) -> None:
    app = front(sqlite)
    status, body = asyncio.run(ask(app, "/readyz"))
    assert status == 200
    assert "nothing has been imported" in json.loads(body)["remarks"][0]


def test_what_is_handed_out_elsewhere_is_not_here(sqlite: Store) -> None:
    assert asyncio.run(ask(front(sqlite), "/repository/metadata/timestamp.json"))[0] == 404
    assert asyncio.run(ask(front(sqlite), "/v1/authority"))[0] == 204  # handed on
