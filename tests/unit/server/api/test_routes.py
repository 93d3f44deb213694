"""What people ask for: pages, exports, errors that stay the same, and things that are done once."""

from __future__ import annotations

import base64
import csv
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select
from tests.unit.server.api.asking import Asked, Person, person
from tests.unit.server.hosts.machines import BUILD_ID, Machine, enrolled, judge

from kmend.server.access import audit
from kmend.server.access.permissions import Role
from kmend.server.config import ServerConfig, ServerSection
from kmend.server.operations import logs
from kmend.server.repository import agent
from kmend.server.store import Store, tables


@pytest.fixture
def admin(asked: Asked) -> Person:
    return person(asked, Role.ADMINISTRATOR)


@pytest.fixture
def both(asked_both: Asked) -> Person:
    return person(asked_both, Role.ADMINISTRATOR)


def test_pages_hold_every_host_once_in_order(both: Person) -> None:
    enrolled(both.asked.store, *(f"host-{number:03}" for number in range(23)))
    names: list[str] = []
    cursor = ""
    while True:
        page = both("GET", f"/hosts?limit=5&cursor={cursor}").json
        names += [row["name"] for row in page["items"]]
        cursor = page["next"]
        if not cursor:
            break
    assert names == [f"host-{number:03}" for number in range(23)]


@pytest.mark.parametrize(
    "cursor", ["x", "e30", "WzFd", "WzEsMl0", "%22", "W251bGxd", "a" * 900, "WyJhIiwgIlx1MDAwMCJd"]
)
def test_a_cursor_that_is_none_of_ours_is_refused(admin: Person, cursor: str) -> None:
    for path in ("/hosts", "/tokens", "/rollouts", "/levels", "/enrolment-keys"):
        found = admin("GET", f"{path}?cursor={cursor}")
        assert (found.status, found.word) == (400, "invalid"), path


def test_filters(both: Person) -> None:
    first, second = enrolled(both.asked.store, "web-1", "db_1", tags={"role": "web", "dc": "a"})
    both("PUT", f"/hosts/{second.id}/tags", {"tags": {"dc": "b"}})
    judge(both.asked.store, first.check_in(full=True), second.check_in(full=True))
    for query, names in {
        "name=web-*": {"web-1"}, "name=db_1": {"db_1"}, "name=d%25": set(), "tag=dc": {"web-1", "db_1"}, "tag=dc=b": {"db_1"},
        f"kernel={BUILD_ID}": {"web-1", "db_1"}, "kernel=none": set(), "level=0": {"web-1", "db_1"},
        "level_below=1&name=w*": {"web-1"},
        "seen_within=60": {"web-1", "db_1"}, "seen_before=60": set(), "state=expired": set(), "trouble=any": set(),
        "phase=idle": {"web-1", "db_1"},
    }.items():  # fmt: skip
        found = both("GET", f"/hosts?{query}")
        assert {row["name"] for row in found.json["items"]} == names, query
    for query in ("level=x", "level=-1", "seen_within=-5", "limit=501", "limit=x", "name=" + "a" * 400):
        assert both("GET", f"/hosts?{query}").word == "invalid", query


def test_exports_hold_everything_and_no_formula(both: Person) -> None:
    enrolled(both.asked.store, "=cmd|'/C calc'!A0", "plain", "@x", "a,b")
    lines = both("GET", "/hosts/export").body.splitlines()
    assert {json.loads(line)["name"] for line in lines} == {"=cmd|'/C calc'!A0", "plain", "@x", "a,b"}
    found = both("GET", "/hosts/export?format=csv")
    assert found.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(found.body.decode())))
    assert {row["name"] for row in rows} == {"'=cmd|'/C calc'!A0", "plain", "'@x", "a,b"}
    assert both("GET", "/hosts/export?format=xlsx").status == 400


