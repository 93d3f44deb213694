"""Hosts chain their reports: whatever is lost or comes back from a backup, a chain is whole unless a report was left out."""

from __future__ import annotations

import contextlib
import json
import random
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.unit.agent.director import SERVER
from tests.unit.agent.party import NOW, KilledError, MemoryParty, check_in
from tests.unit.server.evidence.packing import DAY, Yard, lines_of, rows_of, wrong
from tests.unit.server.hosts.test_transcripts import BLANK, _with

from kmend.agent import conversation
from kmend.agent.identity import Identity
from kmend.core.document import decode, encode
from kmend.core.errors import KmendError
from kmend.core.wire import NO_LINK, SIGNATURE_HEADER, Answer, CheckIn, ModuleReport, link
from kmend.server.evidence import timelines
from kmend.server.evidence.chains import Chain, Gap
from kmend.server.evidence.documents import State
from kmend.server.hosts.checkin import Accepted, Received, Resync, judge
from kmend.trust import hostkey
from kmend.trust.errors import UnreachableError

SEED = bytes(range(32))
HOST = "0a" * 16
MODULES = (None, ModuleReport(("ext4",)), ModuleReport(("ext4",), ("dccp",)), ModuleReport((), sealed=True))


class Court:
    """The real server's judgement, and what it keeps, without its database."""

    def __init__(self, machine: str) -> None:
        self.known = _with(BLANK, id=HOST, public_key=hostkey.public_key(SEED), machine=machine)
        self.kept: list[CheckIn] = []

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        message = decode(CheckIn, body)
        outcome = judge(self.known, Received(body, headers[SIGNATURE_HEADER], "192.0.2.1", message), SERVER)
        if not isinstance(outcome, Accepted):
            refused = outcome.refused if isinstance(outcome, Resync) else outcome
            return refused.problem().status, encode(refused.problem())
        self.known = _with(self.known, counter=message.counter, **outcome.changes)
        if outcome.report is not None:
            self.kept.append(message)
        return 200, encode(Answer("", 900, "", None, outcome.send_state, outcome.send_modules))


def gaps_of(kept: list[CheckIn], since: int = 0) -> list[Gap]:
    chain = Chain(HOST, since)
    for message in kept:
        assert message.state is not None
        chain.take(message, message.state.at, message.state.at)
    return chain.gaps


class Fates(RuleBasedStateMachine):
    """A host and its server: what is said, what is lost, and what is left out afterwards."""

    restored = False

    def __init__(self) -> None:
        super().__init__()
        self.host = MemoryParty()
        self.court = Court(self.host.here)
        self.host.become(Identity(HOST, SERVER, "https://kmend.example", self.host.here), SEED)
        self.backup: dict[str, Any] = {}

    @rule(seconds=st.sampled_from((0, 0, 1, 900)), state=st.sampled_from(("idle", "steady", "soaking")))
    def lives(self, seconds: int, state: str) -> None:
        self.host.at += seconds
        self.host.level_state = state

    @rule(modules=st.sampled_from(MODULES))
    def holds_modules(self, modules: ModuleReport | None) -> None:
        self.host.module_report = modules

    @rule()
    def starts_anew(self) -> None:
        self.host.boot_id = str(uuid.uuid4())

    @rule(lost=st.sampled_from((None, None, 0, 1, 2)), back=st.booleans())
    def checks_in(self, lost: int | None, back: bool) -> None:
        number = frozenset() if lost is None else frozenset({lost})
        with contextlib.suppress(UnreachableError):
            if back:
                check_in(self.court, self.host, lost_answers=number)
            else:
                check_in(self.court, self.host, lost_requests=number)

    @rule(writes=st.integers(0, 3))
    def is_killed_while_it_checks_in(self, writes: int) -> None:
        self.host.disk.writes, self.host.disk.killed = writes, True
        with contextlib.suppress(KilledError):
            check_in(self.court, self.host)
        self.host.disk.writes = None

    @rule()
    def is_backed_up(self) -> None:
        self.backup = self.host.snapshot()

    @rule()
    def comes_from_the_backup(self) -> None:
        if self.backup:
            self.restored = True
            self.host.disk.files = dict(self.backup)
            self.host.boot_id = str(uuid.uuid4())

    @invariant()
    def the_chain_is_whole(self) -> None:
        assert gaps_of(self.court.kept) == []

    def teardown(self) -> None:
        """Whatever is left out that the host knows of is missed, but for the last."""
        last = self.host.kept().link
        if self.restored or not last:
            return
        way, links = [], {link(message): place for place, message in enumerate(self.court.kept)}
        links |= {link(replace(message, module_report=None)): place for place, message in enumerate(self.court.kept)}
        while last != NO_LINK:
            place = links[last]
            way.append(place)
            last = self.court.kept[place].after
        for place in way[1:]:
            left = [message for number, message in enumerate(self.court.kept) if number != place]
            twins = [
                item for item in left if {link(item), link(replace(item, module_report=None))} & _links(self, place)
            ]
            assert gaps_of(left) or twins, place


def _links(fates: Fates, place: int) -> set[str]:
    message = fates.court.kept[place]
    return {link(message), link(replace(message, module_report=None))}


Fates.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestFates = Fates.TestCase


def test_an_agent_sends_no_link_with_nothing_new() -> None:
    host = MemoryParty()
    court = Court(host.here)
    host.become(Identity(HOST, SERVER, "https://kmend.example", host.here), SEED)
    check_in(court, host)
    host.level_state = "steady"
    check_in(court, host)
    first, second = court.kept
    assert (first.after, second.after) == (NO_LINK, link(first))
    quiet = conversation.compose(HOST, 9, host.report(host.here, NOW), host.kept(), offered=False, timestamp=7)
    assert quiet.after == ("" if quiet.state is None else host.kept().link)


