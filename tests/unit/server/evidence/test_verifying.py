"""A pack verifies as it was made, and after no change whatever, also when the server's own key signs the change."""

from __future__ import annotations

import contextlib
import datetime
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.server.evidence.conftest import Packed
from tests.unit.server.evidence.packing import OPEN, SECOND, lines_of, rows_of, wrong

from kmend.core.document import decode, encode
from kmend.core.errors import KmendError
from kmend.core.manifest import sha256_hex
from kmend.server.access.audit import Head
from kmend.server.evidence import showing, signing
from kmend.server.evidence.container import BLOCK, Pack
from kmend.server.evidence.countersigning import countersign
from kmend.server.evidence.documents import About
from kmend.server.evidence.reading import Reader
from kmend.server.evidence.verifying import Trusted, verify
from kmend.trust import keypem
from kmend.trust.signing import keyfiles
from kmend.trust.signing.keyfiles import KeyPlan

Members = dict[str, bytes]


def test_a_pack_verifies_without_the_server(packed: Packed) -> None:
    found = packed.yard.verify(packed.path)
    assert wrong(found) == {}
    assert found.verified
    told = {item.check: item.message for item in found.findings}
    assert told["reports"] == "6 reports of 3 hosts, signed by themselves"
    assert told["inventory"] == "1 of 2 machines have an agent that reports"
    assert told["levels"].startswith("2 levels, signed by the keys of the trust root")
    assert told["people"] == "countersigned by An Auditor (recall key)"
    assert told["policies"] == "2 policies and 1 exceptions, as the audit log has them"
    assert told["approvals"] == "1 rollouts and 1 approvals, as the audit log has them"


def test_one_byte_changed_anywhere_is_seen(packed: Packed, copy: Path) -> None:
    """A byte of every member's header, content and padding, and of the end."""
    pack = Pack(packed.path)
    content = bytearray(packed.path.read_bytes())
    draw = random.Random(6)
    places = [draw.randrange(pack.end, len(content))]
    position = 0
    for name in pack.names:
        size = pack.size(name)
        places += [position + draw.randrange(BLOCK), position + BLOCK + draw.randrange(max(1, size))]
        position += BLOCK + size + -size % BLOCK
        places.append(position - 1)
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        copy.write_bytes(changed)
        assert not packed.yard.verify(copy, server_alone=True).verified, f"byte {place}"


def test_signatures_can_be_written_in_one_way_only(packed: Packed, copy: Path) -> None:
    """No list of files covers them, and hexadecimal digits could be large or small."""
    pack = Pack(packed.path)
    content = packed.path.read_bytes()
    for name in ("signature.json", pack.parts("countersignatures")[0]):
        text = pack.read(name)
        start = text.index(b'"signature":"') + len(b'"signature":"')
        place = next(place for place in range(start, len(text)) if text[place] in b"abcdef")
        at = content.index(text) + place
        copy.write_bytes(content[:at] + content[at : at + 1].upper() + content[at + 1 :])
        assert not packed.yard.verify(copy, server_alone=True).verified


def test_a_pack_that_was_cut_off_anywhere_is_seen(packed: Packed, copy: Path) -> None:
    content = packed.path.read_bytes()
    draw = random.Random(7)
    for length in (
        0,
        1,
        BLOCK,
        len(content) - BLOCK,
        len(content) - 1,
        *(draw.randrange(len(content)) for _ in range(20)),
    ):
        copy.write_bytes(content[:length])
        assert list(wrong(packed.yard.verify(copy))) == ["form"]
    copy.write_bytes(content + b"\0")
    assert list(wrong(packed.yard.verify(copy))) == ["form"]


def changed_row(folder: str, change: Callable[[dict[str, Any]], object], place: int = 0) -> Callable[[Members], None]:
    def work(members: Members) -> None:
        name = f"{folder}/00001.ndjson"
        rows = rows_of(members[name])
        change(rows[place])
        members[name] = lines_of(rows)

    return work


