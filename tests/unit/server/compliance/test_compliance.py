"""Policies, exceptions, forecasts and the ranking over a fleet, driven through time."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from tests.unit.intel.test_applicability import CHANGELOG
from tests.unit.server.conftest import NOW
from tests.unit.server.hosts.machines import Machine, enrolled, judge
from tests.unit.server.knowledge.test_knowledge import KERNEL, ONE, THREE, TWO, published, vulns

from kmend.intel.deadlines import STANDARD, Clock, Row
from kmend.intel.feeds import read_changelog, read_kev
from kmend.intel.forecast import Due
from kmend.intel.frameworks import rows_of
from kmend.intel.ranking import Reach
from kmend.intel.verdicts import Word
from kmend.server import knowledge
from kmend.server.access import audit, tokens
from kmend.server.access.permissions import Role
from kmend.server.compliance import ComplianceError, NotThereError, StandsOtherwiseError, exceptions, policies
from kmend.server.compliance.answers import Outlook, forecast_of, ranked
from kmend.server.compliance.exceptions import Accepted, Extent, State
from kmend.server.compliance.standing import fleet
from kmend.server.hosts import rings
from kmend.server.knowledge.timeline import clocks_of_host
from kmend.server.store import Store, tables

DAY = 86_400
OWN = (Row("Ours", 14 * 24, Clock.DISCLOSURE),)
ASKER, APPROVER = "token:asker", "token:approver"


@pytest.fixture
def informed(sqlite: Store, tmp_path: Path) -> Store:
    """Everything is imported, and one kernel build is known; ONE and THREE are open on it."""
    return _inform(sqlite, tmp_path)


def _inform(store: Store, folder: Path) -> Store:
    knowledge.import_cna(store, vulns(folder / "v"), version="a", as_of=NOW, now=NOW)
    knowledge.import_changelog(store, read_changelog(CHANGELOG), as_of=NOW, now=NOW)
    knowledge.import_facts(store, KERNEL, now=NOW)
    knowledge.judge_builds(store)
    return store


def check_in(store: Store, *machines: Machine, at: int = NOW) -> None:
    for machine in machines:
        judge(store, machine.check_in(), now=at)


def put(store: Store, framework: str = "own", rows: Sequence[Row] = OWN, ring: str = "default", **more: object) -> None:
    values = {
        "framework": framework, "rows": rows, "assumed": STANDARD, "valid_from": datetime.date.min,
        "valid_to": datetime.date.max, "approved_by": "the board", "actor": "token:admin", "now": NOW,
    } | more  # fmt: skip
    store.transact(lambda connection: policies.put(connection, ring, framework, **values))  # type: ignore[arg-type]


def expose(store: Store, exposed: bool | None, ring: str = "default") -> None:
    with store.write() as connection:
        rings.put(connection, ring, position=1, description="", exposed=exposed, actor="token:admin", now=NOW)


def look(store: Store, day: float, days: int = 7) -> Outlook:
    with store.read() as connection:
        return forecast_of(connection, NOW + int(day * DAY), days=days)


def cves(found: Sequence[Due]) -> dict[str, int]:
    return {item.cve: item.hosts for item in found}


def accept(
    store: Store,
    extent: Extent,
    subject: str = "",
    *,
    days: int = 30,
    approve: bool = True,
    cve: str = ONE,
    at: int = NOW,
) -> Accepted:
    with store.write() as connection:
        made = exceptions.ask(
            connection, cve=cve, extent=extent, subject=subject, reason="no window", control="seccomp", actor=ASKER,
            expires_at=at + days * DAY, now=at,
        )  # fmt: skip
        return exceptions.approve(connection, made.id, actor=APPROVER, now=at) if approve else made


def token(store: Store, *roles: Role) -> str:
    with store.write() as connection:
        made, _ = tokens.create(
            connection, name="p", roles=roles, rings=(), expires_at=NOW + 99 * DAY, actor="server", now=NOW
        )
    return f"token:{made.id}"


def test_a_breach_that_was_forecast_happens_and_a_level_ends_it(store: Store, tmp_path: Path) -> None:
    _inform(store, tmp_path)
    machines = enrolled(store, "web-1", "web-2")
    check_in(store, *machines)
    put(store)
    assert look(store, 1).forecast.later == 4
    near = look(store, 8)
    assert (cves(near.forecast.due), near.forecast.overdue) == ({ONE: 2, THREE: 2}, ())
    assert {item.due for item in near.forecast.due} == {NOW + 14 * DAY}
    late = look(store, 15)
    assert (late.forecast.due, cves(late.forecast.overdue)) == ((), {ONE: 2, THREE: 2})
    assert late.forecast.buckets == {"Ours": {"0-7": 4, "8-14": 0, "15-30": 0, "31-90": 0, ">90": 0}}
    published(store, 1, ONE)
    machines[0].level, machines[0].phase = 1, "steady"
    check_in(store, machines[0], at=NOW + 15 * DAY)
    assert cves(look(store, 15).forecast.overdue) == {ONE: 1, THREE: 2}
    # A reboot loses the livepatch: the deadline is the one that it was.
    machines[0].level, machines[0].phase, machines[0].boot = 0, "idle", 2
    check_in(store, machines[0], at=NOW + 40 * DAY)
    over = look(store, 41).forecast
    assert cves(over.overdue) == {ONE: 2, THREE: 2}
    assert {item.due for item in over.overdue} == {NOW + 14 * DAY}
    assert over.buckets["Ours"]["15-30"] == 4


def test_an_exception_that_expires_leaves_the_original_clock(store: Store, tmp_path: Path) -> None:
    _inform(store, tmp_path)
    check_in(store, *enrolled(store, "web-1", "web-2"))
    put(store)
    made = accept(store, Extent.RING, "default", days=30)
    during = look(store, 20).forecast
    assert (cves(during.overdue), during.accepted) == ({THREE: 2}, 2)
    after = look(store, 31).forecast
    assert (cves(after.overdue), after.accepted) == ({ONE: 2, THREE: 2}, 0)
    assert {item.due for item in after.overdue} == {NOW + 14 * DAY}
    with store.read() as connection:
        assert exceptions.show(connection, made.id, NOW + 20 * DAY).state is State.IN_FORCE
        assert exceptions.show(connection, made.id, NOW + 30 * DAY).state is State.EXPIRED


@pytest.mark.parametrize("extent", list(Extent))
def test_exceptions_lie_over_what_they_name(informed: Store, extent: Extent) -> None:
    machines = enrolled(informed, "web-1", "web-2")
    with informed.write() as connection:
        connection.execute(insert(tables.host_tags).values(host=machines[0].id, name="role", value="db"))
    check_in(informed, *machines)
    put(informed)
    subject = {Extent.HOST: machines[0].id, Extent.RING: "default", Extent.TAG: "role=db", Extent.EVERYTHING: ""}[
        extent
    ]
    accept(informed, extent, subject, days=100)
    found = look(informed, 20).forecast
    one = extent in (Extent.HOST, Extent.TAG)
    assert cves(found.overdue) == ({ONE: 1, THREE: 2} if one else {THREE: 2})
    assert found.accepted == (1 if one else 2)
    with informed.read() as connection:
        ends = [exceptions.lying_until(connection, ONE, item.id, "default", NOW) for item in machines]
        assert ends == [NOW + 100 * DAY, None if one else NOW + 100 * DAY]
        assert exceptions.lying_until(connection, THREE, machines[0].id, "default", NOW) is None
        first = [item.candidate.hosts for item in ranked(connection, NOW) if item.candidate.cve == ONE]
    assert first == ([1] if one else [])


def test_an_exception_counts_only_when_somebody_else_has_approved_it(informed: Store) -> None:
    check_in(informed, *enrolled(informed, "web-1"))
    put(informed)
    asker, other = token(informed, Role.OPERATOR, Role.APPROVER), token(informed, Role.APPROVER)
    with informed.write() as connection:
        made = exceptions.ask(
            connection, cve=ONE, extent=Extent.EVERYTHING, subject="", reason="r", control="c", expires_at=NOW + 60 * DAY,
            actor=asker, now=NOW,
        )  # fmt: skip
    assert cves(look(informed, 20).forecast.overdue) == {ONE: 1, THREE: 1}
    with informed.write() as connection, pytest.raises(StandsOtherwiseError, match="cannot approve"):
        exceptions.approve(connection, made.id, actor=asker, now=NOW)
    with informed.write() as connection:
        exceptions.approve(connection, made.id, actor=other, now=NOW)
    assert cves(look(informed, 20).forecast.overdue) == {THREE: 1}
    with informed.write() as connection, pytest.raises(StandsOtherwiseError, match="in force"):
        exceptions.approve(connection, made.id, actor=other, now=NOW)
    with informed.write() as connection:
        exceptions.withdraw(connection, made.id, actor=asker, now=NOW + DAY)
        exceptions.withdraw(connection, made.id, actor=asker, now=NOW + DAY)
    assert cves(look(informed, 20).forecast.overdue) == {ONE: 1, THREE: 1}
    with informed.read() as connection:
        acts = [record.action for record in audit.records(connection)]
    assert [act for act in acts if act.startswith("exception.")] == [
        "exception.ask", "exception.approve", "exception.withdraw",
    ]  # fmt: skip
    assert "policy.set" in acts


def test_where_there_is_one_person_that_one_approves_and_the_log_says_so(informed: Store) -> None:
    alone = token(informed, Role.OPERATOR, Role.APPROVER)
    with informed.write() as connection:
        made = exceptions.ask(
            connection, cve=ONE, extent=Extent.EVERYTHING, subject="", reason="r", control="c", expires_at=NOW + DAY,
            actor=alone, now=NOW,
        )  # fmt: skip
        assert exceptions.approve(connection, made.id, actor=alone, now=NOW).state is State.IN_FORCE
        (record,) = [item for item in audit.records(connection) if item.action == "exception.approve"]
    assert json.loads(record.detail)["alone"] is True


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"expires_at": NOW}, "must end"),
        ({"expires_at": NOW + 401 * DAY}, "400 days"),
        ({"reason": " "}, "a reason"),
        ({"control": ""}, "done instead"),
        ({"cve": "CVE-1"}, "not the ID of a CVE"),
        ({"extent": Extent.RING, "subject": ""}, "which ring"),
        ({"extent": Extent.RING, "subject": "none"}, "no ring"),
        ({"extent": Extent.HOST, "subject": "none"}, "no host"),
        ({"subject": "x"}, "names nothing"),
        ({"extent": Extent.TAG, "subject": "=x"}, "which tag"),
    ],
)
def test_an_exception_that_is_none(sqlite: Store, more: dict[str, object], what: str) -> None:
    values: dict[str, object] = {
        "cve": ONE, "extent": Extent.EVERYTHING, "subject": "", "reason": "r", "control": "c", "expires_at": NOW + DAY,
    }  # fmt: skip
    with sqlite.write() as connection, pytest.raises(ComplianceError, match=what):
        exceptions.ask(connection, **(values | more), actor=ASKER, now=NOW)  # type: ignore[arg-type]


def listing(store: Store, *names: str, ransomware: bool = False, day: str = "2026-09-26") -> None:
    use = "Known" if ransomware else "Unknown"
    rows = [
        {"cveID": name, "dateAdded": day, "dueDate": "2026-09-28", "knownRansomwareCampaignUse": use} for name in names
    ]
    document = json.dumps({"catalogVersion": "1", "vulnerabilities": rows}).encode()
    knowledge.import_kev(store, read_kev(document), now=NOW)


def test_a_listing_shortens_a_deadline(informed: Store) -> None:
    check_in(informed, *enrolled(informed, "web-1"))
    put(informed, "cisa-bod-26-04", rows_of("cisa-bod-26-04"))
    expose(informed, False)
    assert look(informed, 10).forecast.upgrade == 2
    # 2026-09-26 00:00 UTC is 4.6 days after NOW.
    listing(informed, ONE)
    listed = 1_790_380_800
    found = look(informed, 10, days=30).forecast
    (due,) = found.due
    assert (due.cve, due.due, due.forensic, found.upgrade) == (ONE, listed + 14 * DAY, False, 1)
    expose(informed, None)
    (over,) = look(informed, 10).forecast.overdue
    assert (over.cve, over.due, over.forensic) == (ONE, listed + 3 * DAY, True)
    with informed.read() as connection:
        first = ranked(connection, NOW + 10 * DAY)[0]
    assert (first.candidate.cve, first.reasons[0]) == (ONE, "CISA lists it as exploited")


def test_a_rejected_cve_is_due_no_more(informed: Store, tmp_path: Path) -> None:
    check_in(informed, *enrolled(informed, "web-1"))
    put(informed)
    assert cves(look(informed, 20).forecast.overdue) == {ONE: 1, THREE: 1}
    tree = vulns(tmp_path / "x")
    left = {cve: record for cve, record in tree.records.items() if cve != ONE}
    rejected = replace(tree, records=left, rejected=frozenset({ONE}))
    knowledge.import_cna(informed, rejected, version="b", as_of=NOW, now=NOW + 20 * DAY)
    knowledge.judge_builds(informed)
    assert cves(look(informed, 21).forecast.overdue) == {THREE: 1}
    with informed.read() as connection:
        assert [item.candidate.cve for item in ranked(connection, NOW + 21 * DAY)] == [THREE]


def test_the_fleet_stands_as_its_hosts_do_one_by_one(informed: Store, tmp_path: Path) -> None:
    """Groups against each host's own timeline, over levels, reboots, a withheld level, and hosts that came at different times."""
    published(informed, 1, ONE)
    published(informed, 2, ONE, THREE, free=False)
    machines = enrolled(informed, *(f"web-{number}" for number in range(6)))
    for number, machine in enumerate(machines):
        check_in(informed, machine, at=NOW + number * DAY)
    for number, machine in enumerate(machines[:4]):
        machine.level, machine.phase = 1 + number % 2, "steady"
        check_in(informed, machine, at=NOW + (8 + number) * DAY)
    for machine in machines[:2]:
        machine.level, machine.phase, machine.boot = 0, "idle", 2
        check_in(informed, machine, at=NOW + 20 * DAY)
    now = NOW + 30 * DAY
    with informed.read() as connection:
        found = fleet(connection, now)
        alone = {machine.id: clocks_of_host(connection, machine.id, now) for machine in machines}
        words = {
            machine.id: {item.verdict.cve: item.verdict.word for item in knowledge.of_host(connection, machine.id, now)}
            for machine in machines
        }
    assert (found.hosts, found.unknown) == (6, 0)
    for cve in (ONE, TWO, THREE):
        wanted = sorted(
            (clocks[cve].open_since or 0, clocks[cve].fix_since)
            for clocks in alone.values()
            if cve in clocks and clocks[cve].open_since is not None and clocks[cve].closed_since is None
        )
        spans = [span for item in found.open if item.cve == cve for ring in item.rings for span in ring.spans]
        told = sorted((max(came, span.known), span.fix_since) for span in spans for came in span.comings)
        assert told == wanted, cve
    one = next(item for item in found.open if item.cve == ONE)
    assert one.easiest is Word.AVAILABLE
    assert Word.AVAILABLE in {by_cve[ONE] for by_cve in words.values()}
    three = next(item for item in found.open if item.cve == THREE)
    assert three.easiest is Word.WITHHELD
    assert three.reach is Reach.UNKNOWN


