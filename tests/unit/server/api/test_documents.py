"""Documents for scanners, over the API: valid by their schemas, and a host's version rises only when it says something else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from sqlalchemy import delete, insert, update
from tests.unit.intel.conftest import DATA
from tests.unit.intel.csaf_rules import broken
from tests.unit.intel.test_applicability import CHANGELOG
from tests.unit.intel.test_documents import go_vex
from tests.unit.intel.test_feeds import record
from tests.unit.sample_livepatch import livepatch
from tests.unit.server.api.asking import Asked, Person, person
from tests.unit.server.conftest import NOW
from tests.unit.server.hosts.machines import BUILD_ID, Machine, enrolled, judge
from tests.unit.server.knowledge.test_knowledge import KERNEL, ONE, THREE, TWO, vulns

from kmend.core.document import encode
from kmend.core.process import run
from kmend.intel.feeds import read_changelog
from kmend.server import knowledge
from kmend.server.access.permissions import Role
from kmend.server.knowledge.documents import SILENT_SECONDS, ecosystem
from kmend.server.store import Store, tables

LEVEL = f"/levels/{BUILD_ID}/2"
MANIFEST, _ = livepatch(2, [ONE, TWO], base=1, functions=("unix_ioctl", "dev_ioctl"))


def publish(store: Store) -> None:
    """Level 2, as an import writes it."""
    kernel = MANIFEST.kernel
    key = {"build_id": kernel.build_id, "level": 2}
    with store.write() as connection:
        connection.execute(
            insert(tables.kernel_builds).values(
                build_id=kernel.build_id, release=kernel.release, version=kernel.version, ref=kernel.ref,
                architecture=kernel.architecture, first_seen=NOW,
            )
        )  # fmt: skip
        connection.execute(
            insert(tables.levels).values(
                **key, module=MANIFEST.module.name, manifest_sha256="0", module_sha256=MANIFEST.module.sha256, published=NOW,
                channel="", base=1, pinned=False, imported_at=NOW, manifest=encode(MANIFEST),
            )
        )  # fmt: skip
        connection.execute(insert(tables.level_fixes), [{**key, "fix": fix} for fix in MANIFEST.fix_digests])
        connection.execute(insert(tables.level_cves), [{**key, "cve": cve} for cve in MANIFEST.cves])


def inform(store: Store, folder: Path, *, ring: str = "ring0") -> Machine:
    """Feeds, facts, a level, and a host that runs it."""
    knowledge.import_cna(store, vulns(folder), version="a", as_of=NOW - 3600, now=NOW)
    knowledge.import_changelog(store, read_changelog(CHANGELOG), as_of=NOW - 60, now=NOW)
    knowledge.import_facts(store, KERNEL, now=NOW)
    knowledge.judge_builds(store)
    publish(store)
    (host,) = enrolled(store, "web-1", ring=ring)
    host.level, host.phase, host.module = 2, "steady", MANIFEST.module.name
    judge(store, host.check_in())
    return host


@pytest.fixture
def viewer(asked: Asked) -> Person:
    return person(asked, Role.VIEWER, seconds=10 * 86_400)


def valid(name: str, document: Any) -> None:
    jsonschema_rs.validator_for(json.loads((DATA / "schemas" / name).read_text())).validate(document)


def openvex(who: Person, host: Machine) -> Any:
    found = who("GET", f"/hosts/{host.id}/openvex")
    assert found.status == 200, found.body
    assert found.headers["content-disposition"] == f'attachment; filename="{host.id}.openvex.json"'
    valid("openvex.schema.json", found.json)
    for statement in found.json["statements"]:
        go_vex(statement)
    return found.json


def statuses(document: Any) -> dict[str, str]:
    """CVE -> what is said of the image."""
    return {
        item["vulnerability"]["name"]: item["status"]
        for item in document["statements"]
        if "linux-image" in item["products"][0]["@id"]
    }


def test_openvex_of_a_host_and_its_versions(asked_both: Asked, tmp_path: Path) -> None:
    who = person(asked_both, Role.VIEWER, seconds=10 * 86_400)
    host = inform(asked_both.store, tmp_path)
    first = openvex(who, host)
    assert statuses(first) == {ONE: "fixed", TWO: "not_affected", THREE: "affected", "CVE-2026-3009": "fixed"}
    assert first["version"] == 1
    (live,) = [
        item for item in first["statements"] if item["status"] == "fixed" and item["vulnerability"]["name"] == ONE
    ]
    assert MANIFEST.module.sha256 in live["status_notes"]
    assert live["products"][0]["@id"] == "pkg:deb/debian/linux-image-6.1.0-50-cloud-amd64@6.1.8-1?arch=amd64"
    headers = [item for item in first["statements"] if "linux-headers" in item["products"][0]["@id"]]
    assert {item["vulnerability"]["name"] for item in headers} == {ONE, TWO}

    asked_both.now += 900
    judge(asked_both.store, host.check_in(), now=asked_both.now)
    assert openvex(who, host) == first, "that it was seen again is no news"

    host.level, host.phase, host.boot = 0, "idle", 2
    judge(asked_both.store, host.check_in(), now=asked_both.now)
    second = openvex(who, host)
    assert (second["version"], statuses(second)[ONE]) == (2, "affected")
    assert second["timestamp"] > first["timestamp"]
    host.level, host.phase = 2, "steady"
    judge(asked_both.store, host.check_in(), now=asked_both.now)
    third = openvex(who, host)
    assert (third["version"], statuses(third)[ONE]) == (3, "fixed"), "what was said before gets a new version, too"

    asked_both.now += SILENT_SECONDS + 1
    silent = openvex(who, host)
    assert (silent["version"], statuses(silent)[ONE]) == (4, "under_investigation")
    assert statuses(silent)["CVE-2026-3009"] == "fixed"
    assert openvex(who, host) == silent
    asked_both.now += 7 * 86_400
    stale = openvex(who, host)
    assert (stale["version"], statuses(stale)[TWO]) == (5, "under_investigation"), "the feeds are too old"
    assert not [item for item in stale["statements"] if item["status"] == "not_affected"]


def test_versions_are_each_hosts_own(asked: Asked, viewer: Person, tmp_path: Path) -> None:
    host = inform(asked.store, tmp_path)
    (other,) = enrolled(asked.store, "web-2", ring="ring1")
    judge(asked.store, other.check_in())
    assert openvex(viewer, host)["version"] == 1
    found = openvex(viewer, other)
    assert (found["version"], statuses(found)[ONE]) == (1, "affected")
    assert found["@id"].endswith(f"/api/v1/hosts/{other.id}/openvex")
    bound = person(asked, Role.VIEWER, rings=("ring0",))
    assert bound("GET", f"/hosts/{other.id}/openvex").word == "not-found"
    assert bound("GET", f"/hosts/{host.id}/openvex").status == 200


@pytest.mark.parametrize("state", ["decommissioned", "expired"])
def test_a_host_that_is_let_go_of_is_not_believed(asked: Asked, viewer: Person, tmp_path: Path, state: str) -> None:
    """Nothing that it does is heard of any more, however short ago it was heard of last."""
    host = inform(asked.store, tmp_path)
    assert statuses(openvex(viewer, host))[ONE] == "fixed"
    with asked.store.write() as connection:
        connection.execute(update(tables.hosts).values(state=state))
    assert statuses(openvex(viewer, host))[ONE] == "under_investigation"


def test_another_module_of_the_same_number_is_not_believed(asked: Asked, viewer: Person, tmp_path: Path) -> None:
    """A host that comes from another repository: its level 2 closes what that one's does, which nobody knows here."""
    host = inform(asked.store, tmp_path)
    with asked.store.write() as connection:
        connection.execute(update(tables.hosts).values(module="kmend_2_ffffffff"))
    found = openvex(viewer, host)
    assert statuses(found)[ONE] == "under_investigation"
    assert MANIFEST.module.sha256 not in json.dumps(found)


