"""Packs from a server: over the API, of a ring, while another one is being made; and what the commands do with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.unit.server.api.asking import Asked, person
from tests.unit.server.conftest import SERVER_ID
from tests.unit.server.evidence.conftest import Packed
from tests.unit.server.evidence.packing import DAY, FIRST, OPEN, SECOND, Yard, rows_of, wrong
from tests.unit.server.hosts.machines import new_key
from tests.unit.server.repository.conftest import Press

from kmend.core.wire import HeldLevel
from kmend.server.access.permissions import Role
from kmend.server.evidence import gathering, making
from kmend.server.evidence.container import Pack
from kmend.server.evidence.documents import HostRow
from kmend.server.evidence.gathering import Wanted
from kmend.server.evidence.reading import Reader
from kmend.server.hosts import enrolment, upkeep
from kmend.server.main import cli
from kmend.server.store import Store


@pytest.fixture
def yard(store: Store, press: Press, tmp_path: Path) -> Yard:
    made = Yard(store, press, tmp_path)
    made.fill()
    return made


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["evidence", *map(str, words)], standalone_mode=False)


def test_a_pack_over_the_api(yard: Yard) -> None:
    asked = Asked(yard.store, yard.config, now=yard.press.now)
    try:
        auditor = person(asked, Role.AUDITOR)
        path = f"/evidence/pack?from={yard.begin}&to={yard.press.now}"
        answer = auditor("GET", path)
        assert answer.status == 200, answer.body
        assert answer.headers["content-type"] == "application/x-tar"
        file = yard.folder / "got.tar"
        file.write_bytes(answer.body)
        assert wrong(yard.verify(file, server_alone=True)) == {}
        assert Reader(file).about().made_by == f"token:{auditor.id}"
        last = rows_of(Pack(file).read("audit/00001.ndjson"))[-1]
        assert (last["action"], last["actor"]) == ("evidence.pack", f"token:{auditor.id}")
        assert auditor("GET", f"/evidence/pack?from={yard.press.now}&to={yard.begin}").word == "period"
        assert auditor("GET", f"{path}&ring=nowhere").word == "not-found"
        assert person(asked, Role.OPERATOR)("GET", path).word == "forbidden"
        assert person(asked, Role.AUDITOR, rings=("front",))("GET", path).word == "forbidden"
        with making._one_at_a_time:
            assert (auditor("GET", path).status, auditor("GET", path).word) == (409, "pack-busy")
        coverage = auditor("GET", "/inventory/coverage").json
        assert (coverage["machines"], coverage["enrolled"], coverage["without"][0]["name"]) == (2, 1, "db-1")
        assert [row["name"] for row in auditor("GET", "/inventory?skip=1").json] == ["db-1"]
        (yard.config.data / "root.json").write_bytes(b"{}")
        assert auditor("GET", path).word == "not-published", "what is wrong before the first byte is told"
    finally:
        asked.close()


def test_a_pack_of_a_ring(yard: Yard) -> None:
    path = yard.pack(ring="front")
    assert wrong(yard.verify(path)) == {}
    names = [row.name for row in Reader(path).rows(HostRow, "population")]
    assert sorted(names) == ["web-1", "web-2"]
    yard.act(upkeep.move, yard.machines["web-2"].id, "back")
    again = yard.pack("again.tar", ring="front")
    assert wrong(yard.verify(again)) == {}
    assert Reader(again).about().hosts == 1


def test_a_server_without_levels_and_hosts_without_reports(store: Store, press: Press, tmp_path: Path) -> None:
    yard = Yard(store, press, tmp_path)
    machine = yard.enrol("new", "default")
    path = yard.pack()
    found = wrong(yard.verify(path))
    assert found == {}
    (row,) = Reader(path).rows(HostRow, "population")
    assert (row.id, row.reports, row.build_id) == (machine.id, 0, "")


def test_long_lists_are_cut_into_parts(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "PART", 1500)
    monkeypatch.setattr(gathering, "_ROWS", 2)
    path = yard.pack()
    assert len(Pack(path).parts("reports")) > 3
    assert len(Pack(path).parts("audit")) > 3
    assert wrong(yard.verify(path)) == {}


def test_a_level_that_nobody_has_signed_is_named(yard: Yard) -> None:
    yard.say("web-2", 5, 0, loaded=HeldLevel(2, "kmend_2_deadbeef", "de" * 32))
    found = wrong(yard.verify(yard.pack()))
    assert list(found) == ["modules"]
    assert yard.machines["web-2"].id in found["modules"]


def test_what_is_published_and_not_imported_yet_does_not_spoil_a_pack(yard: Yard) -> None:
    yard.press.publish(3, [FIRST, SECOND, OPEN], base=2)
    path = yard.pack()
    assert wrong(yard.verify(path)) == {}
    assert sum(name.startswith("manifests/") for name in Pack(path).names) == 3


def test_a_copy_of_a_host_is_in_the_population(yard: Yard) -> None:
    key = new_key("another")
    message, body, signature = yard.machines["web-2"].split_into(key)
    yard.store.transact(
        lambda connection: enrolment.split(
            connection, message, body, signature, address="192.0.2.8", server=SERVER_ID, now=yard.begin
        )
    )
    path = yard.pack()
    assert wrong(yard.verify(path)) == {}
    assert Reader(path).about().hosts == 4


def test_the_commands(packed: Packed, copy: Path, tmp_path: Path) -> None:
    root = tmp_path / "root.json"
    root.write_bytes(packed.yard.root)
    done = run("verify", copy, "--root", root, "--json")
    assert (done.return_value, json.loads(done.stdout)["verified"]) == (0, True)
    about = Reader(copy).about()
    assert run("verify", copy, "--root", root, "--head", f"{about.audit.number}:{about.audit.digest}").return_value == 0
    assert run("verify", copy, "--root", root, "--head", f"{about.audit.number}:{'0' * 64}").return_value == 1
    content = bytearray(copy.read_bytes())
    content[3000] ^= 1
    copy.write_bytes(content)
    done = run("verify", copy, "--root", root)
    assert done.return_value == 1
    assert "NOT verified" in done.stdout
    assert "WRONG" in done.stdout


def test_what_a_pack_says(packed: Packed) -> None:
    shown = json.loads(run("show", packed.path, "--json").stdout)
    assert (shown["hosts"], shown["inventory"], shown["covered"]) == (3, 2, 1)
    assert "1 of 2 machines" in run("show", packed.path).stdout
    turns = json.loads(run("show", packed.path, "--host", "web-1", "--json").stdout)["turns"]
    assert [(turn["by"], turn["closed"], turn["reopened"], turn["open"]) for turn in turns] == [
        ("first report", 0, 0, 3), ("level 1", 1, 0, 2), ("level 2", 1, 0, 1),
        ("level 2 taken off by a reboot", 0, 2, 3), ("level 2", 2, 0, 1),
    ]  # fmt: skip
    rows: list[dict[str, Any]] = json.loads(run("show", packed.path, "--cve", SECOND, "--json").stdout)
    begin = packed.yard.begin
    found = {row["name"]: (row["detected"], row["closed_at"], row["closed_by"], row["reopened"]) for row in rows}
    assert found == {
        "web-1": (begin - 2 * DAY, begin + 4 * DAY, "level 2", 1),
        "web-2": (begin + DAY, None, "", 0),
    }
    assert all(row["fix_available"] == packed.yard.press.now for row in rows)
    only = json.loads(run("show", packed.path, "--cve", FIRST, "--host", "web-2", "--json").stdout)
    assert [row["name"] for row in only] == ["web-2"]
    assert all(row["open"] for row in json.loads(run("show", packed.path, "--cve", OPEN, "--json").stdout))
    assert "level 2" in run("show", packed.path, "--host", "web-1").stdout
    assert run("show", packed.path, "--host", "nowhere").exception is not None


def test_periods_at_the_edges(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first host, far into what is to come, of no report at all, and with a clock that was wrong for a while."""
    begin, now = yard.begin, yard.press.now
    yard.say("web-2", 40, 1)  # the server's clock was a month ahead
    yard.say("web-2", 9, 2)
    for since, until, hosts, reports in (
        (begin - 90 * DAY, begin - 30 * DAY, 0, 0),
        (begin, now + 300 * DAY, 3, 8),
        (begin + 8 * DAY, begin + 9 * DAY, 3, 2),
        (begin, now, 3, 7),
    ):
        monkeypatch.setattr(
            yard, "wanted", lambda ring, s=since, u=until: Wanted(SERVER_ID, s, u, ring, "token:9", now, 400)
        )
        path = yard.pack("edge.tar")
        assert wrong(yard.verify(path)) == {}, (since, until)
        about = Reader(path).about()
        assert (about.hosts, about.reports) == (hosts, reports), (since, until)
        if hosts:
            assert run("show", path, "--cve", OPEN).exception is None
