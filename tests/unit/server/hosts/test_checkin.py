"""Check-ins: what counts, what is refused, what is kept."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import insert, select
from tests.unit.server.conftest import NOW, SERVER_ID, Databases
from tests.unit.server.hosts.machines import BUILD_ID, Machine, boot_id, enrolled, judge, new_key

from kmend.core.document import decode, encode
from kmend.core.wire import Answer, CheckIn, Enrolled, HeldLevel, Offer, Purpose
from kmend.server.hosts import enrolment, listing, slots, upkeep
from kmend.server.hosts.refusals import Refused
from kmend.server.hosts.signatures import signed
from kmend.server.store import Store, open_store, tables


def _word(answer: Answer | Refused) -> str:
    assert isinstance(answer, Refused), answer
    return answer.word


def split(store: Store, machine: Machine, name: str) -> Enrolled | Refused:
    message, body, signature = machine.split_into(new_key(name))
    return store.transact(
        lambda connection: enrolment.split(
            connection, message, body, signature, address="192.0.2.9", server=SERVER_ID, now=NOW
        )
    )


def test_a_host_reports_and_is_offered_what_its_ring_may_have(store: Store) -> None:
    (host,) = enrolled(store, "web-1")
    with store.write() as connection:
        connection.execute(
            insert(tables.ring_levels).values(ring="default", build_id=BUILD_ID, level=3, rollout="", since=NOW)
        )
    received = host.check_in()
    (answer,) = judge(store, received)
    host.take(answer, received)
    assert isinstance(answer, Answer)
    assert answer.offer == Offer(BUILD_ID, 3)
    assert 1 <= answer.next <= 990
    (again,) = judge(store, host.check_in())
    assert isinstance(again, Answer)
    assert (again.offer, again.send_state, again.answer) == (None, False, host.answer)
    with store.read() as connection:
        shown = listing.show(connection, host.id)
        kept = listing.signed_reports(connection, host.id)
    assert (shown.build_id, shown.phase, shown.last_seen, shown.hardware) == (BUILD_ID, "idle", NOW, "QEMU")
    assert len(kept) == 1
    assert signed(
        host.key.public_key().public_bytes_raw().hex(), kept[0].signature, Purpose.CHECK_IN, SERVER_ID, kept[0].body
    )
    assert decode(CheckIn, kept[0].body).state == host.report()


def test_a_host_is_never_offered_less_than_it_runs(store: Store) -> None:
    (host,) = enrolled(store, "web-1")
    host.level = 5
    (answer,) = judge(store, host.check_in())
    assert isinstance(answer, Answer)
    assert answer.offer == Offer(BUILD_ID, 5)


def test_a_state_that_is_not_known_is_asked_for(store: Store) -> None:
    (host,) = enrolled(store, "web-1")
    (answer,) = judge(store, host.check_in(full=False))
    assert isinstance(answer, Answer)
    assert (answer.send_state, answer.next, answer.offer) == (True, 1, None)


def test_a_replay_is_refused_and_changes_nothing(store: Store) -> None:
    (host,) = enrolled(store, "web-1")
    received = host.check_in()
    assert isinstance(judge(store, received)[0], Answer)
    (refused,) = judge(store, received)
    assert isinstance(refused, Refused)
    assert (refused.word, refused.counter) == ("counter-behind", 1)
    assert isinstance(judge(store, host.check_in())[0], Answer)


def test_twice_in_one_batch_is_judged_in_order(store: Store) -> None:
    one, two = enrolled(store, "web-1", "web-2")
    first, other, second = one.check_in(), two.check_in(), one.check_in()
    answers = judge(store, first, other, second, first)
    assert [isinstance(answer, Answer) for answer in answers] == [True, True, True, False]
    assert _word(answers[3]) == "counter-behind"


def test_what_was_changed_on_the_way_is_refused(store: Store) -> None:
    one, two = enrolled(store, "web-1", "web-2")
    received = one.check_in()
    forged = replace(received, body=received.body.replace(b'"counter":1', b'"counter":9'))
    forged = replace(forged, message=decode(CheckIn, forged.body))
    stolen = two.sign(replace(received.message, counter=2))  # signed by another host
    unknown = one.sign(replace(received.message, host="0" * 32))
    words = [_word(answer) for answer in judge(store, forged, stolen, unknown)]
    assert words == ["signature", "signature", "unknown-host"]


def test_a_report_must_be_the_one_that_is_named(store: Store) -> None:
    (host,) = enrolled(store, "web-1")
    message = host.check_in().message
    assert message.state is not None
    other = replace(message.state, tainted=1)
    assert _word(judge(store, host.sign(replace(message, state=other)))[0]) == "malformed"
    elsewhere = host.sign(replace(message, boot_id=boot_id(9)))
    assert _word(judge(store, elsewhere)[0]) == "malformed"


def test_a_boot_id_that_comes_back_is_a_clone(store: Store) -> None:
    (host,) = enrolled(store, "web-1")
    clone = copy.copy(host)
    clone.boot = 2
    assert isinstance(judge(store, host.check_in())[0], Answer)
    clone.counter = host.counter
    assert isinstance(judge(store, clone.check_in())[0], Answer)
    host.counter = clone.counter
    assert _word(judge(store, host.check_in())[0]) == "cloned"
    with store.read() as connection:
        actions = [row.action for row in connection.execute(select(tables.audit.c.action))]
    assert actions[-1] == "host.cloned"


def test_an_old_message_that_comes_again_after_a_reboot_is_no_clone(store: Store) -> None:
    (host,) = enrolled(store, "web-1")
    old = host.check_in()
    judge(store, old)
    host.boot = 2
    judge(store, host.check_in())
    for _ in range(6):
        assert _word(judge(store, old)[0]) == "counter-behind"
    assert isinstance(judge(store, host.check_in())[0], Answer)


def test_of_a_clone_people_are_told_once_an_hour(store: Store) -> None:
    (host,) = enrolled(store, "web-1")
    host.facts = replace(host.facts, machine="f" * 64)
    for minute in (0, 1, 59, 60, 61):
        received = host.check_in()
        assert _word(judge(store, received, now=NOW + 60 * minute)[0]) == "cloned"
    with store.read() as connection:
        actions = [row.action for row in connection.execute(select(tables.audit.c.action))]
    assert actions.count("host.cloned") == 2


def test_another_machine_with_the_same_identity_is_a_clone(store: Store) -> None:
    (host,) = enrolled(store, "web-1")
    host.facts = replace(host.facts, machine="f" * 64)
    assert _word(judge(store, host.check_in())[0]) == "cloned"


def test_two_that_woke_from_one_snapshot_are_told_apart_by_their_counters(store: Store) -> None:
    (host,) = enrolled(store, "web-1")
    twin = copy.copy(host)
    words = []
    for _ in range(8):
        for machine in (host, twin):
            (answer,) = judge(store, machine.check_in())
            if isinstance(answer, Refused):
                words.append(answer.word)
                machine.counter = answer.counter
    assert words[-1] == "cloned"
    assert words[:3] == ["counter-behind"] * 3


def test_a_host_from_a_backup_goes_on_from_the_counter_that_it_is_told(store: Store) -> None:
    (host,) = enrolled(store, "web-1")
    for _ in range(5):
        judge(store, host.check_in())
    host.counter, host.boot = 2, 2
    (refused,) = judge(store, host.check_in())
    assert isinstance(refused, Refused)
    host.counter = refused.counter
    assert isinstance(judge(store, host.check_in())[0], Answer)


def test_splitting_gives_an_identity_of_its_own(store: Store) -> None:
    (host,) = enrolled(store, "web-1", tags={"site": "ham"})
    new = new_key("another")

    answer = split(store, host, "another")
    assert isinstance(answer, Enrolled)
    assert answer.host != host.id
    assert split(store, host, "another") == answer
    with store.read() as connection:
        shown = listing.show(connection, answer.host)
    assert (shown.parent, shown.ring, dict(shown.tags)) == (host.id, "default", {"site": "ham"})
    clone = copy.copy(host)
    clone.id, clone.key, clone.counter = answer.host, new, 0
    assert isinstance(judge(store, clone.check_in())[0], Answer)
    # Neither half of the proof can be left out.
    message, body, signature = host.split_into(new_key("third"))
    halves = [(message, new_key("third").sign(body).hex()), (replace(message, proof="0" * 128), signature)]
    for asked, by in halves:
        with store.write() as connection:
            refused = enrolment.split(connection, asked, body, by, address="", server=SERVER_ID, now=NOW)
        assert isinstance(refused, Refused)


def test_a_key_that_leaked_does_not_fill_the_fleet(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "MAX_COPIES", 3)
    (host, other) = enrolled(store, "web-1", "web-2")

    answer = split(store, host, "one")
    assert isinstance(answer, Enrolled)
    copied = copy.copy(host)
    copied.id, copied.key = answer.host, new_key("one")
    assert isinstance(split(store, copied, "two"), Enrolled)
    assert isinstance(split(store, host, "three"), Enrolled)
    for machine in (host, copied):
        refused = split(store, machine, "four")
        assert isinstance(refused, Refused)
        assert refused.word == "too-many-copies"
    assert split(store, host, "one") == answer
    assert isinstance(split(store, other, "five"), Enrolled)
    with store.write() as connection:
        upkeep.decommission(connection, answer.host, actor="test", now=NOW)
    assert isinstance(split(store, host, "four"), Enrolled)


def test_what_it_reports_is_what_is_known_of_it(store: Store) -> None:
    (host,) = enrolled(store, "web-1")
    host.level, host.phase = 2, "soaking"
    host.extra = {"trying": HeldLevel(2, "kmend_2_00000000", "0" * 64, "soaking"), "accepts_return": True}
    judge(store, host.check_in())
    with store.read() as connection:
        shown = listing.show(connection, host.id)
    assert (shown.level, shown.trying, shown.phase) == (2, 2, "soaking")


@pytest.mark.parametrize("interval", [60, 900, 86_400])
def test_every_host_has_its_own_second(interval: int) -> None:
    found = [slots.slot(f"{number:032x}", interval) for number in range(3000)]
    assert min(found) >= 0
    assert max(found) < interval
    parts = [sum(part * interval // 10 <= slot < (part + 1) * interval // 10 for slot in found) for part in range(10)]
    assert min(parts) > 220
    for now in (NOW, NOW + 17):
        wait = slots.until_next("a" * 32, interval, now)
        assert interval // 10 <= wait < interval + interval // 10
        assert (now + wait) % interval == slots.slot("a" * 32, interval)


class CheckIns(RuleBasedStateMachine):
    """A host whose answers get lost, which is restarted, restored and replayed: no counter ever counts twice."""

    databases: Databases

    def __init__(self) -> None:
        super().__init__()
        self.store = open_store(self.databases.fresh("sqlite"))
        (self.host,) = enrolled(self.store, "web-1")
        self.accepted: list[int] = []
        self.sent = [self.host.check_in()]
        self._judge(0)

    def teardown(self) -> None:
        self.store.close()

    def _judge(self, place: int) -> None:
        received = self.sent[place]
        (answer,) = judge(self.store, received)
        if isinstance(answer, Answer):
            assert received.message.counter not in self.accepted
            self.accepted.append(received.message.counter)
        elif answer.word == "counter-behind":
            assert answer.counter == max(self.accepted)
            assert received.message.counter <= answer.counter
        else:
            assert answer.word == "cloned"

    @rule()
    def checks_in(self) -> None:
        self.sent.append(self.host.check_in())
        self._judge(-1)

    @rule()
    def sends_what_gets_lost(self) -> None:
        self.sent.append(self.host.check_in())

    @precondition(lambda self: len(self.sent) > 1)
    @rule()
    def is_replayed(self) -> None:
        self._judge(len(self.sent) // 2)

    @rule()
    def restarts(self) -> None:
        self.host.boot += 1

    @rule()
    def comes_from_a_backup(self) -> None:
        self.host.counter = max(0, self.host.counter - 3)

    @rule()
    def changes(self) -> None:
        self.host.level += 1

    @invariant()
    def the_row_has_the_highest(self) -> None:
        with self.store.read() as connection:
            row = connection.execute(select(tables.hosts.c.counter).where(tables.hosts.c.id == self.host.id)).scalar()
        assert row == max(self.accepted, default=0)
        assert self.accepted == sorted(self.accepted)


def test_no_counter_counts_twice(databases: Databases) -> None:
    CheckIns.databases = databases
    machine = CheckIns.TestCase
    machine.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
    machine("runTest").runTest()


def test_the_constant_answer_is_small(store: Store) -> None:
    (host,) = enrolled(store, "web-1")
    received = host.check_in()
    host.take(judge(store, received)[0], received)
    (answer,) = judge(store, host.check_in())
    assert isinstance(answer, Answer)
    assert len(encode(replace(answer, timestamp=""))) < 120
