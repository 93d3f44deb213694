"""`kmend-factory keys` and `publish` as a person calls them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.unit.sample_livepatch import BUILD_ID, livepatch, write_build

from kmend.core.errors import MalformedError
from kmend.factory.commands.keys import PASSPHRASE_VARIABLE, now
from kmend.factory.main import cli
from kmend.trust import online
from kmend.trust.client import open_repository
from kmend.trust.signingerrors import KeyFileError, PublishRefusedError


def run(*words: str | Path, environment: dict[str, str] | None = None) -> str:
    """Run a command; its standard output."""
    result = CliRunner().invoke(
        cli, [str(word) for word in words], env=environment, catch_exceptions=False, standalone_mode=False
    )
    if result.exception is not None:
        raise result.exception
    return result.stdout


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands") / "keys"
    out = run("keys", "init", folder, "--bin-bits", "1")
    assert "trust root, for the hosts" in out
    return folder


def test_publish_refresh_and_renew(keys: Path, tmp_path: Path) -> None:
    build = write_build(tmp_path / "one", *livepatch(1, ["CVE-2026-2001"]))
    repository = tmp_path / "repository"
    out = run("publish", "--keys", keys, "--repository", repository, build)
    assert "level 1 is published as kmend_1_" in out
    assert "CVE-2026-2001" in out
    refreshed = json.loads(run("publish", "--keys", keys, "--repository", repository, "--refresh", "--json"))
    assert refreshed["timestamp_version"] == 2
    assert json.loads(run("keys", "renew", "--keys", keys, "--repository", repository, "--json")) == {"root_version": 2}
    key, certificate = keys / "module/module.pem", keys / "module/module.x509"
    out = run("keys", "sign-modules", "--keys", keys, "--repository", repository, "--key", key, "--certificate",
              certificate, "--signer", "acme")  # fmt: skip
    assert out == "1 modules signed as acme\n"


def test_refusal_has_its_own_status(keys: Path, tmp_path: Path) -> None:
    build = write_build(tmp_path / "one", *livepatch(2, ["CVE-2026-2001"], base=1))
    with pytest.raises(PublishRefusedError) as caught:
        run("publish", "--keys", keys, "--repository", tmp_path / "repository", build)
    assert caught.value.exit_status == 2


def test_encrypted_keys_come_from_the_environment(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="no passphrase"):
        run("keys", "init", tmp_path / "keys", "--encrypt", environment={PASSPHRASE_VARIABLE: ""})
    secret = {PASSPHRASE_VARIABLE: "correct horse battery staple"}
    run("keys", "init", tmp_path / "keys", "--encrypt", "--bin-bits", "1", environment=secret)
    build = write_build(tmp_path / "one", *livepatch(1, ["CVE-2026-2001"]))
    words = ("publish", "--keys", tmp_path / "keys", "--repository", tmp_path / "repository", build)
    with pytest.raises(KeyFileError, match="is encrypted"):
        run(*words, environment={PASSPHRASE_VARIABLE: ""})
    assert "level 1" in run(*words, environment=secret)


def test_a_servers_online_keys_are_admitted_and_can_then_refresh_alone(keys: Path, tmp_path: Path) -> None:
    mine = tmp_path / "keys"
    shutil.copytree(keys, mine)
    online.make(tmp_path / "server")
    server = online.OnlineKeys(tmp_path / "server")
    (tmp_path / "request.json").write_bytes(online.request(server, "patches.example"))
    admitted = json.loads(run("keys", "admit", tmp_path / "request.json", "--keys", mine, "--json"))
    assert (admitted["root_version"], admitted["machine"]) == (2, "patches.example")
    build = write_build(tmp_path / "one", *livepatch(1, ["CVE-2026-2001"]))
    repository = tmp_path / "repository"
    run("publish", "--keys", mine, "--repository", repository, build)
    trusted = (mine / "root.json").read_bytes()
    tree = online.refresh(repository, trusted, server, now=now())
    assert (tree.root.signed.version, tree.timestamp.signed.version) == (2, 2)
    # The publisher's own still count, unless they are to be the only ones.
    assert "repository version 3" in run("publish", "--keys", mine, "--repository", repository, "--refresh")
    run("keys", "admit", tmp_path / "request.json", "--keys", mine, "--repository", repository, "--only")
    with pytest.raises(KeyFileError, match="0 usable snapshot keys"):
        run("publish", "--keys", mine, "--repository", repository, "--refresh")
    assert online.refresh(repository, trusted, server, now=now()).root.signed.version == 3


def test_what_is_no_request_for_online_keys_is_refused(keys: Path, tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    for text in ("{}", "[]", '{"machine":"m","snapshot":"00","timestamp":"00"}'):
        path.write_text(text)
        with pytest.raises(MalformedError):
            run("keys", "admit", path, "--keys", keys)


def test_agent_packages_are_targets_beside_the_levels(keys: Path, tmp_path: Path) -> None:
    repository, package = tmp_path / "repository", tmp_path / "kmend_9_all.deb"
    package.write_bytes(b"a package")
    out = run("publish", "--keys", keys, "--repository", repository, "--agent-package", package)
    assert "kmend_9_all.deb is published" in out
    build = write_build(tmp_path / "one", *livepatch(1, ["CVE-2026-2001"]))
    run("publish", "--keys", keys, "--repository", repository, build)
    assert run("publish", "--keys", keys, "--repository", repository, "--refresh")
    root = (keys / "root.json").read_bytes()
    with open_repository(repository.as_uri(), bootstrap=root, state=tmp_path / "state") as opened:
        assert opened.target("agent/kmend_9_all.deb", limit=100) == b"a package"
        assert opened.levels(BUILD_ID) is not None
    with pytest.raises(PublishRefusedError, match="is not a plain file name"):
        run("publish", "--keys", keys, "--repository", repository, "--agent-package", tmp_path / "a b.deb")
