"""Which server a command speaks to: what is given wins over a person's file, that over the server's own configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from kmend.core.errors import UsageError
from kmend.server.commands.given import Given
from kmend.server.commands.output import print_table
from kmend.server.commands.parameters import DURATION
from kmend.server.commands.times import moment, span
from kmend.server.main import _CLIENTS, _HERE, cli


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KMEND_SERVER_CONFIG", str(tmp_path / "server.toml"))
    monkeypatch.delenv("KMEND_SERVER_TOKEN", raising=False)
    return tmp_path


def personal(home: Path, text: str) -> None:
    (home / ".config/kmend").mkdir(parents=True)
    (home / ".config/kmend/server.toml").write_text(text)


def configured(home: Path) -> None:
    (home / "server.toml").write_text(f'[server]\ndata = "{home}"\npublic_url = "https://here:8443"\n')


def test_what_is_given_wins(home: Path) -> None:
    personal(home, 'url = "https://mine"\ntoken_file = "~/token"\npin = "aa"\n')
    configured(home)
    (home / "token").write_text("secret\n")
    found = Given(url="https://given").completed()
    assert (found.url, found.pin, found.token()) == ("https://given", "aa", "secret")
    mine = Given().completed()
    assert (mine.url, mine.pin, mine.ca) == ("https://mine", "aa", None)
    assert Given(ca=Path("/ca.pem")).completed().pin == ""


def test_on_the_servers_machine_its_configuration_gives_url_and_trust(home: Path) -> None:
    configured(home)
    found = Given().completed()
    assert (found.url, found.ca) == ("https://here:8443", home / "tls/authority.pem")
    # Another server is not believed by this one's authority.
    assert Given(url="https://elsewhere").completed().ca is None
    assert Given(pin="bb").completed().ca is None


def test_nothing_given_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no server is given"):
        Given().completed()
    with pytest.raises(UsageError, match="no token is given"):
        Given(url="https://a").token()
    monkeypatch.setenv("KMEND_SERVER_TOKEN", " t \n")
    assert Given(url="https://a").token() == "t"


@pytest.mark.parametrize("text", ["url = 5", "uri = 'x'", "[url]", "\x00", "url = "])
def test_a_personal_file_that_cannot_be_used_is_told(home: Path, text: str) -> None:
    personal(home, text)
    with pytest.raises(UsageError):
        Given().completed()


@pytest.mark.parametrize("command", sorted({**_HERE, **_CLIENTS}))
def test_every_command_is_there_and_explains_itself(command: str) -> None:
    found = CliRunner().invoke(cli, [command, "--help"])
    assert found.exit_code == 0
    assert "Usage: " in found.output


def test_help_names_every_command() -> None:
    found = CliRunner().invoke(cli, ["--help"]).output
    assert all(f"  {command} " in found for command in {**_HERE, **_CLIENTS})


def test_what_hosts_say_of_themselves_is_never_a_terminals_command(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"name": "\x1b[2J[red]x[/red]\n", "level": None}], {"name": "NAME", "level": "LEVEL"})
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "[red]x[/red]" in shown


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("36h", 129_600), ("7d", 604_800), ("2w", 1_209_600)]
)
def test_times_are_read(text: str, seconds: int) -> None:
    assert DURATION.convert(text, None, None) == seconds


def test_times_are_shown() -> None:
    assert [span(value) for value in (5, 119, 120, 7199, 7200, 172_799, 172_800)] == [
        "5 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d",
    ]  # fmt: skip
    assert (moment(0), moment(None), moment(1_790_000_000)) == ("", "", "2026-09-21 14:13")