def changed_rows(folder: str, change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Members], None]:
    def work(members: Members) -> None:
        name = f"{folder}/00001.ndjson"
        rows = rows_of(members[name])
        change(rows)
        members[name] = lines_of(rows)

    return work


def swapped(rows: list[dict[str, Any]]) -> None:
    rows[0], rows[1] = rows[1], rows[0]


def bodies_swapped(rows: list[dict[str, Any]]) -> None:
    for name in ("body", "signature"):
        rows[0][name], rows[1][name] = rows[1][name], rows[0][name]


def of_other_level(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["body"] = row["body"].replace('"level":', '"level":1')


def later(row: dict[str, Any]) -> None:
    row["turns"][-1]["at"] += 1


def with_more_days(text: str) -> str:
    rows = json.loads(text)
    return json.dumps([{**rows[0], "days": 99}, *rows[1:]])


def longest(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return max(rows, key=lambda row: len(row.get("stays", row.get("open", ()))))


CHANGES: dict[str, tuple[str, Callable[[Members], object]]] = {
    "a turn is later": ("timelines", changed_rows("timelines", lambda rows: later(longest(rows)))),
    "a stay is gone": ("timelines", changed_rows("timelines", lambda rows: longest(rows)["stays"].pop())),
    "it was never reopened": (
        "timelines", changed_rows("timelines", lambda rows: [turn.update(reopened=0) for turn in longest(rows)["turns"]]),
    ),
    "a timeline is gone": ("timelines", changed_rows("timelines", lambda rows: rows.pop())),
    "timelines are swapped": ("timelines", changed_rows("timelines", swapped)),
    "a CVE is not open": ("states", changed_rows("states", lambda rows: longest(rows)["open"].pop())),
    "a CVE is closed by no level": (
        "states", changed_rows("states", lambda rows: longest(rows)["live_patched"].append("CVE-2026-9999")),
    ),
    "a report is gone": ("population", changed_rows("reports", lambda rows: rows.pop())),
    "reports are swapped": ("reports", changed_rows("reports", swapped)),
    "what reports say is swapped": ("reports", changed_rows("reports", bodies_swapped)),
    "a report says another level": ("reports", changed_rows("reports", of_other_level)),
    "a report has another counter": ("reports", changed_row("reports", lambda row: row.update(counter=row["counter"] + 7), -1)),
    "a host is gone, with its reports": ("population", lambda members: drop_host(members)),
    "a host has another key": ("reports", changed_row("population", lambda row: row.update(public_key="ab" * 32))),
    "a host is in another ring": ("population", changed_row("population", lambda row: row.update(ring="back2"))),
    "a host is not decommissioned": (
        "population", changed_rows("population", lambda rows: [row.update(state="enrolled") for row in rows]),
    ),
    "a host has other tags": ("population", changed_rows("population", lambda rows: [row.update(tags={}) for row in rows])),
    "a host runs another level": ("population", changed_rows("population", lambda rows: [row.update(level=7) for row in rows])),
    "a record of the audit log is gone": ("audit", changed_rows("audit", lambda rows: rows.pop(3))),
    "the last records are gone": ("audit", changed_rows("audit", lambda rows: rows.pop())),
    "a record says something else": ("audit", changed_row("audit", lambda row: row.update(actor="token:3"), 4)),
    "an approval is gone": ("approvals", changed_rows("approvals", lambda rows: rows.clear())),
    "an approval is somebody else's": ("approvals", changed_row("approvals", lambda row: row.update(actor="token:3"))),
    "a policy allows more": (
        "policies", changed_row("policies", lambda row: row.update(rows=with_more_days(row["rows"]))),
    ),
    "a policy was approved by somebody else": ("policies", changed_row("policies", lambda row: row.update(approved_by="x"))),
    "a policy was never replaced": ("policies", changed_row("policies", lambda row: row.update(removed_at=None))),
    "a policy is gone": ("policies", changed_rows("policies", lambda rows: rows.pop())),
    "an exception was approved earlier": ("policies", changed_row("exceptions", lambda row: row.update(approved_at=1))),
    "an exception ends later": ("policies", changed_row("exceptions", lambda row: row.update(expires_at=row["expires_at"] + 1))),
    "an exception has another reason": ("policies", changed_row("exceptions", lambda row: row.update(reason="because"))),
    "an exception is gone": ("policies", changed_rows("exceptions", lambda rows: rows.clear())),
    "a machine of the inventory is gone": ("inventory", changed_rows("inventory", lambda rows: rows.pop())),
    "a machine has an agent": ("inventory", changed_rows("inventory", lambda rows: [row.update(host="ab" * 16) for row in rows])),
    "more is covered": ("inventory", lambda members: say_about(members, covered=2)),
    "the period is longer": ("population", lambda members: say_about(members, hosts=4)),
    "it is another server's": ("files", lambda members: say_about(members, server="ab" * 16)),
    "an approval has another reason": ("approvals", changed_row("approvals", lambda row: row.update(reason="untested"))),
    "an exception is there twice, with another reason first": (
        "policies", changed_rows("exceptions", lambda rows: rows.insert(0, {**rows[0], "reason": "because"})),
    ),
    "a state is there twice, with nothing open first": (
        "states", changed_rows("states", lambda rows: rows.insert(0, {**rows[0], "open": []})),
    ),
    "a rollout was of another level": (
        "approvals", changed_row("rollouts", lambda row: row.update(targets=dict.fromkeys(row["targets"], 1))),
    ),
    "a rollout was made by somebody else": ("approvals", changed_row("rollouts", lambda row: row.update(created_by="token:5"))),
    "a rollout was made earlier": ("approvals", changed_row("rollouts", lambda row: row.update(created_at=1))),
    "a rollout is gone": ("approvals", changed_rows("rollouts", lambda rows: rows.pop())),
    "a rollout is there twice": ("approvals", changed_rows("rollouts", lambda rows: rows.append(rows[0]))),
    "a rollout that never was": (
        "approvals", changed_rows("rollouts", lambda rows: rows.append({**rows[0], "id": "cd" * 16})),
    ),
    "a file that no pack has": ("files", lambda members: members.update({"approved.txt": b"by the board"})),
    "a folder that no pack has": ("files", lambda members: members.update({"reviews/00001.ndjson": b""})),
    "the pack was made for somebody else": ("audit", lambda members: say_about(members, made_by="token:1")),
    "the pack was made of another period": ("audit", lambda members: say_about(members, since=1)),
    "a silent host has another name": ("population", changed_rows("population", lambda rows: silent(rows).update(name="db-1"))),
    "a silent host is of another machine": (
        "population", changed_rows("population", lambda rows: silent(rows).update(version="#1")),
    ),
    "a host is a copy": ("population", changed_row("population", lambda row: row.update(parent="ab" * 16))),
    "a manifest was changed": ("levels", lambda members: spoil(members, "manifests/", b'"level":2', b'"level":3')),
    "a level closes a CVE more": ("levels", lambda members: spoil(members, "manifests/", b"CVE-2026-2002", b"CVE-2026-2003")),
    "a manifest is gone": ("levels", lambda members: members.pop(first(members, "manifests/"))),
    "a list of levels was changed": ("levels", lambda members: spoil(members, "levels/", b'"level":2', b'"level":3')),
    "the targets were changed": ("levels", lambda members: spoil(members, "metadata/", b'"targets"', b'"targetz"')),
    "the metadata is gone": ("levels", lambda members: [members.pop(name) for name in list(members) if "metadata/" in name]),
}  # fmt: skip


def silent(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return next(row for row in rows if not row["reports"])


def first(members: Members, start: str) -> str:
    return next(name for name in members if name.startswith(start))


def spoil(members: Members, start: str, old: bytes, new: bytes) -> None:
    touched = [name for name in members if name.startswith(start) and old in members[name].replace(b" ", b"")]
    assert touched
    for name in touched:
        members[name] = members[name].replace(b" ", b"").replace(old, new)


def say_about(members: Members, **members_of_about: Any) -> None:
    about = decode(About, members["about.json"])
    tree = {name: getattr(about, name) for name in About.__slots__} | members_of_about
    members["about.json"] = encode(About(**tree))


def drop_host(members: Members) -> None:
    """Every trace of one host but the audit log's, and the counts made to fit."""
    gone = rows_of(members["population/00001.ndjson"])[0]["id"]
    for folder, name in (("population", "id"), ("reports", "host"), ("timelines", "host")):
        key = f"{folder}/00001.ndjson"
        members[key] = lines_of([row for row in rows_of(members[key]) if row[name] != gone])
    about = decode(About, members["about.json"])
    left = len(rows_of(members["reports/00001.ndjson"]))
    say_about(members, hosts=about.hosts - 1, reports=left)


@pytest.mark.parametrize("what", list(CHANGES))
def test_what_the_servers_own_key_signs_anew_is_seen(packed: Packed, copy: Path, what: str) -> None:
    """The change itself is found, by what hosts, publisher or the chain have signed; no countersignature is needed for that."""
    check, change = CHANGES[what]
    forged = packed.yard.forge(copy, change)
    found = wrong(packed.yard.verify(forged, server_alone=True))
    assert check in found, found
    assert "files" not in found or check == "files", "the forged manifest fits the forged files"
    assert "server" not in found or check in ("audit", "files"), "the server's key has signed it"
    assert "people" in wrong(packed.yard.verify(forged))


def test_what_rests_on_the_server_alone_is_held_by_the_countersignature(packed: Packed, copy: Path) -> None:
    def change(members: Members) -> None:
        members["feeds.json"] = b'[{"age":0,"imported_at":1,"name":"cna","records":1,"set_aside":0,"version":"1"}]'

    forged = packed.yard.forge(copy, change)
    assert wrong(packed.yard.verify(forged, server_alone=True)) == {}, (
        "the server's word is believed if it is asked for"
    )
    assert list(wrong(packed.yard.verify(forged))) == ["people"]
    forged = packed.yard.forge(copy, change, keep_people=True)
    assert "not one over this manifest" in wrong(packed.yard.verify(forged, server_alone=True))["people"]


def test_who_may_countersign(packed: Packed, tmp_path: Path) -> None:
    yard = packed.yard
    path = tmp_path / "pack.tar"
    path.write_bytes(yard.pack("bare.tar", countersigned=False).read_bytes())
    assert list(wrong(yard.verify(path))) == ["people"]
    stranger = keypem.make_signer(tmp_path / "auditor.pem")
    key = signing.private_key(tmp_path / "auditor.pem", lambda _: b"")
    countersign(path, key, name="Auditor", note="", at=1)
    assert list(wrong(yard.verify(path))) == ["people"], "a key that nobody has named"
    trusted = Trusted(yard.root, {signing.public_of(key): "auditor.pub"})
    assert wrong(verify(path, trusted)) == {}
    assert stranger.public_key.keyval["public"] == signing.public_of(key)
    with pytest.raises(Exception, match="already"):
        countersign(path, key, name="Auditor", note="", at=1)
    yard.countersign(path, "root")
    assert wrong(yard.verify(path)) == {}


def test_an_audit_log_that_was_written_anew_is_seen_by_a_head_that_was_kept(packed: Packed, copy: Path) -> None:
    records = rows_of(Pack(copy).read("audit/00001.ndjson"))
    kept = Head(records[2]["number"], records[2]["digest"])
    assert wrong(packed.yard.verify(copy, heads=(kept,))) == {}

    def anew(rows: list[dict[str, Any]]) -> None:
        """A chain that is whole, of other records."""
        rows[1]["actor"] = "token:7"
        previous = "0" * 64
        for row in rows:
            row["previous"] = previous
            members = {name: value for name, value in row.items() if name != "digest"}
            previous = row["digest"] = sha256_hex(lines_of([members])[:-1])

    def change(members: Members) -> None:
        changed_rows("audit", anew)(members)
        last = rows_of(members["audit/00001.ndjson"])[-1]
        say_about(members, audit=Head(last["number"], last["digest"]))

    forged = packed.yard.forge(copy, change)
    assert wrong(packed.yard.verify(forged, server_alone=True)) == {}, "nobody can tell who has kept nothing"
    assert "written anew" in wrong(packed.yard.verify(forged, server_alone=True, heads=(kept,)))["audit"]


def test_another_trust_root_verifies_nothing(packed: Packed, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    keyfiles.create(folder, KeyPlan(bin_bits=2, module_key_bits=2048), now=datetime.datetime.now(datetime.timezone.utc))
    found = wrong(verify(packed.path, Trusted((folder / "root.json").read_bytes(), {})))
    assert {"levels", "people"} <= found.keys()
    assert "trust root" in wrong(verify(packed.path, Trusted(b"{}", {})))["levels"]


ODD: tuple[Any, ...] = (None, -1, 10**30, 1e300, True, "x", "\ud800", "\x1b[2J", "", [], {}, [[]], {"a": {}}, "9" * 300)


def spoiled(tree: Any, draw: random.Random) -> Any:
    """The same document with one odd value somewhere in it."""
    places: list[tuple[Any, Any]] = []

    def look(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            look(node[key])

    look(tree)
    if not places:
        return tree
    node, key = draw.choice(places)
    node[key] = draw.choice(ODD)
    return tree


def spoil_somewhere(members: Members, draw: random.Random) -> None:
    name = draw.choice([name for name in members if members[name].strip() and not name.endswith(".pem")])
    lines = members[name].splitlines() if name.endswith(".ndjson") else [members[name]]
    rows = [json.loads(line) for line in lines]
    place = draw.randrange(len(rows))
    inner = "detail" if name.startswith("audit/") else "body" if name.startswith("reports/") else ""
    if inner and draw.random() < 0.8:
        rows[place][inner] = json.dumps(spoiled(json.loads(rows[place][inner]), draw))
    else:
        rows[place] = spoiled(rows[place], draw)
    if name.startswith("audit/"):
        chain_anew(rows)
        if isinstance(rows[-1].get("number"), int):
            about = json.loads(members["about.json"])
            about["audit"] = {"number": rows[-1]["number"], "digest": rows[-1]["digest"]}
            members["about.json"] = json.dumps(about).encode()
    text = "\n".join(json.dumps(row, sort_keys=True, separators=(",", ":")) for row in rows)
    members[name] = text.encode() + (b"\n" if name.endswith(".ndjson") else b"")


def chain_anew(rows: list[dict[str, Any]]) -> None:
    previous = "0" * 64
    for row in rows:
        row["previous"] = previous
        members = {name: value for name, value in row.items() if name != "digest"}
        content = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        previous = row["digest"] = sha256_hex(content.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("seed", range(8))
def test_no_value_anywhere_ends_in_anything_but_a_finding(packed: Packed, copy: Path, seed: int) -> None:
    """Also where the chain of the audit log was made anew around it; and what people are shown is shown, or refused."""
    draw = random.Random(seed)
    for _ in range(40):
        forged = packed.yard.forge(copy, lambda members: spoil_somewhere(members, draw))
        found = packed.yard.verify(forged, server_alone=True)
        encode(found)
        with contextlib.suppress(KmendError):
            reader = Reader(forged)
            showing.summary(reader.about())
            for cve in (OPEN, SECOND):
                list(showing.of_cve(reader, cve))
            showing.of_host(reader, "web-1")