def leave_out(name: str, place: int) -> Any:
    """One report of a host, and all that would tell of it."""

    def change(members: dict[str, bytes]) -> None:
        hosts = {row["name"]: row for row in rows_of(members["population/00001.ndjson"])}
        host = hosts[name]
        rows = rows_of(members["reports/00001.ndjson"])
        own = [row for row in rows if row["host"] == host["id"]]
        rows.remove(own[place])
        members["reports/00001.ndjson"] = lines_of(rows)
        population = rows_of(members["population/00001.ndjson"])
        for row in population:
            if row["id"] == host["id"]:
                row["reports"] -= 1
        members["population/00001.ndjson"] = lines_of(population)
        states = [decode(State, line) for line in members["states/00001.ndjson"].splitlines()]
        counts = timelines.counting({(item.build_id, item.level, ""): item.open for item in states}.__getitem__)
        said = [decode(CheckIn, row["body"].encode()) for row in rows if row["host"] == host["id"]]
        stays = [timelines.stay_of(message, message.state) for message in said if message.state is not None]
        way = json.loads(encode(timelines.timeline(host["id"], stays, counts)))
        ways = rows_of(members["timelines/00001.ndjson"])
        members["timelines/00001.ndjson"] = lines_of(way if row["host"] == host["id"] else row for row in ways)
        about = json.loads(members["about.json"])
        about["reports"] -= 1
        members["about.json"] = lines_of([about])[:-1]

    return change


def test_a_report_that_the_server_leaves_out_is_missed(chained: Yard, tmp_path: Path) -> None:
    yard = chained
    path = yard.pack()
    found = yard.verify(path)
    assert wrong(found) == {}
    told = {item.check: item.message for item in found.findings}["chains"]
    assert (
        told == "the reports of 1 hosts follow on each other; 1 have an agent that does not say what a report follows"
    )
    copy = tmp_path / "pack.tar"
    copy.write_bytes(path.read_bytes())
    for place in (1, 2):
        forged = yard.forge(copy, leave_out("web-1", place))
        found = yard.verify(forged, server_alone=True)
        assert list(wrong(found)) == ["chains"], found
        assert "reports are missing, 1 times, of 1 hosts: web-1" in wrong(found)["chains"]
        (gap,) = found.gaps
        assert (gap.after, gap.before) == (place, place + 2)
        assert yard.verify(forged, server_alone=True, gaps=True).verified, "it is named, and was asked for"
    # The first one of the period, and the one before the period, which only claims to be from then.
    forged = yard.forge(copy, leave_out("web-1", 0))
    assert "web-1" in wrong(yard.verify(forged, server_alone=True))["chains"]

    def early(members: dict[str, bytes]) -> None:
        leave_out("web-1", 0)(members)
        rows = rows_of(members["reports/00001.ndjson"])
        own = next(row for row in rows if json.loads(row["body"])["state"]["facts"]["name"] == "web-1")
        own["received_at"] = yard.begin - 1
        members["reports/00001.ndjson"] = lines_of(rows)

    assert "chains" in wrong(yard.verify(yard.forge(copy, early), server_alone=True))


def test_a_chain_of_a_later_period_begins_where_it_begins(chained: Yard) -> None:
    yard = chained
    yard.begin += 3 * DAY
    path = yard.pack()
    assert wrong(yard.verify(path)) == {}


def test_who_has_lost_his_state_begins_anew(chained: Yard) -> None:
    last = chained.chain("web-1", 6, None)
    chained.chain("web-1", 7, last, 1)
    found = chained.verify(chained.pack())
    assert wrong(found) == {}
    told = {item.check: item.message for item in found.findings}["chains"]
    assert "1 have lost their state and begun anew" in told


def test_a_later_agent_on_an_older_host(chained: Yard) -> None:
    """The agent was brought up to date, then back again, then up again."""
    last = chained.chain("web-2", 5, None, 1)
    last = chained.chain("web-2", 6, last, 2)
    chained.chain("web-2", 7, "", 1)
    chained.chain("web-2", 8, last, 2)
    found = chained.verify(chained.pack())
    assert wrong(found) == {}
    assert "of 1 only some" in {item.check: item.message for item in found.findings}["chains"]


def test_chains_of_any_order_end_in_gaps_and_not_in_errors() -> None:
    draw = random.Random(1)
    host = MemoryParty()
    court = Court(host.here)
    host.become(Identity(HOST, SERVER, "https://kmend.example", host.here), SEED)
    for number in range(20):
        host.level_state = ("idle", "steady")[number % 2]
        host.at += 60
        with contextlib.suppress(KmendError):
            check_in(court, host)
    assert gaps_of(court.kept) == []
    for _ in range(20):
        left = draw.sample(court.kept, len(court.kept))
        assert left == court.kept or gaps_of(left)


def test_a_report_that_was_kept_with_its_modules_and_acknowledged_without() -> None:
    """The answer is lost, and within the same second the host cannot tell of its modules any more."""
    host = MemoryParty()
    court = Court(host.here)
    host.become(Identity(HOST, SERVER, "https://kmend.example", host.here), SEED)
    host.module_report = MODULES[1]
    check_in(court, host)
    host.module_report, host.level_state = MODULES[2], "soaking"
    with contextlib.suppress(UnreachableError):
        check_in(court, host, lost_answers=frozenset({0}))
    assert court.kept[-1].module_report == MODULES[2]
    host.module_report = None
    check_in(court, host)
    host.level_state = "steady"
    check_in(court, host)
    assert court.kept[-1].after not in {link(message) for message in court.kept}
    assert gaps_of(court.kept) == []
