"""Names from other tools."""

from __future__ import annotations

import pytest
from tests.unit.agent.conftest import Machine

from kmend.agent import aliases
from kmend.agent.main import command_line
from kmend.core.errors import UsageError


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("--info", "status"),
        ("--status", "status --exit-code"),
        ("--patch-info", "patches"),
        ("--unload", "unload"),
        ("show --available", "patches"),
        ("upgrade -n", "check"),
        ("upgrade -y", "update"),
        ("upgrade", "update"),
        ("remove --all", "unload"),
        ("refresh --json", "update --json"),
        ("list", "patches"),
        ("load --all", "update"),
        ("unload --all", "unload"),
        ("blocking", "status"),
        ("status --format json --verbose", "status --json"),
        ("status --format=humane", "status"),
        ("status --exit-code", "status --exit-code"),
        ("config show", "config show"),
        ("update --level 3", "update --level 3"),
    ],
)
def test_their_words_are_ours(theirs: str, ours: str) -> None:
    assert aliases.translated(theirs.split())[0] == ours.split()


@pytest.mark.parametrize("name", sorted(aliases.TAKEN))
def test_every_name_leads_to_a_command(name: str) -> None:
    words, remark = aliases.translated([name])
    assert command_line().parse_args(words).command == words[0]
    assert remark


@pytest.mark.parametrize(
    "words",
    [*([name] for name in sorted(aliases.ELSEWHERE)), ["config", "a=b"], ["remove", "dx1f1g"], ["load", "x.ko"]],
)
def test_what_is_not_there_is_answered(words: list[str], machine: Machine) -> None:
    with pytest.raises(UsageError) as caught:
        aliases.translated(words)
    assert caught.value.hint
    assert machine.run(*words) == 2
    assert "hint:" in machine.err


def test_none_of_their_names_hides_one_of_ours() -> None:
    parser = command_line()
    for name in (*aliases.TAKEN, *aliases.ELSEWHERE):
        with pytest.raises(SystemExit):
            parser.parse_args([name])


def test_the_remark_goes_to_standard_error(machine: Machine) -> None:
    assert "no livepatch" not in machine.must("list")
    assert "kmend list is kmend patches" in machine.err
    assert machine.run("status", "--format", "yaml") == 2
