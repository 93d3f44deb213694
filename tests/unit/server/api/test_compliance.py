"""Policies, exceptions, forecast and ranking as people ask for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert
from tests.unit.intel.test_applicability import CHANGELOG
from tests.unit.server.api.asking import Asked, Person, person
from tests.unit.server.conftest import NOW
from tests.unit.server.hosts.machines import Machine, enrolled, judge
from tests.unit.server.knowledge.test_knowledge import KERNEL, ONE, THREE, vulns

from kmend.intel.feeds import read_changelog
from kmend.server import knowledge
from kmend.server.access.permissions import Role
from kmend.server.compliance import exceptions, keeping
from kmend.server.store import tables

DAY = 86_400
OWN = {"framework": "own", "approved_by": "CISO", "rows": [{"name": "Ours", "days": 14, "clock": "disclosure"}]}


@pytest.fixture
def machines(asked: Asked, tmp_path: Path) -> list[Machine]:
    """One in each ring; ONE and THREE are open on both."""
    store = asked.store
    knowledge.import_cna(store, vulns(tmp_path / "v"), version="a", as_of=NOW, now=NOW)
    knowledge.import_changelog(store, read_changelog(CHANGELOG), as_of=NOW, now=NOW)
    knowledge.import_facts(store, KERNEL, now=NOW)
    knowledge.judge_builds(store)
    found = [*enrolled(store, "web-1", ring="ring0"), *enrolled(store, "db-1", ring="ring1")]
    for machine in found:
        judge(store, machine.check_in())
    return found


def exception(who: Person, extent: str, subject: str = "", days: int = 30) -> Any:
    body = {"cve": ONE, "extent": extent, "subject": subject, "reason": "r", "control": "c", "expires_in": days * DAY}
    return who("POST", "/exceptions", body)


def test_a_policy_a_forecast_and_the_order(asked: Asked, machines: list[Machine]) -> None:
    admin = person(asked, Role.ADMINISTRATOR, seconds=90 * DAY)
    made = admin("PUT", "/policies/ring0/own", OWN)
    assert made.status == 200, made.body
    assert made.json["rows"][0]["hours"] == 14 * 24
    assert admin("PUT", "/policies/ring0/own", OWN).json["id"] == made.json["id"]
    assert admin("GET", "/policies?ring=ring1").json == []
    asked.now = NOW + 15 * DAY
    told = admin("GET", "/forecast?days=7&limit=1").json
    assert (told["overdue_count"], told["overdue_hosts"], len(told["overdue"])) == (2, 2, 1)
    assert told["overdue"][0]["due"] == NOW + 14 * DAY
    assert (told["unbound"], told["rings_without"], told["hosts"]) == (2, ["ring1"], 2)
    assert admin("GET", "/forecast?ring=ring1").json["overdue_count"] == 0
    assert admin("GET", "/forecast?ring=none").word == "not-found"
    page = admin("GET", "/cves?sort=rank&limit=1").json
    assert (page["items"][0]["cve"], page["items"][0]["overdue"], page["items"][0]["place"]) == (ONE, 1, 1)
    second = admin("GET", f"/cves?sort=rank&limit=1&cursor={page['next']}").json
    assert ([item["cve"] for item in second["items"]], second["next"]) == ([THREE], "")
    assert len(page["items"][0]["reasons"]) == 6
    assert admin("GET", "/cves?sort=cvss").status == 400
    explained = admin("GET", f"/hosts/{machines[0].id}/cves/{ONE}").json
    (deadline,) = explained["deadlines"]
    assert (deadline["name"], deadline["due"], deadline["overdue"]) == ("Ours", NOW + 14 * DAY, True)
    assert explained["accepted_until"] is None
    assert admin("DELETE", "/policies/ring0/own").status == 204
    assert len(admin("GET", "/policies?past=true").json) == 1


def test_what_is_wrong_with_a_policy_is_said(asked: Asked) -> None:
    admin = person(asked, Role.ADMINISTRATOR)
    for body, what in (
        ({"framework": "hipaa", "approved_by": "x"}, "no number"),
        ({"framework": "fedramp", "approved_by": "x"}, "certification class"),
        ({**OWN, "rows": [{"name": "x"}]}, "no clock"),
        ({**OWN, "valid_from": "soon"}, "not a day"),
        ({**OWN, "rows": []}, "no framework"),
    ):
        found = admin("PUT", "/policies/ring0/p", body)
        assert found.status == 400, found.body
        assert what in found.json["detail"], found.json
        assert found.json["hint"]
    found = admin(
        "PUT", "/policies/ring0/f", {"framework": "fedramp", "certification": "c", "impact": 4, "approved_by": "x"}
    )
    assert {row["hours"] for row in found.json["rows"]} == {96, 192, 64 * 24, 24}
    assert {item["name"] for item in admin("GET", "/frameworks").json} >= {"pci-dss", "fedramp", "hipaa"}


def test_an_exception_takes_two(asked: Asked, machines: list[Machine]) -> None:
    operator, approver = person(asked, Role.OPERATOR), person(asked, Role.APPROVER)
    made = exception(operator, "host", machines[0].id)
    assert (made.status, made.json["state"]) == (201, "requested")
    where = f"/exceptions/{made.json['id']}"
    assert operator("POST", f"{where}/approve").word == "forbidden"
    assert approver("POST", f"{where}/approve").json["state"] == "in force"
    assert approver("POST", f"{where}/approve").word == "conflict"
    explained = operator("GET", f"/hosts/{machines[0].id}/cves/{ONE}").json
    assert explained["accepted_until"] == asked.now + 30 * DAY
    assert [item["id"] for item in operator("GET", "/exceptions?state=in%20force").json["items"]] == [made.json["id"]]
    assert operator("DELETE", where).status == 204
    assert operator("GET", f"/exceptions?cve={ONE}").json["items"][0]["state"] == "withdrawn"
    assert exception(operator, "host", machines[0].id, days=401).status == 400


def test_who_is_bound_to_a_ring_excepts_nothing_elsewhere(asked: Asked, machines: list[Machine]) -> None:
    bound = person(asked, Role.OPERATOR, rings=("ring0",))
    free = person(asked, Role.OPERATOR)
    approver = person(asked, Role.APPROVER, rings=("ring0",))
    assert exception(bound, "host", machines[0].id).status == 201
    assert exception(bound, "host", machines[1].id).word == "not-found"
    assert exception(bound, "ring", "ring1").word == "forbidden"
    assert exception(bound, "everything").word == "forbidden"
    assert exception(bound, "tag", "role=db").word == "forbidden"
    other = exception(free, "ring", "ring1").json["id"]
    everywhere = exception(free, "everything").json["id"]
    seen = {item["id"] for item in bound("GET", "/exceptions").json["items"]}
    assert other not in seen
    assert everywhere in seen
    assert bound("DELETE", f"/exceptions/{other}").word == "not-found"
    assert bound("DELETE", f"/exceptions/{everywhere}").word == "forbidden"
    assert approver("POST", f"/exceptions/{other}/approve").word == "not-found"
    assert approver("POST", f"/exceptions/{everywhere}/approve").word == "forbidden"
    assert bound("GET", "/cves?ring=ring1").word == "not-found"
    assert [item["hosts"] for item in bound("GET", "/cves").json["items"]] == [1, 1]


def test_exceptions_in_pages(asked: Asked) -> None:
    with asked.store.write() as connection:
        rows = [
            {"id": f"{number:016x}", "cve": ONE, "extent": "everything", "subject": "", "reason": "r", "control": "c",
             "created_at": NOW, "created_by": "token:1", "approved_by": "", "expires_at": NOW + DAY, "withdrawn_by": ""}
            for number in range(5)
        ]  # fmt: skip
        connection.execute(insert(tables.exceptions), rows)
    viewer = person(asked, Role.VIEWER)
    found: list[str] = []
    cursor = ""
    while True:
        page = viewer("GET", f"/exceptions?limit=2&cursor={cursor}").json
        found += [item["id"] for item in page["items"]]
        cursor = page["next"]
        if not cursor:
            break
    assert found == [row["id"] for row in rows]


def test_what_takes_long_is_kept_but_for_what_somebody_has_just_decided(
    asked: Asked, machines: list[Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "QUICK_SECONDS", -1.0)
    monkeypatch.setattr(keeping, "TIMES", 1e9)
    admin = person(asked, Role.ADMINISTRATOR, seconds=90 * DAY)
    admin("PUT", "/policies/ring0/own", OWN)
    first = admin("GET", "/forecast?days=30").json
    assert (first["at"], first["hosts"], first["due_count"], first["accepted"]) == (NOW, 2, 2, 0)
    order = admin("GET", "/cves").json
    asked.now = NOW + DAY
    (more,) = enrolled(asked.store, "web-2", ring="ring0")
    judge(asked.store, more.check_in())
    assert admin("GET", "/forecast?days=30").json == first
    assert admin("GET", "/cves").json == order
    assert admin("GET", "/forecast?days=29").json["at"] == NOW + DAY
    # What is decided counts at once, and so does a ring that was not asked about before.
    admin("PUT", "/policies/ring1/own", OWN)
    assert admin("GET", "/forecast?days=30").json["due_count"] == 4
    assert admin("GET", "/forecast?days=30&ring=ring0").json["hosts"] == 2
    made = exception(admin, "ring", "ring0").json
    asked.store.transact(lambda connection: exceptions.approve(connection, made["id"], actor="somebody", now=asked.now))
    assert admin("GET", "/forecast?days=30").json["accepted"] == 2
