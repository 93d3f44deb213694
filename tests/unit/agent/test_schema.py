"""State of another version: recorded folders of each schema are read, brought up, or refused without losing a byte.

`recorded/schema-N` is what a kmend of that schema left behind: level 1 soaked, level 2 rolled back, an orderly shutdown noted,
then level 3 loaded and still being tried.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.conftest import Machine

from kmend import __version__
from kmend.agent import schema
from kmend.agent.checking import LastCheck
from kmend.agent.history import Record
from kmend.agent.journal import Intent
from kmend.agent.quarantine import Entries
from kmend.agent.session import CleanShutdown, Soaked
from kmend.core.document import decode, encode, plain
from kmend.core.errors import SystemProblemError
from kmend.core.manifest import Manifest

RECORDED = Path(__file__).parent / "recorded"
SCHEMAS = range(1, schema.STATE_SCHEMA + 1)
DOCUMENTS: dict[str, type] = {
    "intent.json": Intent,
    "quarantine.json": Entries,
    "last_check.json": LastCheck,
    "soaked.json": Soaked,
    "shutdown.json": CleanShutdown,
    "schema.json": schema.Mark,
}
COMMANDS = [
    ("status",),
    ("status", "--json", "--exit-code"),
    ("check",),
    ("update",),
    ("rollback",),
    ("unload",),
    ("history",),
    ("quarantine", "clear"),
    ("internal", "note-shutdown"),
    ("internal", "before-removal"),
]


def place(machine: Machine, number: int) -> Path:
    """Give the host the state of a schema."""
    shutil.rmtree(machine.paths.state, ignore_errors=True)
    shutil.copytree(RECORDED / f"schema-{number}", machine.paths.state)
    return machine.paths.state


def mark(folder: Path, number: int) -> None:
    """Make it the state of another kmend."""
    (folder / schema.NAME).write_bytes(encode(schema.Mark(number, f"{number}.0")))


def fingerprint(folder: Path) -> dict[str, str]:
    """Every file and its digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("number", SCHEMAS)
def test_recorded_state_is_understood(machine: Machine, number: int) -> None:
    folder = place(machine, number)
    document = machine.json("status")
    assert [(entry["level"], entry["cause"]) for entry in document["quarantine"]] == [(2, "rolled-back")]
    # The level was being tried in a boot of which an orderly end is recorded.
    assert "level 3 was soaking; that proves nothing" in document["notes"][0]["message"]
    events = [line.split() for line in machine.must("history").splitlines()]
    assert len(events) >= 14
    assert schema.standing(folder) == schema.Mark(schema.STATE_SCHEMA, __version__)
    assert not list(folder.rglob("*.corrupt-*"))
    machine.must("update", "--level", "3")
    assert machine.json("status")["livepatch"]["level"] == 3


@pytest.mark.parametrize("number", SCHEMAS)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_recorded_member_is_still_read_and_written(number: int, name: str) -> None:
    """What an older kmend requires of a document does not go away, so that it still reads what this one writes."""
    path = RECORDED / f"schema-{number}" / name
    if name == schema.NAME and number == 1:
        return
    before = json.loads(path.read_bytes())
    after: Any = plain(decode(DOCUMENTS[name], path.read_bytes()))
    assert_holds(after, before, name)


@pytest.mark.parametrize("number", SCHEMAS)
def test_every_recorded_event_and_level_is_still_read_and_written(number: int) -> None:
    folder = RECORDED / f"schema-{number}"
    for line in (folder / "history.jsonl").read_bytes().splitlines():
        assert_holds(plain(decode(Record, line)), json.loads(line), "history.jsonl")
    for path in (folder / "levels").glob("*.json"):
        assert_holds(plain(decode(Manifest, path.read_bytes())), json.loads(path.read_bytes()), path.name)


