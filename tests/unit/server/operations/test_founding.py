"""Making a server: once, over what was left half-made, and with no secret lying about."""

from __future__ import annotations

import datetime
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from kmend.core.errors import KmendError
from kmend.factory.main import cli as factory
from kmend.server.access import audit, tokens
from kmend.server.config import ServerConfig, read_config
from kmend.server.main import cli
from kmend.server.operations import authority, founding
from kmend.server.operations.errors import FoundedError
from kmend.server.operations.founding import Founded, Plan
from kmend.server.repository import refreshing
from kmend.server.repository.errors import AdoptionError
from kmend.server.store import open_store, tables
from kmend.trust import current, online
from kmend.trust.signingerrors import KeyFileError, NoRepositoryError

NOW = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


def plan(folder: Path, *, one_box: bool = False) -> Plan:
    return Plan(
        folder / "etc/server.toml", folder / "data", ("kmend.example", "10.0.0.1"), ("127.0.0.1:8443",), "", one_box
    )


def found(folder: Path, *, one_box: bool = False) -> tuple[Founded, list[str]]:
    told: list[str] = []
    return founding.found(plan(folder, one_box=one_box), now=NOW, say=told.append), told


def config_of(folder: Path) -> ServerConfig:
    return read_config(folder / "etc/server.toml")


