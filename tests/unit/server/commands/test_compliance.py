"""The commands, against the whole application in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import click
import pytest
from click.testing import CliRunner
from tests.unit.intel.conftest import DATA
from tests.unit.intel.test_applicability import CHANGELOG
from tests.unit.server.api.asking import Answer, Asked, Person, person
from tests.unit.server.conftest import NOW
from tests.unit.server.hosts.machines import enrolled, judge
from tests.unit.server.knowledge.test_knowledge import KERNEL, ONE, vulns

from kmend.intel.feeds import read_changelog
from kmend.server import knowledge
from kmend.server.access.permissions import Role
from kmend.server.commands import compliance
from kmend.server.store import Store

DAY = 86_400


class Line:
    """What a command speaks to a server with, without a socket between."""

    def __init__(self, who: Person) -> None:
        self.who = who

    def _ask(self, method: str, parts: tuple[str, ...], query: Mapping[str, object], body: object = None) -> Any:
        given = {name: value for name, value in query.items() if value not in (None, "")}
        path = "/" + "/".join(quote(part, safe="") for part in parts) + (f"?{urlencode(given)}" if given else "")
        answer: Answer = self.who(method, path, body)
        assert answer.status < 300, answer.body
        return answer.json if answer.body else None

    def get(self, *parts: str, **query: object) -> Any:
        return self._ask("GET", parts, query)

    def post(self, *parts: str, body: object = None) -> Any:
        return self._ask("POST", parts, {}, body)

    def put(self, *parts: str, body: object) -> Any:
        return self._ask("PUT", parts, {}, body)

    def delete(self, *parts: str) -> None:
        self._ask("DELETE", parts, {})

    def every(self, *parts: str, **query: object) -> Iterator[Mapping[str, Any]]:
        yield from self.get(*parts, **query)["items"]


@pytest.fixture
def asked(sqlite: Store) -> Iterator[Asked]:
    made = Asked(sqlite)
    yield made
    made.close()


def test_deadlines_exceptions_and_the_order_by_commands(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = asked.store
    knowledge.import_cna(store, vulns(tmp_path / "v"), version="a", as_of=NOW, now=NOW)
    knowledge.import_changelog(store, read_changelog(CHANGELOG), as_of=NOW, now=NOW)
    knowledge.import_facts(store, KERNEL, now=NOW)
    knowledge.judge_builds(store)
    (host,) = enrolled(store, "web-1")
    judge(store, host.check_in())
    line = Line(person(asked, Role.ADMINISTRATOR, Role.APPROVER, seconds=90 * DAY))
    monkeypatch.setattr(compliance, "connect", lambda context: line)

    def run(command: click.Command, *words: str, status: int = 0) -> str:
        found = CliRunner().invoke(command, words, catch_exceptions=True)
        assert found.exit_code == status, (found.output, found.exception)
        return found.stdout

    rows = tmp_path / "ours.toml"
    rows.write_text('[[rows]]\nname = "Ours"\ndays = 14\nclock = "disclosure"\n')
    assert "Ours" in run(compliance.policy, "set", "default", "own", "--rows", str(rows), "--approved-by", "CISO")
    table = DATA / "cisa-bod-26-04.csv"
    told = run(
        compliance.policy, "set", "default", "cisa-bod-26-04", "--rows", str(table), "--approved-by", "x", "--json"
    )
    assert len(json.loads(told)["rows"]) == 16
    run(compliance.policy, "set", "default", "own", "--approved-by", "CISO", status=1)
    assert "own rows" in run(compliance.policy, "list", "--past")
    assert "HIPAA" in run(compliance.policy, "frameworks")
    asked.now = NOW + 15 * DAY
    assert "overdue: 4 of CVE, ring and deadline; 4 of host and CVE" in run(compliance.forecast, "--within", "7")
    assert json.loads(run(compliance.forecast, "--json"))["buckets"]["Ours"]["0-7"] == 2
    made = json.loads(run(
        compliance.exception, "add", ONE, "--ring", "default", "--reason", "r", "--control", "c", "--expires", "30d", "--json",
    ))  # fmt: skip
    assert "accepted until" in run(compliance.exception, "approve", made["id"])
    assert "in force" in run(compliance.exception, "list", "--state", "in force")
    assert "overdue: 2 of CVE" in run(compliance.forecast)
    assert ONE not in run(compliance.cves)
    run(compliance.exception, "withdraw", made["id"])
    assert ONE in run(compliance.cves)
    assert "its code is built into the kernel" in run(compliance.cves, "--why")
    run(compliance.policy, "remove", "default", "own")
    assert "Ours" not in run(compliance.forecast)
