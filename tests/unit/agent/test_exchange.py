"""The course of a check-in: what is sent and kept, when something is lost, full, killed, behind, cloned, or hostile."""

from __future__ import annotations

import contextlib
import copy
import uuid
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.unit.agent.director import KEY, Director, refusal
from tests.unit.agent.party import NOW, Disk, KilledError, MemoryParty, Wire, check_in, enrolled
from tests.unit.sample_livepatch import BUILD_ID

from kmend.agent import conversation, exchange
from kmend.agent.conversation import MAX_LEAP, Acknowledged, ClonedError, ServerError
from kmend.core.document import decode, encode
from kmend.core.errors import SystemProblemError
from kmend.core.wire import (
    CHECK_IN_PATH,
    MAX_ITEMS,
    MAX_LOADED,
    MAX_REQUEST_BYTES,
    SPLIT_PATH,
    Answer,
    CheckIn,
    ModuleReport,
    Offer,
    Remark,
    StateReport,
)
from kmend.trust import hostkey
from kmend.trust.errors import UnreachableError

OFFERS = [Offer(BUILD_ID, 0), Offer(BUILD_ID, 1, reason="first"), Offer(BUILD_ID, 2), Offer(BUILD_ID, 0, back=2)]


def messages(director: Director) -> list[CheckIn]:
    return [decode(CheckIn, body) for path, _, body in director.received if path == CHECK_IN_PATH]


def test_the_report_is_sent_once_and_an_offer_kept() -> None:
    director = Director()
    host = enrolled(director)
    director.offer(OFFERS[1])
    first = check_in(director, host)
    assert (first.changed, first.offer) == (True, OFFERS[1])
    host.at += 900
    second = check_in(director, host)
    assert (second.changed, second.offer, second.next) == (False, OFFERS[1], 900)
    sent = messages(director)
    assert [message.counter for message in sent] == [1, 2]
    assert [message.state is not None for message in sent] == [True, False]
    assert len(encode(sent[1])) < 350
    host.level_state = "steady"
    check_in(director, host)
    state = messages(director)[-1].state
    assert state is not None
    assert (state.state, state.at) == ("steady", NOW + 900)


def test_a_server_that_lost_the_report_gets_it_again() -> None:
    director = Director()
    host = enrolled(director)
    check_in(director, host)
    (row,) = director.rows.values()
    row.report, row.state = "", None
    check_in(director, host)
    assert row.state is not None
    assert [message.state is not None for message in messages(director)] == [True, False, True]


def test_an_answer_that_is_lost_costs_a_counter_and_nothing_else() -> None:
    director = Director()
    host = enrolled(director)
    director.offer(OFFERS[1])
    with pytest.raises(UnreachableError):
        check_in(director, host, lost_answers=frozenset({0}))
    assert host.offer() is None
    assert check_in(director, host).offer == OFFERS[1]
    assert [message.counter for message in messages(director)] == [1, 2]


def test_a_host_from_a_backup_goes_on_from_what_the_server_has_seen() -> None:
    director = Director()
    host = enrolled(director)
    backup = host.snapshot()
    for _ in range(5):
        check_in(director, host)
    host.disk.files = backup
    check_in(director, host)
    assert [message.counter for message in messages(director)] == [1, 2, 3, 4, 5, 1, 6]


def test_a_copy_on_another_machine_asks_for_an_identity_of_its_own() -> None:
    director = Director()
    host = enrolled(director)
    check_in(director, host)
    twin = MemoryParty(Disk(copy.copy(host.disk.files)), machine="ff" * 32)
    director.offer(OFFERS[1])
    with pytest.raises(UnreachableError):
        check_in(director, twin, lost_answers=frozenset({0}))
    check_in(director, twin)
    assert len(director.rows) == 2, "a lost answer makes no third host"
    assert twin.identity().parent == host.identity().host
    assert twin.identity().host != host.identity().host
    check_in(director, host)
    assert host.identity().parent == ""


def test_two_that_woke_up_from_one_snapshot_are_told_apart() -> None:
    director = Director()
    host = enrolled(director)
    check_in(director, host)
    twin = MemoryParty(Disk(copy.copy(host.disk.files)))
    for _ in range(6):
        check_in(director, host)
        check_in(director, twin)
    assert host.identity().host != twin.identity().host
    assert len(director.rows) == 2


