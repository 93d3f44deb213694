"""Enrolment keys and what they let in."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from sqlalchemy import select, text
from tests.unit.server.conftest import NOW, SERVER_ID
from tests.unit.server.hosts.machines import Machine, enrol, enrolled, enrolment_key

from kmend.core.wire import Enrolled
from kmend.server.access import audit, secrets
from kmend.server.hosts import enrolment, keys, listing, rings, upkeep
from kmend.server.hosts.errors import ConflictError, HostsError, InvalidError, NotFoundError
from kmend.server.hosts.refusals import Refused
from kmend.server.store import Store, open_store, tables


def test_a_host_is_taken_in_once(store: Store) -> None:
    secret = enrolment_key(store, max_uses=1, tags={"site": "ham"})
    machine = Machine.new("web-1")
    first = enrol(store, machine, secret)
    assert isinstance(first, Enrolled)
    assert first.server == SERVER_ID
    assert enrol(store, machine, secret) == first, "the same again, and no use is taken"
    assert isinstance(enrol(store, Machine.new("web-2"), secret), Refused)
    with store.read() as connection:
        assert dict(listing.show(connection, first.host).tags) == {"site": "ham"}
        assert [key.uses for key in keys.listing(connection)] == [1]


def test_secrets_are_nowhere(store: Store) -> None:
    secret = enrolment_key(store)
    enrol(store, Machine.new("web-1"), secret)
    with store.read() as connection:
        for table in tables.metadata.sorted_tables:
            assert secret not in repr(connection.execute(select(table)).all())


@pytest.mark.parametrize("how", ["over", "revoked", "elsewhere", "nonsense", "malformed"])
def test_a_key_that_cannot_be_used(store: Store, how: str) -> None:
    secret = enrolment_key(store, networks=["198.51.100.0/24"] if how == "elsewhere" else [])
    if how == "revoked":
        with store.write() as connection:
            (key,) = keys.listing(connection)
            keys.revoke(connection, key.id, actor="token:1", now=NOW)
            keys.revoke(connection, key.id, actor="token:1", now=NOW)
    if how == "nonsense":
        secret = secrets.make("enrol")
    if how == "malformed":
        secret = "' OR 1=1 --"
    answer = enrol(store, Machine.new("web-1"), secret, now=NOW + 3601 if how == "over" else NOW)
    assert isinstance(answer, Refused)
    assert answer.word == "enrolment-key", "nobody learns which of these it was"


@pytest.mark.parametrize(
    ("address", "good"),
    [("198.51.100.7", True), ("::ffff:198.51.100.7", True), ("192.0.2.1", False), ("2001:db8::1", False), ("x", False)],
)
def test_networks(store: Store, address: str, good: bool) -> None:
    secret = enrolment_key(store, networks=["198.51.100.0/24"])
    assert isinstance(enrol(store, Machine.new("web-1"), secret, address=address), Enrolled) is good


def test_the_new_key_must_sign(store: Store) -> None:
    secret = enrolment_key(store)
    message, body, _ = Machine.new("web-1").enrol_with(secret)
    signature = Machine.new("web-2").enrol_with(secret)[2]
    with store.write() as connection:
        answer = enrolment.enrol(connection, message, body, signature, address="", server=SERVER_ID, now=NOW)
    assert isinstance(answer, Refused)
    assert answer.word == "signature"


def test_the_last_use_is_not_shared(database: str) -> None:
    stores = [open_store(database), open_store(database)]
    secret = enrolment_key(stores[0], max_uses=5)
    answers: list[Enrolled | Refused] = []

    def take(number: int) -> None:
        answers.append(enrol(stores[number % 2], Machine.new(f"web-{number}"), secret))

    threads = [threading.Thread(target=take, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(answer, Enrolled) for answer in answers) == 5
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    "bounds",
    [
        {"expires_at": NOW},
        {"expires_at": NOW + 400 * 86_400},
        {"max_uses": 0},
        {"networks": ["10.0.0.1/8"]},
        {"networks": ["nonsense"]},
        {"tags": {"Bad Name": "x"}},
        {"tags": {"name": "line\nbreak"}},
        {"ephemeral_seconds": 1},
        {"note": "a\x1b[31m"},
        {"ring": "nowhere"},
    ],
)
def test_bounds_that_make_no_sense(sqlite: Store, bounds: dict[str, object]) -> None:
    with pytest.raises(HostsError):
        enrolment_key(sqlite, **bounds)


def test_rings(store: Store) -> None:
    with store.write() as connection:
        rings.put(connection, "early", position=10, description="first", actor="token:1", now=NOW)
        rings.put(connection, "early", position=5, description="first", actor="token:1", now=NOW)
        rings.put(connection, "early", position=5, description="first", actor="token:1", now=NOW)
        assert [ring.name for ring in rings.listing(connection)] == ["early", "default"]
        with pytest.raises(InvalidError):
            rings.put(connection, "Bad", position=1, description="", actor="token:1", now=NOW)
    (host,) = enrolled(store, "web-1", ring="early")
    with store.write() as connection:
        assert rings.show(connection, "early").hosts == 1
        with pytest.raises(ConflictError):
            rings.remove(connection, "early", actor="token:1", now=NOW)
        assert upkeep.move(connection, host.id, "default", actor="token:1", now=NOW).ring == "default"
        with pytest.raises(NotFoundError):
            upkeep.move(connection, host.id, "nowhere", actor="token:1", now=NOW)
        actions = [record.action for record in audit.records(connection)]
    assert actions == ["ring.create", "ring.change", "enrolment-key.create", "host.enrol", "host.move"]


def test_ephemeral_hosts_are_let_go(store: Store) -> None:
    (brief,) = enrolled(store, "brief", ephemeral_seconds=100)
    (lasting,) = enrolled(store, "lasting")
    with store.write() as connection:
        assert upkeep.expire(connection, NOW + 100) == 0
        assert upkeep.expire(connection, NOW + 101) == 1
        assert upkeep.expire(connection, NOW + 101) == 0
        assert listing.show(connection, brief.id).state == "expired"
        assert listing.show(connection, lasting.id).state == "enrolled"
        last = list(audit.records(connection))[-1]
    assert (last.action, last.actor) == ("host.expire", "server")


def test_finding_hosts(store: Store) -> None:
    machines = enrolled(store, *(f"web-{number:02}" for number in range(12)), "db_1", "dbx1")
    with store.write() as connection:
        upkeep.tag(connection, machines[0].id, {"site": "ham"}, actor="token:1", now=NOW)
        upkeep.decommission(connection, machines[1].id, actor="token:1", now=NOW)

    def names(**wanted: object) -> list[str]:
        with store.read() as connection:
            return [host.name for host in listing.every(connection, listing.Filter(**wanted), NOW)]  # type: ignore[arg-type]

    assert len(names()) == 14
    assert names(name="db_*") == ["db_1"]
    assert names(name="*'; DROP TABLE hosts; --") == []
    assert names(tag="site") == names(tag="site=ham") == ["web-00"]
    assert names(tag="site=ber") == []
    assert names(state="decommissioned") == ["web-01"]
    assert names(rings=()) == []
    assert names(seen_before=-1, name="db*") == ["db_1", "dbx1"]
    with store.read() as connection:
        pages, after = [], None
        while True:
            found = listing.page(connection, listing.Filter(), NOW, after=after, limit=5)
            pages.append(len(found.hosts))
            after = found.next
            if after is None:
                break
        assert pages == [5, 5, 4]
        assert listing.count(connection, listing.Filter(name="web*"), NOW) == 12
        assert connection.execute(text("SELECT count(*) FROM hosts")).scalar() == 14


def test_a_decommissioned_host_is_refused(store: Store) -> None:
    from tests.unit.server.hosts.machines import judge

    (host,) = enrolled(store, "web-1")
    with store.write() as connection:
        upkeep.decommission(connection, host.id, actor="token:1", now=NOW)
    (answer,) = judge(store, host.check_in())
    assert isinstance(answer, Refused)
    assert answer.word == "decommissioned"
    assert isinstance(enrol(store, replace(host), enrolment_key(store)), Refused), "its old key is no way back"


def test_of_old_reports_the_last_is_kept(store: Store) -> None:
    """It says what the host ran until the next one, which may be years later."""
    from tests.unit.server.hosts.machines import judge

    (host,) = enrolled(store, "web-1")

    def pruned(now: int) -> list[int]:
        with store.write() as connection:
            upkeep.prune_reports(connection, now, days=9)
            return [report.counter for report in listing.signed_reports(connection, host.id)]

    for level in (1, 2, 3):
        host.level = level
        judge(store, host.check_in(), now=NOW + level)
    assert pruned(NOW + 10 * 86_400) == [3]
    host.level = 4
    judge(store, host.check_in(), now=NOW + 20 * 86_400)
    assert sorted(pruned(NOW + 21 * 86_400)) == [3, 4], "with 3 it came into the nine days"
    assert pruned(NOW + 40 * 86_400) == [4]