def test_what_is_asked_for_twice_with_a_key_is_done_once(both: Person) -> None:
    body = {"ring": "ring0", "note": "n"}
    first = both("POST", "/enrolment-keys", body, idempotency_key="k1")
    again = both("POST", "/enrolment-keys", body, idempotency_key="k1")
    assert (first.status, again.status) == (201, 201)
    assert first.json["key"] == again.json["key"]
    assert first.json["secret"].startswith("kmend_enrol_")
    assert again.json["secret"] == ""
    assert again.headers["idempotent-replayed"] == "true"
    assert both("POST", "/enrolment-keys", {"ring": "ring1"}, idempotency_key="k1").word == "idempotency"
    other = person(both.asked, Role.ADMINISTRATOR)
    assert other("POST", "/enrolment-keys", body, idempotency_key="k1").json["key"]["id"] != first.json["key"]["id"]
    assert both("POST", "/enrolment-keys", body).json["key"]["id"] != first.json["key"]["id"]
    with both.asked.store.read() as connection:
        kept = [bytes(answer) for answer in connection.execute(select(tables.idempotency.c.answer)).scalars()]
    assert all(first.json["secret"].encode() not in answer for answer in kept)
    # A refusal is not kept: it may be another the next time.
    assert (
        both("POST", "/tokens", {"name": "n", "roles": ["viewer"], "rings": ["new"]}, idempotency_key="k2").status
        == 400
    )
    both("PUT", "/rings/new", {"position": 3})
    assert (
        both("POST", "/tokens", {"name": "n", "roles": ["viewer"], "rings": ["new"]}, idempotency_key="k2").status
        == 201
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/enrolment-keys", {"ring": "ring0", "expires": "7d"}),  # a member that is not known
        ("/enrolment-keys", {"ring": 5}),
        ("/enrolment-keys", {"ring": "ring0", "expires_in": 0}),
        ("/enrolment-keys", {"ring": "ring0", "networks": ["10.0.0.1/8"]}),
        ("/enrolment-keys", []),
        ("/enrolment-keys", "ring0"),
        ("/tokens", {"name": "n", "roles": []}),
        ("/tokens", {"name": "n", "roles": ["root"]}),
        ("/channels", {"kind": "webhook", "target": "https://169.254.169.254/"}),
        ("/channels", {"kind": "sms", "target": "1"}),
        ("/rollouts", {"name": "r", "plan": "p", "targets": {}}),
        ("/rollouts", {"name": "r", "plan": "p", "targets": {"x": 0}}),
    ],
)
def test_what_is_not_of_its_form_is_refused_with_what_is_wrong(admin: Person, path: str, body: object) -> None:
    found = admin("POST", path, body)
    assert found.status == 400
    assert found.json["detail"]
    assert found.json["request"] == found.headers["x-request-id"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"null", b"1e999"])
def test_what_is_no_json_is_refused(admin: Person, content: bytes) -> None:
    headers = {"Authorization": f"Bearer {admin.secret}", "Content-Type": "application/json"}
    found = admin.asked.ask("POST", "/api/v1/tokens", content, headers)
    assert found.status == 400, found.body


def test_what_is_too_large_is_refused(admin: Person) -> None:
    headers = {"Authorization": f"Bearer {admin.secret}", "Content-Type": "application/json"}
    found = admin.asked.ask("POST", "/api/v1/tokens", b"a" * 5_000_000, headers)
    assert (found.status, found.word) == (413, "too-large")


@pytest.mark.parametrize(
    "text", ["' OR '1'='1", "'; DROP TABLE hosts; --", "\\", "%", "_", '"', "${7*7}", "{{7*7}}", "<script>", "\u202e"]
)
def test_text_of_others_is_only_ever_text(both: Person, text: str) -> None:
    """SQL, templates and patterns in what is asked for and in what is stored."""
    enrolled(both.asked.store, "one", "two")
    assert both("GET", f"/hosts?name={_quoted(text)}").json["items"] == []
    assert both("GET", f"/hosts?tag={_quoted(text)}").status in (200, 400)
    assert both("GET", f"/hosts/{_quoted(text)}").status == 404
    made = both("POST", "/enrolment-keys", {"ring": "ring0", "note": text})
    if made.status == 201:
        assert made.json["key"]["note"] == text
    with both.asked.store.read() as connection:
        assert connection.execute(select(func.count()).select_from(tables.hosts)).scalar_one() == 2