def test_a_level_in_force_with_something_unpatched(asked: Asked, viewer: Person, tmp_path: Path) -> None:
    host = inform(asked.store, tmp_path)
    with asked.store.write() as connection:
        connection.execute(update(tables.hosts).values(unpatched='["vmlinux"]'))
    assert statuses(openvex(viewer, host))[ONE] == "affected"


def test_a_title_of_any_characters_reaches_every_document(asked_both: Asked, tmp_path: Path) -> None:
    """No database takes half a surrogate pair, PostgreSQL no NUL; one record must not end an import."""
    who = person(asked_both, Role.VIEWER, seconds=10 * 86_400)
    inform(asked_both.store, tmp_path / "before")
    title = "net: \0 \x1b[2J \ud800 \u202eflipped <b>&amp;</b> {detail}\r\n " + "x" * 1_000_000
    (host,) = enrolled(asked_both.store, "web-2", ring="ring0")
    judge(asked_both.store, host.check_in())
    files = [{"programFiles": ["net/\ud800\0.c"]}]
    odd = vulns(tmp_path / "odd", **{f"{ONE}.json": record(ONE, title=title, affected=files)})
    knowledge.import_cna(asked_both.store, odd, version="odd", as_of=NOW, now=NOW)
    knowledge.judge_builds(asked_both.store)
    assert statuses(openvex(who, host))[ONE] == "affected", "a file that nobody knows leaves it open"
    (told, _) = who("GET", f"{LEVEL}/csaf").json["vulnerabilities"]
    assert told["title"].startswith("net: ? ?[2J ? ?flipped <b>&amp;</b> {detail} x")
    assert told["title"].isprintable()
    assert len(told["title"]) <= 500
    assert broken(tmp_path, who("GET", f"{LEVEL}/csaf").json) == [{}]
    path = tmp_path / "level.xml"
    path.write_bytes(who("GET", f"{LEVEL}/oval").body)
    run(["oscap", "oval", "validate", path])


