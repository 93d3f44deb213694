"""The API against its own description: whatever the OpenAPI document allows, and what it does not, is answered as it says."""

from __future__ import annotations

from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from tests.unit.server.api.asking import Asked, Person, person

from kmend.server.access.permissions import Role
from kmend.server.api.app import PREFIX

EXAMPLES = 15
"""Of each operation, in this suite; the slow one takes more."""


def document(asked: Asked) -> dict[str, Any]:
    found = asked.ask("GET", f"{PREFIX}/schema/openapi.json")
    assert found.status == 200
    tree: dict[str, Any] = found.json
    return tree


def test_the_description_is_openapi_3_1_and_whole(asked: Asked) -> None:
    tree = document(asked)
    assert tree["openapi"].startswith("3.1")
    operations = [operation for path in tree["paths"].values() for operation in path.values()]
    assert len(operations) > 35
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    for operation in operations:
        assert operation["description"], operation["operationId"]
        assert operation["security"] == [{"token": []}]
    assert tree["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def _try(asked: Asked, who: Person, examples: int) -> None:
    schema = schemathesis.openapi.from_dict(document(asked))
    found: Any
    for found in schema.get_all_operations():
        for mode in GenerationMode:
            _try_one(asked, who, found.ok().as_strategy(generation_mode=mode), examples)


def _try_one(asked: Asked, who: Person, cases: Any, examples: int) -> None:
    @settings(
        max_examples=examples,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
        database=None,
    )
    @given(case=cases)
    def one(case: Any) -> None:
        _answer(asked, who, case)

    one()


def _answer(asked: Asked, who: Person, case: Any) -> None:
    """Send a case; no answer is a mistake of ours, and every refusal is a problem document."""
    request = case.as_transport_kwargs(base_url="https://kmend.example")
    made: Any = requests.Request(**{name: value for name, value in request.items() if name in _KNOWN}).prepare()
    headers = {str(name): _text(value) for name, value in made.headers.items() if name.lower() != "authorization"}
    body = made.body or b""
    path = (made.path_url or "/").encode("ascii", "replace").decode()
    given_token = {**headers, "Authorization": f"Bearer {who.secret}"}
    answer = asked.ask(case.method.upper(), path, body if isinstance(body, bytes) else str(body).encode(), given_token)
    assert answer.status < 500, f"{case.method} {path}: {answer.body[:300]!r}"
    if answer.status >= 400:
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert answer.json["status"] == answer.status
        assert answer.json["type"].startswith("urn:kmend:problem:")


_KNOWN = ("method", "url", "headers", "params", "data", "json", "cookies")


def _text(value: object) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return text.encode("latin-1", "replace").decode("latin-1")


def test_whatever_is_asked_is_answered(asked: Asked) -> None:
    _try(asked, person(asked, Role.ADMINISTRATOR, Role.APPROVER, Role.AUDITOR), EXAMPLES)


@pytest.mark.slow
def test_whatever_is_asked_is_answered_for_long(asked_both: Asked) -> None:
    _try(asked_both, person(asked_both, Role.ADMINISTRATOR, Role.APPROVER, Role.AUDITOR), 200)
