"""What the API says of a host's CVEs: since when, both clocks, and by which feeds and rules."""

from __future__ import annotations

from pathlib import Path

from tests.unit.server.api.asking import Asked, person
from tests.unit.server.conftest import NOW
from tests.unit.server.hosts.machines import enrolled, judge
from tests.unit.server.knowledge.test_knowledge import KERNEL, ONE, published, vulns

from kmend.intel import applicability, verdicts
from kmend.server import knowledge
from kmend.server.access.permissions import Role
from kmend.server.hosts import upkeep

HOUR = 3600


def test_since_when_and_both_clocks(asked: Asked, tmp_path: Path) -> None:
    store, ask = asked.store, person(asked, Role.VIEWER, seconds=24 * HOUR)
    knowledge.import_cna(store, vulns(tmp_path), version="a", as_of=NOW, now=NOW)
    knowledge.import_facts(store, KERNEL, now=NOW)
    knowledge.judge_builds(store)
    (host,) = enrolled(store, "web-1")
    judge(store, host.check_in(), now=NOW)
    published(store, 1, ONE)
    host.level, host.phase = 1, "steady"
    judge(store, host.check_in(), now=NOW + HOUR)
    host.level, host.phase, host.boot = 0, "idle", 2
    judge(store, host.check_in(), now=NOW + 3 * HOUR)
    asked.now = NOW + 4 * HOUR
    found = ask("GET", f"/hosts/{host.id}/cves/{ONE}").json
    wanted = {
        "verdict": "available", "published": NOW, "since": NOW + 3 * HOUR, "open_since": NOW, "fix_since": NOW,
        "closed_since": None, "exposed": 2 * HOUR, "reopened": 1, "rules": verdicts.RULES,
        "applicability_rules": applicability.RULES, "feeds": {"cna": ["a", 4 * HOUR]},
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
    assert [(item["at"], item["verdict"], item["detail"]) for item in found["changes"]] == [
        (NOW, "available", "level 1"), (NOW + HOUR, "live-patched", "level 1"), (NOW + 3 * HOUR, "available", "level 1"),
    ]  # fmt: skip
    (listed,) = ask("GET", f"/hosts/{host.id}/cves?verdict=available").json["items"]
    of_one = ("changes", "deadlines", "accepted_until")
    assert listed == {name: value for name, value in found.items() if name not in of_one}


def test_a_host_that_was_taken_out_as_soon_as_it_had_come(asked: Asked, tmp_path: Path) -> None:
    store, ask = asked.store, person(asked, Role.VIEWER)
    knowledge.import_cna(store, vulns(tmp_path), version="a", as_of=NOW, now=NOW)
    knowledge.import_facts(store, KERNEL, now=NOW)
    knowledge.judge_builds(store)
    (host,) = enrolled(store, "web-1")
    judge(store, host.check_in(), now=NOW)
    with store.write() as connection:
        upkeep.decommission(connection, host.id, actor="token:1", now=NOW)
    found = ask("GET", f"/hosts/{host.id}/cves")
    assert found.status == 200
    assert {item["open_since"] for item in found.json["items"]} == {None}
    assert ask("GET", f"/hosts/{host.id}/cves/{ONE}").json["changes"] == []


def test_a_hosts_cves_come_in_pages(asked: Asked, tmp_path: Path) -> None:
    store, ask = asked.store, person(asked, Role.VIEWER)
    knowledge.import_cna(store, vulns(tmp_path), version="a", as_of=NOW, now=NOW)
    knowledge.import_facts(store, KERNEL, now=NOW)
    knowledge.judge_builds(store)
    (host,) = enrolled(store, "web-1")
    judge(store, host.check_in(), now=NOW)
    whole = ask("GET", f"/hosts/{host.id}/cves").json
    assert len(whole["items"]) > 1
    assert whole["next"] == ""
    found, cursor = [], ""
    for _ in whole["items"]:
        page = ask("GET", f"/hosts/{host.id}/cves?limit=1&cursor={cursor}").json
        assert page["counts"] == whole["counts"]
        assert page["effective"] == whole["effective"]
        found += page["items"]
        cursor = page["next"]
    assert found == whole["items"]
    assert cursor == ""
    assert ask("GET", f"/hosts/{host.id}/cves?cursor=x").status == 400
    assert ask("GET", f"/hosts/{host.id}/cves?limit=501").status == 400