def test_hosts_of_which_nothing_is_known_are_counted(informed: Store) -> None:
    enrolled(informed, "mute")
    put(informed)
    found = look(informed, 20)
    assert (found.hosts, found.unknown, found.forecast.overdue) == (1, 1, ())


def test_a_ring_without_a_policy_is_named(informed: Store) -> None:
    check_in(informed, *enrolled(informed, "web-1"))
    found = look(informed, 20)
    assert (found.rings_without, found.forecast.unbound) == (("default",), 2)


def test_policies_replace_each_other_and_stay_in_the_record(sqlite: Store) -> None:
    put(sqlite)
    put(sqlite)
    put(sqlite, rows=(replace(OWN[0], hours=24),), now=NOW + 5)
    with sqlite.write() as connection:
        (kept,) = policies.listing(connection)
        assert kept.policy.rows[0].hours == 24
        assert [item.removed_at for item in policies.listing(connection, past=True)] == [NOW + 5, None]
        with pytest.raises(rings.ConflictError, match="policies"):
            rings.remove(connection, "default", actor="a", now=NOW)
        policies.remove(connection, "default", "own", actor="a", now=NOW + 9)
        policies.remove(connection, "default", "own", actor="a", now=NOW + 9)
        assert policies.by_ring(connection) == {}
        acts = [record.action for record in audit.records(connection) if record.action.startswith("policy")]
    assert acts == ["policy.set", "policy.set", "policy.remove"]


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"framework": "pci"}, "no framework"),
        ({"rows": ()}, "has rows"),
        ({"approved_by": ""}, "approved"),
        ({"ring": "none"}, "no ring"),
        ({"valid_to": datetime.date.min}, "ends before"),
    ],
)
def test_a_policy_that_is_none(sqlite: Store, more: dict[str, object], what: str) -> None:
    with pytest.raises((ComplianceError, NotThereError), match=what):
        put(sqlite, **more)  # type: ignore[arg-type]


def test_ransomware_goes_first(informed: Store) -> None:
    check_in(informed, *enrolled(informed, "web-1"))
    listing(informed, ONE, THREE)
    with informed.read() as connection:
        before = [item.candidate.cve for item in ranked(connection, NOW)]
    listing(informed, THREE, ransomware=True)
    with informed.read() as connection:
        after = ranked(connection, NOW)
        rows = {row.cve: row.ransomware for row in connection.execute(select(tables.cve_signals))}
    assert rows == {ONE: None, THREE: True}
    assert before[0] == ONE, "built in, where of the other nobody knows"
    assert after[0].candidate.cve == THREE