def test_what_is_known_of_a_levels_cves_is_a_revision(asked: Asked, viewer: Person, tmp_path: Path) -> None:
    inform(asked.store, tmp_path / "before")
    before, osv = viewer("GET", f"{LEVEL}/csaf"), viewer("GET", f"{LEVEL}/osv").json
    assert viewer("GET", f"{LEVEL}/csaf").body == before.body

    asked.now += 3600
    titled = {f"{ONE}.json": record(ONE, affected=[{"programFiles": ["net/core/dev.c"]}], title="net: mend it well")}
    for folder in ("after", "again"):
        found = vulns(tmp_path / folder, **titled)
        knowledge.import_cna(asked.store, found, version=folder, as_of=asked.now, now=asked.now)
        knowledge.judge_builds(asked.store)
        after = viewer("GET", f"{LEVEL}/csaf").json
        tracking = after["document"]["tracking"]
        assert after["vulnerabilities"][0]["title"] == "net: mend it well"
        assert (tracking["version"], tracking["id"]) == ("2", before.json["document"]["tracking"]["id"])
        assert tracking["current_release_date"] == "2026-09-21T15:13:20Z"
        asked.now += 60
    assert broken(tmp_path, after) == [{}]
    assert viewer("GET", f"{LEVEL}/osv").json["modified"] > osv["modified"]


def test_a_host_of_which_nothing_is_known(asked: Asked, viewer: Person) -> None:
    (host,) = enrolled(asked.store, "web-1", ring="ring0")
    assert viewer("GET", f"/hosts/{host.id}/openvex").word == "not-known"
    assert viewer("GET", f"/hosts/{'ab' * 16}/openvex").word == "not-found"