def assert_holds(after: Any, before: Any, where: str) -> None:
    """Every member of `before` is in `after`, with the same value."""
    if isinstance(before, dict):
        for name, value in before.items():
            assert name in after, f"{where}.{name} is gone"
            assert_holds(after[name], value, f"{where}.{name}")
    elif isinstance(before, list):
        for number, (one, other) in enumerate(zip(after, before, strict=True)):
            assert_holds(one, other, f"{where}[{number}]")
    else:
        assert after == before, where


def test_one_schema_newer_is_read_and_its_number_left(machine: Machine) -> None:
    folder = place(machine, schema.STATE_SCHEMA)
    for path in folder.rglob("*.json"):
        tree = json.loads(path.read_bytes())
        path.write_text(json.dumps({**tree, "later": {"what": ["nobody", "knows", 1]}}))
    lines = (folder / "history.jsonl").read_bytes().splitlines()
    (folder / "history.jsonl").write_bytes(b"".join(line[:-1] + b',"later":1}\n' for line in lines))
    mark(folder, schema.STATE_SCHEMA + 1)
    document = machine.json("status")
    assert [entry["level"] for entry in document["quarantine"]] == [2]
    machine.must("update", "--level", "3")
    newer = schema.standing(folder)
    assert newer is not None
    assert newer.schema == schema.STATE_SCHEMA + 1
    assert (folder / "history.jsonl").read_bytes().startswith(lines[0][:-1] + b',"later":1}')


def test_one_schema_newer_that_cannot_be_read_is_left_alone(machine: Machine) -> None:
    folder = place(machine, schema.STATE_SCHEMA)
    intent = (folder / "intent.json").read_bytes().replace(b'"soaking"', b'"hovering"')
    (folder / "intent.json").write_bytes(intent)
    mark(folder, schema.STATE_SCHEMA + 1)
    before = fingerprint(folder)
    for command in COMMANDS:
        assert machine.run(*command) == 60, command
        assert "It is of a newer kmend" in machine.err
    assert fingerprint(folder) == before


@pytest.mark.parametrize("ahead", [2, 7, 10**9])
def test_much_newer_is_refused_and_not_a_byte_is_lost(machine: Machine, ahead: int) -> None:
    machine.must("update", "--level", "1")
    folder = machine.paths.state
    (folder / "intent.json").write_text('{"format":"kmend-intent/9","state":"hovering"}')
    mark(folder, schema.STATE_SCHEMA + ahead)
    before = fingerprint(folder)
    for command in COMMANDS:
        assert machine.run(*command) == 60, command
        assert f"reads up to {schema.STATE_SCHEMA + 1}" in machine.err
        assert "hint: install kmend" in machine.err
    assert fingerprint(folder) == before
    assert len(machine.kernel.noted("loads")) == 1


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"schema":0,"kmend":""}', b'{"schema":-4,"kmend":"x"}', b"x" * 99_999]
)
def test_a_torn_number_is_written_anew(machine: Machine, content: bytes) -> None:
    folder = place(machine, schema.STATE_SCHEMA)
    (folder / schema.NAME).write_bytes(content)
    machine.must("status")
    assert schema.standing(folder) == schema.Mark(schema.STATE_SCHEMA, __version__)


def test_a_step_that_is_cut_off_is_done_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place(machine, 1)
    calls = []

    def step(where: Path) -> None:
        calls.append(where)
        if len(calls) == 1:
            raise SystemProblemError("cannot write: No space left on device")

    monkeypatch.setitem(schema.MIGRATIONS, 1, step)
    assert machine.run("update", "--level", "3") == 1
    assert schema.standing(folder) is None
    assert machine.kernel.noted("loads") == []
    machine.must("update", "--level", "3")
    assert calls == [folder, folder]
    machine.must("status")
    assert len(calls) == 2


def test_every_schema_has_a_step_and_a_recording() -> None:
    assert set(schema.MIGRATIONS) == set(range(1, schema.STATE_SCHEMA))
    assert {path.name for path in RECORDED.iterdir()} == {f"schema-{number}" for number in SCHEMAS}