def test_text_that_a_database_cannot_hold_is_refused_and_no_mistake_of_ours(both: Person) -> None:
    """PostgreSQL has no text with a NUL in it."""
    (host,) = enrolled(both.asked.store, "h")
    for path in (
        "/hosts?name=%00",
        "/hosts/count?tag=a%00",
        "/hosts/export?kernel=%00",
        "/hosts/export?format=csv&ring=%00",
    ):
        assert both("GET", path).word == "invalid", path
    for path in ("/hosts/%00", "/rollouts/%00", "/levels/%00/1/manifest", "/levels?cve=%00"):
        assert both("GET", path).status in (200, 400, 404), path
    for method, path, body in (
        ("POST", f"/hosts/{host.id}/move", {"ring": "\0"}),
        ("POST", f"/hosts/{host.id}/decommission", {"reason": "\0"}),
        ("POST", "/rollouts", {"name": "r", "plan": "\0", "targets": {BUILD_ID: 1}}),
        ("POST", "/tokens", {"name": "\0", "roles": ["viewer"]}),
        ("DELETE", "/plans/%00", None),
        ("DELETE", "/tokens/%00", None),
    ):
        assert both(method, path, body).status < 500, path
    assert audit.verify(both("GET", "/audit/export").body.splitlines()).number


def test_a_channel_may_be_removed_twice(both: Person) -> None:
    made = both("POST", "/channels", {"kind": "email", "target": "ops@example.org"}).json["channel"]["id"]
    assert [both("DELETE", f"/channels/{made}").status for _ in range(2)] == [204, 204]
    lines = [json.loads(line) for line in both("GET", "/audit/export").body.splitlines()]
    assert [line["action"] for line in lines if line["action"].startswith("channel.")] == [
        "channel.create",
        "channel.remove",
    ]


def test_no_answer_is_kept_by_a_cache_or_taken_for_what_it_is_not(both: Person) -> None:
    for found in (both("GET", "/me"), both("GET", "/hosts/export?format=csv"), both("GET", "/hosts/none")):
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["cache-control"] == "no-store"


