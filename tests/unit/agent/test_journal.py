"""The state machine: only allowed changes, durable before the act, and the table in the docs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from kmend.agent.clock import Clock
from kmend.agent.history import History
from kmend.agent.journal import Intent, Journal
from kmend.agent.quarantine import Cause, Quarantine
from kmend.agent.states import CHANGES, OPEN, REST, UNDER_WAY, State, WrongStateError, standing, table

DOCS = Path(__file__).parents[3] / "docs/agent.md"


@pytest.fixture(autouse=True)
def memory_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here is the order of the writes, not the disk."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def journal(folder: Path) -> Journal:
    """A journal as a new process finds it."""
    return Journal(
        folder, History(folder / "history.jsonl"), Quarantine(folder / "quarantine.json"), Clock(), boot_id="boot"
    )


def arm(subject: Journal) -> None:
    subject.arm(
        action="load",
        cause="update",
        build_id="ab" * 20,
        level=1,
        module="kmend_1_00000000",
        sha256="0" * 64,
        fixes=("1" * 64,),
        suspects=("1" * 64,),
        cves=("CVE-2026-1001",),
        replaces=(),
        tainted=0,
    )


DO: dict[str, Callable[[Journal], None]] = {
    "begin_check": lambda subject: subject.begin_check(),
    "begin_fetch": lambda subject: subject.begin_fetch(),
    "accept": lambda subject: subject.accept(),
    "begin_preflight": lambda subject: subject.begin_preflight(),
    "come_to_rest": lambda subject: subject.come_to_rest(State.HELD),
    "supersede": lambda subject: subject.supersede(),
    "arm": arm,
    "begin_loading": lambda subject: subject.begin_loading(),
    "begin_transition": lambda subject: subject.begin_transition(),
    "begin_soak": lambda subject: subject.begin_soak(7),
    "settle": lambda subject: subject.settle(),
    "refuse": lambda subject: subject.refuse("no"),
    "begin_disabling": lambda subject: subject.begin_disabling(),
    "begin_reverting": lambda subject: subject.begin_reverting("by a person"),
    "resume_transition": lambda subject: subject.resume_transition(),
    "finish_disabling": lambda subject: subject.finish_disabling(),
    "lapse": lambda subject: subject.lapse("gone", undone=False),
    "conclude_nothing": lambda subject: subject.conclude_nothing("stopped"),
    "condemn": lambda subject: subject.condemn(Cause.CRASHED, "crash"),
}
FORWARD = (
    "begin_check",
    "begin_fetch",
    "accept",
    "begin_preflight",
    "arm",
    "begin_loading",
    "begin_transition",
    "begin_soak",
)
WAYS: dict[State, tuple[str, ...]] = {
    State.IDLE: (),
    State.CHECKING: FORWARD[:1],
    State.FETCHING: FORWARD[:2],
    State.VERIFIED: FORWARD[:3],
    State.PREFLIGHT: FORWARD[:4],
    State.ARMED: FORWARD[:5],
    State.LOADING: FORWARD[:6],
    State.TRANSITIONING: FORWARD[:7],
    State.SOAKING: FORWARD[:8],
    State.STEADY: (*FORWARD, "settle"),
    State.REVERTING: (*FORWARD[:7], "begin_reverting"),
    State.QUARANTINED: (*FORWARD, "condemn"),
    State.HELD: ("begin_check", "come_to_rest"),
    State.DEAD_END: ("begin_check", "come_to_dead_end"),
}
STEPS: dict[str, Callable[[Journal], None]] = {
    **DO,
    "come_to_dead_end": lambda subject: subject.come_to_rest(State.DEAD_END),
}


def test_every_change_is_known_here() -> None:
    assert set(DO) == set(CHANGES)
    assert {state for change in CHANGES.values() for state in (*change.sources, *change.targets)} == set(State)
    assert set(WAYS) == set(State) == {*REST, *UNDER_WAY, *OPEN}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", DO)
def test_change_from_each_state(tmp_path: Path, state: State, name: str) -> None:
    subject = journal(tmp_path)
    for step in WAYS[state]:
        STEPS[step](subject)
    assert subject.state is state
    if name == "supersede" and state is State.PREFLIGHT:
        with pytest.raises(WrongStateError, match="without a soak"):
            DO[name](subject)
    elif state in CHANGES[name].sources:
        DO[name](subject)
        assert subject.state in CHANGES[name].targets
    else:
        with pytest.raises(WrongStateError):
            DO[name](subject)
        assert subject.state is state
    assert journal(tmp_path).open_state is subject.open_state, "a new process finds the same intent"


def test_next_level_ends_a_soak_only_when_it_is_about_to_be_armed(tmp_path: Path) -> None:
    subject = journal(tmp_path)
    for step in (*WAYS[State.SOAKING], *FORWARD[:4]):
        DO[step](subject)
    assert subject.open_state is State.SOAKING
    with pytest.raises(WrongStateError, match="arm while level 1 is soaking"):
        DO["arm"](subject)
    DO["come_to_rest"](subject)
    assert subject.open_state is State.SOAKING, "a refusal leaves the soak as it was"
    for step in ("begin_preflight", "supersede", "arm"):
        DO[step](subject)
    assert journal(tmp_path).state is State.ARMED


def test_intent_of_before_the_word_changed() -> None:
    assert State("disabling") is State.REVERTING


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, State.IDLE),
        ({"loaded": True}, State.STEADY),
        ({"loaded": True, "held": True}, State.HELD),
        ({"loaded": True, "held": True, "quarantined": True}, State.QUARANTINED),
        ({"loaded": True, "suspect": True}, State.QUARANTINED),
        ({"supported": False}, State.DEAD_END),
        ({"loaded": True, "oopsed": True}, State.DEAD_END),
    ],
)
def test_where_a_host_stands(facts: dict[str, bool], expected: State) -> None:
    nothing = {
        "supported": None,
        "oopsed": False,
        "suspect": False,
        "quarantined": False,
        "held": False,
        "loaded": False,
    }
    assert standing(**{**nothing, **facts}) is expected  # type: ignore[arg-type]


def test_each_change_leaves_one_record(tmp_path: Path) -> None:
    subject = journal(tmp_path)
    for step in (*WAYS[State.SOAKING], "settle"):
        DO[step](subject)
    records = History(tmp_path / "history.jsonl").records()
    assert [record.event for record in records] == [*FORWARD[4:], "settle"]
    assert len({record.intent for record in records}) == 1


def test_condemned_level_is_in_quarantine(tmp_path: Path) -> None:
    subject = journal(tmp_path)
    for step in (*WAYS[State.LOADING], "condemn"):
        DO[step](subject)
    (entry,) = Quarantine(tmp_path / "quarantine.json").entries()
    assert (entry.level, entry.cause, entry.fixes) == (1, Cause.CRASHED, ("1" * 64,))


class Machine(RuleBasedStateMachine):
    """Any sequence of allowed changes keeps memory and disk in agreement."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = Path(tempfile.mkdtemp(prefix="kmend-journal-"))
        self.subject = journal(self.folder)

    def teardown(self) -> None:
        import shutil

        shutil.rmtree(self.folder)

    def _do(self, name: str) -> None:
        if self.subject.state in CHANGES[name].sources:
            DO[name](self.subject)
            found: Intent | None = journal(self.folder).intent
            assert found == self.subject.intent

    @rule()
    def restart(self) -> None:
        self.subject = journal(self.folder)

    @precondition(lambda self: self.subject.state in REST)
    @rule()
    def start(self) -> None:
        for name in FORWARD[:5]:
            self._do(name)

    @rule()
    def forward(self) -> None:
        for name in ("begin_loading", "begin_transition", "begin_soak", "settle"):
            if self.subject.state in CHANGES[name].sources:
                self._do(name)
                break

    @rule()
    def stop(self) -> None:
        self._do("conclude_nothing")

    @rule()
    def condemn(self) -> None:
        self._do("condemn")

    @rule()
    def lapse(self) -> None:
        self._do("lapse")


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)


def test_docs_show_the_table() -> None:
    assert table() in DOCS.read_text(), f"put this into {DOCS.name}:\n{table()}"