def test_a_server_that_always_says_cloned_gets_one_new_identity_at_a_time() -> None:
    director = Director()
    host = enrolled(director)
    director.meddle = lambda path, status, content: (
        (409, b'{"type":"urn:kmend:problem:cloned","title":"x","status":409}') if path == CHECK_IN_PATH else None
    )
    with pytest.raises(ClonedError):
        check_in(director, host)
    assert len(director.rows) == 2


@pytest.mark.parametrize(("word", "kept"), [("decommissioned", False), ("busy", True), ("signature", True)])
def test_who_is_no_member_any_more_has_no_offer(word: str, kept: bool) -> None:
    director = Director()
    host = enrolled(director)
    director.offer(OFFERS[1])
    check_in(director, host)
    problem = f'{{"type":"urn:kmend:problem:{word}","title":"no","status":403}}'.encode()
    director.meddle = lambda path, status, content: (403, problem)
    with pytest.raises(ServerError) as caught:
        check_in(director, host)
    assert caught.value.word == word
    assert (host.offer() is not None) == kept
    director.meddle = None
    assert check_in(director, host).offer == OFFERS[1]


def test_an_enrolment_whose_answer_is_lost_makes_one_host() -> None:
    director = Director()
    host = MemoryParty()
    for lost in (frozenset({0}), frozenset[int]()):
        seed = host.coming_seed(host.here)
        course = exchange.enrol(
            KEY, "https://kmend.example", hostkey.public_key(seed), host.facts(host.here),
            lambda content, seed=seed: hostkey.sign(seed, content),  # type: ignore[misc]
        )  # fmt: skip
        if lost:
            with pytest.raises(UnreachableError):
                Wire(director, lost_answers=lost).run(course)
        else:
            Wire(director).run(course)
    assert len(director.rows) == 1


HOSTILE = [
    b"",
    b"null",
    b"[" * 10_000,
    b"\xff\xfe",
    b'{"answer":"","next":0,"timestamp":""}',
    b'{"answer":"","next":1e400,"timestamp":""}',
    b'{"answer":"","next":99999999999,"timestamp":""}',
    b'{"answer":"' + b"x" * 400 + b'","next":5,"timestamp":""}',
    b'{"answer":"\\u001b[2J","next":5,"timestamp":""}',
    b'{"answer":"a","next":5,"timestamp":"","offer":{"build_id":"..","level":1}}',
    b'{"answer":"a","next":5,"timestamp":"","offer":{"build_id":"' + BUILD_ID.encode() + b'","level":-1}}',
    b'{"answer":"a","next":5,"timestamp":"","offer":{"build_id":"' + BUILD_ID.encode() + b'","level":1e9}}',
    b"x" * 70_000,
]


@pytest.mark.parametrize("answer", HOSTILE)
@pytest.mark.parametrize("status", [200, 409, 500])
def test_what_cannot_be_an_answer_changes_nothing(answer: bytes, status: int) -> None:
    director = Director()
    host = enrolled(director)
    director.offer(OFFERS[1])
    check_in(director, host)
    before = host.snapshot()
    director.meddle = lambda path, was, content: (status, answer)
    with pytest.raises(ServerError) as caught:
        check_in(director, host)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 600
    assert host.snapshot() == before | {"counter": 2}
    director.meddle = None
    assert check_in(director, host).offer == OFFERS[1]


@pytest.mark.parametrize("counter", [-1, 0, MAX_LEAP + 2, 2**53 - 2, 2**53, 2**70])
def test_an_absurd_counter_is_not_gone_on_from(counter: int) -> None:
    director = Director()
    host = enrolled(director)
    said = f'{{"type":"urn:kmend:problem:counter-behind","title":"x","status":409,"counter":{counter}}}'.encode()
    director.meddle = lambda path, status, content: (409, said)
    with pytest.raises(ServerError):
        check_in(director, host)
    assert host.disk.files["counter"] < 10
    director.meddle = None
    check_in(director, host)


def test_a_counter_that_is_far_ahead_is_gone_on_from() -> None:
    director = Director()
    host = enrolled(director)
    (row,) = director.rows.values()
    row.counter = MAX_LEAP
    check_in(director, host)
    assert row.counter == MAX_LEAP + 1


