"""The organisation's own list."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.server.conftest import NOW
from tests.unit.server.hosts.machines import Machine, enrolled, judge

from kmend.server.access import audit
from kmend.server.evidence import inventory
from kmend.server.evidence.errors import InventoryError
from kmend.server.evidence.inventory import Listed
from kmend.server.store import Store

CSV = b'\xef\xbb\xbfName,Owner,address,colour,scope\r\nweb-1,"Web, and more",192.0.2.1,red,pci\r\ndb-1,,,,\r\n'


def test_csv_and_json_say_the_same() -> None:
    expected = (Listed("db-1"), Listed("web-1", "", "192.0.2.1", "Web, and more", "pci"))
    assert inventory.read(CSV) == expected
    rows = [
        {"name": "web-1", "owner": "Web, and more", "address": "192.0.2.1", "scope": "pci", "colour": "red"},
        {"name": "db-1"},
    ]
    assert inventory.read(json.dumps(rows).encode()) == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "names no column"),
        (b"hostname,owner\nweb-1,x\n", "names no column"),
        (b"name\n", "empty"),
        (b"[]", "empty"),
        (b"name,owner\n,x\n", "line 2: a machine has a name"),
        (b"name\nweb-1\nWEB-1\n", "line 3: WEB-1 is listed twice"),
        (b"name,machine\nweb-1,nonsense\n", "neither the ID of a host nor the digest"),
        (b"name\n" + b"x" * 301 + b"\n", "at most 300"),
        (b"name\nweb\x1b[2J\n", "one line"),
        (b'[{"name": 7}]', "one line"),
        (b'["web-1"]', "machine 1 is no object"),
        (b"[{", "no JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_with_its_place(content: bytes, words: str) -> None:
    with pytest.raises(InventoryError, match=words):
        inventory.read(content)


@given(st.binary(max_size=300))
def test_whatever_is_given_is_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(InventoryError):
        assert inventory.read(content)


def keep(store: Store, *machines: Listed) -> dict[str, str]:
    """Takes a list in; machine -> host that it is."""
    store.transact(lambda connection: inventory.keep(connection, machines, actor="token:1", now=NOW))
    with store.read() as connection:
        return {item.name: item.host for item in inventory.listing(connection)}


def test_a_machine_is_found_by_id_digest_or_name(store: Store) -> None:
    hosts: list[Machine] = enrolled(store, "web-1", "web-2", "db-1")
    for host in hosts:
        judge(store, host.check_in())
    web, other, database = hosts
    assert keep(
        store,
        Listed("WEB-1"),
        Listed("renamed", machine=other.id),
        Listed("likewise", machine=database.facts.machine),
        Listed("without"),
        Listed("web-2", machine="ab" * 32),
    ) == {"WEB-1": web.id, "renamed": other.id, "likewise": database.id, "without": "", "web-2": ""}


def test_a_list_takes_the_place_of_the_one_before_and_is_recorded(store: Store) -> None:
    keep(store, Listed("a"), Listed("b"))
    machines = [Listed(f"m{number:04}") for number in range(2500)]
    assert list(keep(store, *machines)) == [item.name for item in machines]
    with store.read() as connection:
        last = list(audit.records(connection))[-1]
    assert (last.action, last.actor) == ("inventory.import", "token:1")
    assert json.loads(last.detail) == {"machines": 2500, "sha256": inventory.digest(machines)}
    assert inventory.digest(machines) != inventory.digest(machines[1:])
