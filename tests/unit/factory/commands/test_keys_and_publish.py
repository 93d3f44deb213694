"""`kmend-factory keys` and `publish` as a person calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.unit.sample_livepatch import livepatch, write_build

from kmend.factory.commands.keys import PASSPHRASE_VARIABLE
from kmend.factory.main import cli
from kmend.trust.signing.errors import KeyFileError, PublishRefusedError


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