def test_who_is_no_member_any_more_has_no_offer_when_it_learns_that_as_a_copy_either() -> None:
    director = Director()
    host = enrolled(director)
    director.offer(OFFERS[1])
    check_in(director, host)
    host.here = "ee" * 32  # the disk in another machine; the host was decommissioned meanwhile
    no = encode(refusal("decommissioned", 403))
    director.meddle = lambda path, status, content: (403, no) if path == SPLIT_PATH else None
    with pytest.raises(ServerError) as caught:
        check_in(director, host)
    assert caught.value.word == "decommissioned"
    assert host.offer() is None


def test_a_server_that_asks_for_the_state_without_end_is_left() -> None:
    director = Director()
    host = enrolled(director)
    director.meddle = lambda path, status, content: (
        (200, encode(Answer("", 1, "", None, send_state=True))) if path == CHECK_IN_PATH else None
    )
    check_in(director, host)  # the state came with the first one: what else is wanted is not clear
    check_in(director, host)
    assert len(director.received) < 8


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("writes", range(5))
def test_an_offer_that_was_taken_back_while_it_was_written_down_does_not_stay(writes: int, killed: bool) -> None:
    director = Director()
    host = enrolled(director)
    director.offer(OFFERS[0])
    check_in(director, host)
    director.offer(OFFERS[1])
    host.disk.writes, host.disk.killed = writes, killed
    with contextlib.suppress(KilledError, SystemProblemError):
        check_in(director, host)
    host.disk.writes = None
    director.offer(OFFERS[0])
    assert check_in(director, host).offer == OFFERS[0]