def test_documents_of_a_level(asked: Asked, viewer: Person, tmp_path: Path) -> None:
    inform(asked.store, tmp_path)
    found = viewer("GET", f"{LEVEL}/csaf")
    document = found.json
    name = f"kmend-6_1_0-50-cloud-amd64-{BUILD_ID[:12]}-2.json"
    assert found.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert document["document"]["references"][1]["url"].endswith(f"/api/v1{LEVEL}/manifest")
    one, two = document["vulnerabilities"]
    assert (one["title"], one["product_status"]["known_affected"]) == ("net: mend it", ["kernel"])
    assert two["product_status"]["known_not_affected"], "that code was not compiled in this build"

    osv = viewer("GET", f"{LEVEL}/osv").json
    valid("osv.schema.json", osv)
    assert (osv["upstream"], osv["affected"][0]["versions"]) == ([ONE], ["6.1.176-1"])
    assert osv["affected"][0]["package"]["ecosystem"] == "Debian:12"
    assert osv["affected"][0]["ecosystem_specific"]["patched_functions"] == ["vmlinux:unix_ioctl", "vmlinux:dev_ioctl"]

    oval = viewer("GET", f"{LEVEL}/oval")
    assert oval.headers["content-type"].startswith("application/xml")
    path = tmp_path / "level.xml"
    path.write_bytes(oval.body)
    run(["oscap", "oval", "validate", path])
    assert f">{MANIFEST.kernel.release}<" in oval.body.decode()

    with asked.store.write() as connection:
        connection.execute(
            insert(tables.recalls).values(
                number=1,
                extent="stop",
                reason="it hangs",
                at=NOW + 60,
                fix=MANIFEST.fixes[0].digest,
                build_id="",
                level=0,
            )
        )
    recalled = viewer("GET", f"{LEVEL}/csaf").json
    assert recalled["document"]["tracking"]["version"] == "2"
    withdrawn = viewer("GET", f"{LEVEL}/osv").json
    valid("osv.schema.json", withdrawn)
    assert withdrawn["withdrawn"] == "2026-09-21T14:14:20Z"
    with asked.store.write() as connection:
        connection.execute(update(tables.recalls).values(withdrawn_at=NOW + 90))
    back = viewer("GET", f"{LEVEL}/csaf").json
    assert [item["number"] for item in back["document"]["tracking"]["revision_history"]] == ["1", "2", "3"]
    assert "withdrawn" not in viewer("GET", f"{LEVEL}/osv").json
    assert broken(tmp_path, document, recalled, back) == [{}, {}, {}]


def test_a_recall_that_the_level_clears_concerns_it_not(asked: Asked, viewer: Person, tmp_path: Path) -> None:
    inform(asked.store, tmp_path)
    digest = MANIFEST.fixes[0].digest
    with asked.store.write() as connection:
        cleared = encode(replace(MANIFEST, clears=(digest,)))
        connection.execute(update(tables.levels).values(manifest=cleared))
        connection.execute(
            insert(tables.recalls).values(number=1, extent="stop", reason="x", at=NOW, fix=digest, build_id="", level=0)
        )
    assert "withdrawn" not in viewer("GET", f"{LEVEL}/osv").json


@pytest.mark.parametrize("kind", ["csaf", "osv", "oval"])
def test_a_level_that_is_not_there(asked: Asked, viewer: Person, kind: str) -> None:
    assert viewer("GET", f"{LEVEL}/{kind}").word == "not-known"
    assert viewer("GET", f"/levels/{BUILD_ID}/0/{kind}").status == 400


def test_a_level_of_a_kernel_that_no_feed_describes(asked: Asked, viewer: Person, tmp_path: Path) -> None:
    publish(asked.store)
    with asked.store.write() as connection:
        bare = replace(MANIFEST, kernel=replace(MANIFEST.kernel, ref="debian:6.1.0-50-cloud-amd64"))
        connection.execute(update(tables.levels).values(manifest=encode(bare)))
        connection.execute(delete(tables.level_cves))
    assert viewer("GET", f"{LEVEL}/osv").json["affected"][0]["versions"] == ["6.1.176-1"], "as uname -v has it"
    assert broken(tmp_path, viewer("GET", f"{LEVEL}/csaf").json) == [{}]


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("6.1.176-1", "Debian:12"),
        ("6.12.48-1", "Debian:13"),
        ("6.12.9-1~bpo12+1", "Debian:12"),
        ("5.10.220-1", "Debian:11"),
        ("7.0.1-1", "Debian"),
        ("", "Debian"),
    ],
)
def test_the_distributions_release_is_named_where_the_version_tells(package: str, name: str) -> None:
    assert ecosystem(package) == name
