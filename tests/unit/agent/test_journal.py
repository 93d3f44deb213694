"""The state machine: only allowed changes, durable before the act, and the table in the docs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from kmend.agent.clock import Clock
from kmend.agent.history import History
from kmend.agent.journal import CHANGES, Intent, Journal, State, WrongStateError
from kmend.agent.quarantine import Cause, Quarantine

DOCS = Path(__file__).parents[3] / "docs/agent.md"


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
    "arm": arm,
    "begin_loading": lambda subject: subject.begin_loading(),
    "begin_transition": lambda subject: subject.begin_transition(),
    "begin_soak": lambda subject: subject.begin_soak(7),
    "settle": lambda subject: subject.settle(),
    "supersede": lambda subject: subject.supersede(),
    "refuse": lambda subject: subject.refuse("no"),
    "begin_disabling": lambda subject: subject.begin_disabling(),
    "finish_disabling": lambda subject: subject.finish_disabling(),
    "lapse": lambda subject: subject.lapse("gone", undone=False),
    "conclude_nothing": lambda subject: subject.conclude_nothing("stopped"),
    "condemn": lambda subject: subject.condemn(Cause.CRASHED, "crash"),
}
WAYS: dict[State, tuple[str, ...]] = {
    State.IDLE: (),
    State.ARMED: ("arm",),
    State.LOADING: ("arm", "begin_loading"),
    State.TRANSITIONING: ("arm", "begin_loading", "begin_transition"),
    State.SOAKING: ("arm", "begin_loading", "begin_transition", "begin_soak"),
    State.DISABLING: ("arm", "begin_disabling"),
}


def test_every_change_is_known_here() -> None:
    assert set(DO) == set(CHANGES)
    assert {state for change in CHANGES.values() for state in (*change.sources, change.target)} == set(State)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", DO)
def test_change_from_each_state(tmp_path: Path, state: State, name: str) -> None:
    subject = journal(tmp_path)
    for step in WAYS[state]:
        DO[step](subject)
    assert subject.state is state
    if state in CHANGES[name].sources:
        DO[name](subject)
        assert subject.state is CHANGES[name].target
    else:
        with pytest.raises(WrongStateError):
            DO[name](subject)
        assert subject.state is state
    assert journal(tmp_path).state is subject.state, "a new process finds the same state"


def test_each_change_leaves_one_record(tmp_path: Path) -> None:
    subject = journal(tmp_path)
    for step in (*WAYS[State.SOAKING], "settle"):
        DO[step](subject)
    records = History(tmp_path / "history.jsonl").records()
    assert [record.event for record in records] == [*WAYS[State.SOAKING], "settle"]
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

    @precondition(lambda self: self.subject.state is State.IDLE)
    @rule()
    def start(self) -> None:
        self._do("arm")

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


def table() -> str:
    """The table of states, as docs/agent.md shows it."""
    lines = ["| change | from | to | meaning |", "|---|---|---|---|"]
    for change in CHANGES.values():
        sources = ", ".join(state.value for state in change.sources)
        lines.append(f"| `{change.name}` | {sources} | {change.target.value} | {change.meaning} |")
    return "\n".join(lines)


def test_docs_show_the_table() -> None:
    assert table() in DOCS.read_text(), f"put this into {DOCS.name}:\n{table()}"