class Faults(RuleBasedStateMachine):
    """A host and its server, either of which forgets, dies or is not heard, at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.director = Director()
        self.host = enrolled(self.director)
        self.boots = 1
        self.backup = self.host.snapshot()
        self.splits = 0

    @initialize(offer=st.sampled_from(OFFERS))
    def begin(self, offer: Offer) -> None:
        self.director.offer(offer)

    @rule(offer=st.sampled_from(OFFERS))
    def offered(self, offer: Offer) -> None:
        self.director.offer(offer)

    @rule(state=st.sampled_from(["idle", "soaking", "steady"]), later=st.integers(1, 1000))
    def changed(self, state: str, later: int) -> None:
        self.host.level_state = state
        self.host.at += later

    @rule()
    def rebooted(self) -> None:
        self.boots += 1
        self.host.boot_id = str(uuid.UUID(int=self.boots, version=4))

    @rule(lost=st.sampled_from(["request", "answer"]), number=st.integers(0, 2))
    def unheard(self, lost: str, number: int) -> None:
        gone = frozenset({number})
        with contextlib.suppress(UnreachableError):
            if lost == "request":
                check_in(self.director, self.host, lost_requests=gone)
            else:
                check_in(self.director, self.host, lost_answers=gone)

    @rule(writes=st.integers(0, 4), killed=st.booleans())
    def interrupted(self, writes: int, killed: bool) -> None:
        self.host.disk.writes, self.host.disk.killed = writes, killed
        with contextlib.suppress(KilledError, SystemProblemError):
            check_in(self.director, self.host)
        self.host.disk.writes = None

    @rule()
    def saved(self) -> None:
        self.backup = self.host.snapshot()

    @precondition(lambda self: self.backup is not None)
    @rule()
    def restored(self) -> None:
        self.host.disk.files = copy.copy(self.backup)

    @rule()
    def the_server_forgot(self) -> None:
        for row in self.director.rows.values():
            row.report, row.state = "", None

    @rule()
    def in_order(self) -> None:
        self.settled()

    def settled(self) -> None:
        """A check-in that nothing disturbs brings both to know the same."""
        done = check_in(self.director, self.host)
        row = self.director.rows[self.host.identity().host]
        assert row.state is not None
        assert (row.state.state, row.state.boot_id) == (self.host.level_state, self.host.boot_id)
        assert done.offer == row.offer
        assert self.host.disk.files["counter"] == row.counter

    def teardown(self) -> None:
        self.settled()


TestFaults = Faults.TestCase
TestFaults.settings = settings(
    max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


MODULES = ModuleReport(("ext4", "virtio_net"), ("dccp",))


def told(director: Director) -> list[ModuleReport | None]:
    return [message.module_report for message in messages(director)]


def test_modules_are_told_once_asked_for_and_then_when_they_change() -> None:
    director = Director()
    director.wants_modules = True
    host = enrolled(director)
    host.module_report = MODULES
    check_in(director, host)
    check_in(director, host)
    assert told(director) == [None, MODULES, None]
    other = replace(MODULES, sealed=True)
    host.module_report = other
    check_in(director, host)
    check_in(director, host)
    assert told(director)[3:] == [other, None], "it goes along without being asked for"
    assert messages(director)[3].state is not None, "so that what is kept as evidence holds both"
    (row,) = director.rows.values()
    assert (row.module_report, row.modules) == (other, messages(director)[-1].modules)


def test_a_server_that_knows_nothing_of_modules_is_told_a_tag() -> None:
    director = Director()
    host = enrolled(director)
    host.module_report = MODULES
    check_in(director, host)
    host.module_report = replace(MODULES, sealed=True)
    check_in(director, host)
    assert told(director) == [None, None]


def test_a_host_that_says_nothing_of_modules_speaks_as_it_always_did() -> None:
    director = Director()
    director.wants_modules = True
    host = enrolled(director)
    check_in(director, host)
    (message,) = messages(director)
    assert b"modules" not in encode(replace(message, state=None))
    assert b"modules" not in encode(Answer("", 60, ""))


def test_a_server_that_lost_the_modules_gets_them_again() -> None:
    director = Director()
    director.wants_modules = True
    host = enrolled(director)
    host.module_report = MODULES
    check_in(director, host)
    (row,) = director.rows.values()
    row.modules, row.module_report, row.report, row.state = "", None, "", None
    check_in(director, host)
    (row,) = director.rows.values()
    assert row.module_report == MODULES
    assert told(director)[2:] == [None, MODULES]


def test_a_host_that_cannot_tell_any_more_takes_it_back() -> None:
    director = Director()
    director.wants_modules = True
    host = enrolled(director)
    host.module_report = MODULES
    check_in(director, host)
    host.module_report = None
    check_in(director, host)
    (row,) = director.rows.values()
    assert (row.modules, row.module_report) == ("", None)
    host.module_report = MODULES
    check_in(director, host)
    assert row.module_report == MODULES


def test_an_answer_that_is_lost_has_the_modules_told_again() -> None:
    director = Director()
    director.wants_modules = True
    host = enrolled(director)
    host.module_report = MODULES
    with pytest.raises(UnreachableError):
        check_in(director, host, lost_answers=frozenset({1}))
    host.module_report = replace(MODULES, loaded=())
    with pytest.raises(UnreachableError):
        check_in(director, host, lost_requests=frozenset({1}))
    check_in(director, host)
    (row,) = director.rows.values()
    assert row.module_report == host.module_report


def test_a_server_that_asks_for_ever_is_not_answered_for_ever() -> None:
    director = Director()
    host = enrolled(director)
    host.module_report = MODULES
    director.meddle = lambda path, status, content: (200, encode(Answer("", 60, "", send_modules=True)))
    check_in(director, host)
    assert told(director) == [None, MODULES]
    host.module_report = None
    check_in(director, host)
    assert told(director)[2:] == [None], "it has none, whatever the server wants"


def large(host: MemoryParty) -> StateReport:
    text = "x" * 290
    return replace(
        host.report(host.here, NOW),
        remarks=tuple(Remark(text, text) for _ in range(MAX_ITEMS)),
    )


def test_a_report_beside_which_the_modules_have_no_room_goes_alone() -> None:
    host = enrolled(Director())
    report = large(host)
    many = replace(MODULES, loaded=tuple(f"module_{number:07d}" for number in range(MAX_LOADED)))
    assert len(encode(report)) < MAX_REQUEST_BYTES < len(encode(report)) + len(encode(many))

    def composed(modules: ModuleReport) -> CheckIn:
        return conversation.compose(
            "0" * 32, 1, report, Acknowledged(), offered=False, timestamp=7, full=True, modules=modules, wanted=True
        )

    alone = composed(many)
    assert (alone.state, alone.modules, alone.module_report) == (report, "", None)
    assert len(encode(alone)) <= MAX_REQUEST_BYTES
    both = composed(MODULES)
    assert (both.state, both.module_report) == (report, MODULES)