def run(*words: str | Path, program: Any = cli) -> str:
    result = CliRunner().invoke(program, [str(word) for word in words], catch_exceptions=False, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_a_new_server_has_what_it_needs_and_its_secrets_are_its_own(tmp_path: Path) -> None:
    made, _ = found(tmp_path)
    config = config_of(tmp_path)
    assert made.url == config.server.public_url == "https://kmend.example:8443"
    assert made.root_sha256 == ""
    assert made.request is not None
    for path in [*config.data.rglob("*.key"), *config.online.iterdir(), config.data / "kmend.sqlite"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(config.data.stat().st_mode) & 0o007 == 0
    store = open_store(config.database_url)
    with store.read() as connection:
        token = tokens.recognise(connection, made.token, int(NOW.timestamp()))
        assert [record.action for record in audit.records(connection)] == ["server.init", "token.create"]
        assert connection.execute(select(tables.rings.c.name)).scalars().all() == ["default"]
    store.close()
    assert token is not None
    assert [role.value for role in token.roles] == ["administrator"]
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert made.token.encode() not in everything


def test_a_complete_server_is_never_touched(tmp_path: Path) -> None:
    found(tmp_path)
    before = {
        path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix in (".pem", ".toml")
    }
    with pytest.raises(FoundedError, match="nothing was changed"):
        found(tmp_path)
    assert {path: path.read_bytes() for path in before} == before
    other = Plan(tmp_path / "etc/server.toml", tmp_path / "other", ("a",), ("127.0.0.1:1",))
    with pytest.raises(FoundedError, match="is the configuration of the server in"):
        founding.found(other, now=NOW, say=lambda _: None)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("place", ["make_authority", "issue", "migrate", "request", "initialise", "_begin"])
def test_what_was_begun_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Killed before each step; the second run makes a whole server with the keys that were there."""

    class KilledError(Exception):
        pass

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    home: Any = {"make_authority": authority, "issue": authority, "request": online}
    with monkeypatch.context() as patch:
        patch.setattr(home.get(place, founding), place, killed)
        with pytest.raises(KilledError):
            found(tmp_path)
    keys = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.pem")}
    made, _ = found(tmp_path)
    assert made.token.startswith("kmend_token_")
    assert {path: path.read_bytes() for path in keys} == keys


def test_another_token_for_who_has_lost_every_other(tmp_path: Path) -> None:
    found(tmp_path)
    secret = run("rescue", "--config", tmp_path / "etc/server.toml").strip()
    store = open_store(config_of(tmp_path).database_url)
    with store.read() as connection:
        assert tokens.recognise(connection, secret, int(NOW.timestamp())) is not None
        assert [record.action for record in audit.records(connection)][-1] == "token.create"
    store.close()


def test_on_one_box_the_root_is_made_here_and_that_is_said(tmp_path: Path) -> None:
    made, told = found(tmp_path, one_box=True)
    config = config_of(tmp_path)
    assert made.keys == config.data / "keys"
    assert any("Whoever has them can make every host run any code" in line for line in told)
    root = current.read_root(refreshing.read_root(config)).signed
    assert root.version == 2
    assert online.names(root, online.OnlineKeys(config.online))
    # Nothing of the keys that make levels is where the server looks.
    assert not {path.name for path in config.online.iterdir()} & {"root-1.pem", "targets-1.pem"}


def test_keys_elsewhere_a_ceremony_of_two_files(tmp_path: Path) -> None:
    made, _ = found(tmp_path)
    config, options = config_of(tmp_path), ("--config", tmp_path / "etc/server.toml")
    with pytest.raises(AdoptionError, match="there is no trust root"):
        run("repository", "refresh", *options)
    keys = tmp_path / "elsewhere"
    run("keys", "init", keys, "--bin-bits", "1", program=factory)
    # A root that does not name this server's keys is taken, and said to be of little use.
    assert "does not name this server's online keys" in run("repository", "adopt", keys / "root.json", *options)
    assert made.request is not None
    run("keys", "admit", made.request, "--keys", keys, program=factory)
    told = json.loads(run("repository", "adopt", keys / "roots/2.root.json", *options, "--json"))
    assert (told["version"], told["names_our_keys"]) == (2, True)
    with pytest.raises(NoRepositoryError):
        refreshing.refresh(config, now=NOW)
    package = tmp_path / "kmend_9_all.deb"
    package.write_bytes(b"x")
    publish = ("publish", "--keys", keys, "--repository", config.data / "repository", "--agent-package", package)
    run(*publish, program=factory)
    assert refreshing.refresh(config, now=NOW) == 2
    assert not refreshing.is_due(config, now=NOW)
    assert refreshing.is_due(config, now=NOW + datetime.timedelta(hours=13))
    # The next root comes into the repository, too, and is signed under at once.
    run("keys", "admit", made.request, "--keys", keys, "--repository", config.data / "repository", program=factory)
    run("repository", "adopt", keys / "roots/3.root.json", *options)
    assert json.loads(run("repository", "show", *options, "--json"))["root"]["version"] == 3


def test_a_root_that_does_not_follow_is_not_adopted(tmp_path: Path) -> None:
    found(tmp_path, one_box=True)
    config, options = config_of(tmp_path), ("--config", tmp_path / "etc/server.toml")
    before = config.root.read_bytes()
    stranger = tmp_path / "stranger"
    run("keys", "init", stranger, "--bin-bits", "1", program=factory)
    request = config.data / founding.REQUEST_NAME
    for _ in range(2):
        run("keys", "admit", request, "--keys", stranger, program=factory)
    (tmp_path / "text").write_text("{}")
    for path in (
        stranger / "root.json",
        stranger / "roots/2.root.json",
        stranger / "roots/3.root.json",
        tmp_path / "text",
    ):
        with pytest.raises(KmendError):
            run("repository", "adopt", path, *options)
        assert config.root.read_bytes() == before


def test_keys_that_others_can_read_are_not_used(tmp_path: Path) -> None:
    found(tmp_path, one_box=True)
    config = config_of(tmp_path)
    (config.online / "snapshot.pem").chmod(0o644)
    with pytest.raises(KeyFileError, match="can be read by others"):
        online.OnlineKeys(config.online).public()


def test_check_says_what_is_not_in_order(tmp_path: Path) -> None:
    found(tmp_path)
    options = ("check", "--config", tmp_path / "etc/server.toml", "--json")
    tree = json.loads(CliRunner().invoke(cli, [str(word) for word in options]).stdout)
    bad = {finding["what"] for finding in tree["findings"] if not finding["good"]}
    assert bad == {"trust root"}
    (tmp_path / "data/tls/server.key").write_bytes((tmp_path / "data/tls/authority.key").read_bytes())
    (tmp_path / "data/tls/server.key").chmod(0o600)
    tree = json.loads(CliRunner().invoke(cli, [str(word) for word in options]).stdout)
    assert "certificate" in {finding["what"] for finding in tree["findings"] if not finding["good"]}


def test_the_keys_that_sign_levels_are_not_given_to_the_servers_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(tmp_path, one_box=True)
    data = config_of(tmp_path).data
    given: list[Path] = []
    monkeypatch.setattr(founding.os, "chown", lambda path, *_, **__: given.append(path))  # type: ignore[attr-defined]
    founding.give_to("root", data)
    assert {data, data / "kmend.sqlite", data / "online/snapshot.pem", data / "repository/metadata"} <= set(given)
    assert not [path for path in given if data / "keys" in (path, *path.parents)]
