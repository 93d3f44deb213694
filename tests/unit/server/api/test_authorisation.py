"""The matrix: every route, with every role, with no token, with one that is over, and with one of another ring."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from litestar.handlers import HTTPRouteHandler
from tests.unit.server.api.asking import Asked, Person, person
from tests.unit.server.hosts.machines import enrolled

from kmend.server.access.permissions import FLEET_WIDE, GRANTED, Permission, Role
from kmend.server.api.app import PREFIX, create_litestar
from kmend.server.api.guarding import PERMISSION
from kmend.server.store import Store

ID = "ab" * 16
FILLED = {"host": ID, "cve": "CVE-2026-1001", "ring": "nowhere", "key_id": ID, "rollout": ID, "plan": "nothing",
          "build_id": "5ca1ab1e" * 5, "level": "1", "token": ID, "channel": ID, "policy": "cis", "exception": ID}  # fmt: skip
BODIES: dict[str, Any] = {
    "move": {"ring": "ring0"},
    "tags": {"tags": {}},
    "decommission": {},
    "rings": {"position": 1},
    "enrolment-keys": {"ring": "ring0"},
    "plans": {"plan": {"stages": [{"ring": "ring0"}]}},
    "rollouts": {"name": "r", "plan": "nothing", "targets": {"5ca1ab1e" * 5: 1}},
    "tokens": {"name": "n", "roles": ["viewer"]},
    "channels": {"kind": "email", "target": "a@example.org"},
    **{key: {"reason": "because"} for key in ("approve", "pause", "resume", "abort")},
    "promote": {"reason": "because", "stage": 0},
    "policies": {"framework": "cis", "approved_by": "somebody"},
    "exceptions": {
        "cve": "CVE-2026-1001",
        "extent": "ring",
        "subject": "ring0",
        "reason": "r",
        "control": "c",
        "expires_in": 60,
    },
}


def routes(asked: Asked) -> Iterator[tuple[str, str, HTTPRouteHandler]]:
    """Method, path and handler of every route below the API's prefix, but the schema's."""
    for route in create_litestar(asked.services).routes:
        path = route.path
        if not path.startswith(PREFIX) or path.startswith(f"{PREFIX}/schema"):
            continue
        for handler in getattr(route, "route_handlers", ()):
            for method in sorted(handler.http_methods - {"OPTIONS"}):
                yield method, path.removeprefix(PREFIX), handler


def filled(path: str) -> str:
    parts = [FILLED[part[1:].partition(":")[0]] if part.startswith("{") else part for part in path.split("/")]
    return "/".join(parts)


def body_for(method: str, path: str) -> Any:
    if method not in ("POST", "PUT"):
        return None
    words = [part for part in path.split("/") if part and not part.startswith("{")]
    return BODIES.get(words[-1])


def test_every_route_says_which_permission_it_takes(asked: Asked) -> None:
    found = list(routes(asked))
    assert len(found) > 35
    for method, path, handler in found:
        assert isinstance(handler.opt.get(PERMISSION), Permission), f"{method} {path}"
        if method == "GET":
            assert handler.opt[PERMISSION] in (
                Permission.READ, Permission.KEYS, Permission.TOKENS, Permission.CHANNELS, Permission.AUDIT,
            )  # fmt: skip
        else:
            assert handler.opt[PERMISSION] is not Permission.READ, f"{method} {path} changes something"


def test_nothing_is_answered_without_a_token_that_counts(asked: Asked) -> None:
    over = person(asked, Role.ADMINISTRATOR, seconds=1)
    asked.now += 2
    for method, path, _ in routes(asked):
        for headers in (
            {},
            {"Authorization": f"Bearer {over.secret}"},
            {"Authorization": f"Basic {over.secret}"},
            {"Authorization": "Bearer kmend_token_" + "a" * 52},
            {"Authorization": "Bearer "},
            {"Authorization": over.secret},
            {"Cookie": f"token={over.secret}"},
        ):
            found = asked.ask(method, f"/api/v1{filled(path)}", headers=headers)
            assert found.status == 401, f"{method} {path}"
            assert found.word == "unauthenticated"
            assert "bearer" in found.headers["www-authenticate"].lower()
    # Nor is a token taken from the address, where it would be logged.
    good = person(asked, Role.ADMINISTRATOR)
    assert asked.ask("GET", f"/api/v1/me?token={good.secret}&access_token={good.secret}").status == 401


@pytest.mark.parametrize("role", list(Role))
def test_the_matrix_of_routes_and_roles(asked: Asked, role: Role) -> None:
    free, bound = person(asked, role), person(asked, role, rings=("ring1",))
    for method, path, handler in routes(asked):
        permission = handler.opt[PERMISSION]
        where, body = filled(path), body_for(method, path)
        found = free(method, where, body)
        if permission not in GRANTED[role]:
            assert (found.status, found.word) == (403, "forbidden"), f"{role} {method} {path}"
            assert bound(method, where, body).status == 403
            continue
        assert found.status not in (401, 403), f"{role} {method} {path}: {found.body!r}"
        assert found.status < 500
        limited = bound(method, where, body)
        assert limited.status < 500
        if permission in FLEET_WIDE:
            assert limited.status == 403, f"{role} bound to a ring: {method} {path}"


def ids_of(who: Person, path: str) -> set[str]:
    found = who("GET", path).json
    rows = found["items"] if isinstance(found, dict) else found
    return {row.get("id") or row.get("name") for row in rows}


def test_who_is_bound_to_a_ring_neither_sees_nor_touches_another(asked_both: Asked) -> None:
    store: Store = asked_both.store
    (mine,) = enrolled(store, "mine", ring="ring0")
    (other,) = enrolled(store, "other", ring="ring1")
    bound = person(asked_both, Role.OPERATOR, rings=("ring0",))
    free = person(asked_both, Role.OPERATOR)
    assert ids_of(bound, "/hosts") == {mine.id}
    assert ids_of(bound, "/hosts?ring=ring1") == set()
    assert ids_of(free, "/hosts") == {mine.id, other.id}
    assert ids_of(bound, "/rings") == {"ring0"}
    assert bound("GET", "/hosts/count").json == {"count": 1}
    assert other.id not in bound("GET", "/hosts/export").body.decode()
    for path in ("", "/why", "/reports"):
        assert bound("GET", f"/hosts/{other.id}{path}").word == "not-found"
    assert bound("POST", f"/hosts/{other.id}/move", {"ring": "ring0"}).word == "not-found"
    assert bound("POST", f"/hosts/{mine.id}/move", {"ring": "ring1"}).word == "forbidden"
    assert bound("PUT", f"/hosts/{other.id}/tags", {"tags": {"a": "b"}}).word == "not-found"
    assert bound("POST", f"/hosts/{other.id}/decommission", {}).word == "not-found"
    assert bound("POST", "/enrolment-keys", {"ring": "ring1"}).word == "forbidden"
    key = free("POST", "/enrolment-keys", {"ring": "ring1"}).json["key"]["id"]
    assert ids_of(bound, "/enrolment-keys") & {key} == set()
    assert bound("DELETE", f"/enrolment-keys/{key}").word == "not-found"
    assert bound("PUT", "/plans/p", {"plan": {"stages": [{"ring": "ring0"}]}}).word == "forbidden"
    assert free("GET", f"/hosts/{other.id}").json["ring"] == "ring1"


def test_a_viewer_changes_nothing(asked: Asked) -> None:
    viewer = person(asked, Role.VIEWER)
    for method, path, _ in routes(asked):
        if method != "GET":
            assert viewer(method, filled(path), body_for(method, path)).status == 403


def test_a_revoked_token_is_over_at_once(asked: Asked) -> None:
    admin, other = person(asked, Role.ADMINISTRATOR), person(asked, Role.VIEWER)
    assert other("GET", "/me").json["id"] == other.id
    assert admin("DELETE", f"/tokens/{other.id}").status == 204
    assert other("GET", "/me").status == 401