def _quoted(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


def test_a_host_is_moved_tagged_and_taken_out_by_name_in_the_audit_log(both: Person) -> None:
    (host,) = enrolled(both.asked.store, "h", ring="ring0")
    assert both("POST", f"/hosts/{host.id}/move", {"ring": "ring1"}).json["ring"] == "ring1"
    assert both("PUT", f"/hosts/{host.id}/tags", {"tags": {"a": "b"}}).json["tags"] == {"a": "b"}
    assert both("POST", f"/hosts/{host.id}/decommission", {"reason": "sold"}).json["state"] == "decommissioned"
    assert both("DELETE", "/rings/ring1").word == "conflict"
    rows = [json.loads(line) for line in both("GET", "/audit/export").body.splitlines()]
    mine = [row for row in rows if row["actor"] == f"token:{both.id}"]
    assert [row["action"] for row in mine] == ["host.move", "host.tag", "host.decommission"]
    assert json.loads(mine[-1]["detail"])["reason"] == "sold"
    head = audit.verify(both("GET", "/audit/export").body.splitlines())
    assert both("GET", "/audit/head").json == {"number": head.number, "digest": head.digest}
    assert [row["number"] for row in both("GET", "/audit?after=2&limit=2").json] == [3, 4]


def test_evidence_is_given_out_byte_for_byte(both: Person) -> None:
    (host,) = enrolled(both.asked.store, "h")
    received = host.check_in(full=True)
    judge(both.asked.store, received)
    (row,) = both("GET", f"/hosts/{host.id}/reports").json
    assert base64.b64decode(row["body"]) == received.body
    assert row["signature"] == received.signature


def test_a_rollout_from_plan_to_abort(both: Person) -> None:
    store = both.asked.store
    _level(store, 1)
    enrolled(store, "h", ring="ring0")
    plan = {"stages": [{"ring": "ring0", "sample": 1}, {"ring": "ring1", "approval": True}]}
    assert both("PUT", "/plans/usual", {"plan": plan}).json["plan"]["stages"][1]["approval"] is True
    assert both("PUT", "/plans/other", {"plan": {"stages": [{"ring": "nowhere"}]}}).status == 400
    assert both("PUT", "/plans/other", {"plan": {"stages": [{"ring": "ring0", "shares": 1}]}}).status in (200, 400)
    made = both("POST", "/rollouts", {"name": "r", "plan": "usual", "targets": {BUILD_ID: 1}, "start": True})
    assert (made.status, made.json["status"]) == (201, "running")
    rollout = made.json["id"]
    assert both("POST", f"/rollouts/{rollout}/start").word == "rollout-state"
    assert both("POST", f"/rollouts/{rollout}/pause", {"reason": "lunch"}).json["status"] == "paused"
    assert both("POST", f"/rollouts/{rollout}/pause", {}).status == 400
    assert both("POST", f"/rollouts/{rollout}/resume", {"reason": "done"}).json["status"] == "running"
    assert both("GET", f"/rollouts/{rollout}").json["stages"][0]["ring"] == "ring0"
    assert both("GET", f"/rollouts/{rollout}/grants").body == b""
    assert both("GET", "/status").json["rollouts"][rollout]["status"] == "running"
    assert both("POST", f"/rollouts/{rollout}/abort", {"reason": "no"}).json["status"] == "aborted"
    assert [row["id"] for row in both("GET", "/rollouts").json["items"]] == [rollout]
    assert both("POST", "/rollouts", {"name": "r", "plan": "usual", "targets": {BUILD_ID: 9}}).status == 404


def test_levels_and_recalls_are_shown_as_they_are_signed(both: Person) -> None:
    _level(both.asked.store, 1)
    _level(both.asked.store, 2)
    first = both("GET", "/levels?limit=1").json
    assert [row["level"] for row in first["items"]] == [2]
    rest = both("GET", f"/levels?limit=1&cursor={first['next']}").json
    assert [row["level"] for row in rest["items"]] == [1]
    assert both("GET", "/levels?cve=CVE-2026-0001").json["items"] == []
    assert both("GET", f"/levels/{BUILD_ID}/1/manifest").body == b"{1}"
    assert both("GET", f"/levels/{BUILD_ID}/3/manifest").word == "not-found"
    assert both("GET", "/recalls").json == []


def _level(store: Store, level: int) -> None:
    def work(connection):  # type: ignore[no-untyped-def]
        if level == 1:
            kernel = {"release": "6.1", "version": "v", "ref": "debian:6.1", "architecture": "x86_64", "first_seen": 1}
            connection.execute(tables.kernel_builds.insert().values(build_id=BUILD_ID, **kernel))
        connection.execute(tables.levels.insert().values(
            build_id=BUILD_ID, level=level, module=f"kmend_{level}_00000000", manifest_sha256="0" * 64,
            module_sha256="0" * 64, published=1, channel="", base=None, pinned=False, imported_at=1,
            manifest=b"{%d}" % level))  # fmt: skip
        connection.execute(tables.level_fixes.insert().values(build_id=BUILD_ID, level=level, fix="f" * 64))

    store.transact(work)


@pytest.fixture
def with_line(sqlite: Store, tmp_path: Path) -> Iterator[Person]:
    config = ServerConfig(server=ServerSection(data=str(tmp_path), public_url="https://kmend.example:8443"))
    asked = Asked(sqlite, config)
    yield person(asked, Role.ADMINISTRATOR)
    asked.close()


def test_without_packages_or_root_the_answer_says_why_there_is_no_line(with_line: Person) -> None:
    made = with_line("POST", "/enrolment-keys", {"ring": "default"}).json
    assert made["line"] == ""
    assert "no agent package is published" in made["remark"]
    files = agent.AgentFiles((agent.AgentFile(agent.SCRIPT, "ab" * 32, 10, 1),))
    with_line.asked.store.transact(lambda connection: agent.write_files(connection, files))
    made = with_line("POST", "/enrolment-keys", {"ring": "default"}).json
    assert "no trust root" in made["remark"]


def test_secrets_are_in_no_log_no_list_and_no_audit_record(both: Person, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = both("POST", "/enrolment-keys", {"ring": "ring0"}).json["secret"]
    token = both("POST", "/tokens", {"name": "n", "roles": ["viewer"]}).json["secret"]
    hook = both("POST", "/channels", {"kind": "webhook", "target": "https://hooks.example/"}).json["secret"]
    machine = Machine.new("h")
    _, body, signature = machine.enrol_with(key)
    both.asked.ask("POST", "/v1/enrol", body, {"Kmend-Signature": signature})
    both.asked.ask("POST", "/v1/enrol", body, {"Kmend-Signature": "0" * 128})
    secrets = [key, token, hook, both.secret, signature]
    assert all(secrets)
    shown = "".join(
        both("GET", path).body.decode()
        for path in ("/enrolment-keys", "/tokens", "/channels", "/audit/export", "/hosts", "/me")
    )
    formatter = logs.JsonFormatter()
    shown += "".join(formatter.format(record) for record in caplog.records)
    with both.asked.store.read() as connection:
        for table in tables.metadata.sorted_tables:
            if table.name not in ("channels", "reports"):
                shown += "".join(str(tuple(row)) for row in connection.execute(select(table)))
    for secret in secrets:
        assert secret not in shown
