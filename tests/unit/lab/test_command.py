"""`kmend-factory lab`: what is wrong with a command line is said before anything is booted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kmend.factory.commands.lab import STATUS_LAB_FAILED, command


def invoke(*words: str) -> Result:
    return CliRunner().invoke(command, list(words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--", "true"], "no kernel is given"),
        (["run", "--deb", "/x.deb", "--kernel", "debian:6.1.0-50-cloud-amd64", "--", "true"], "or two"),
        (["run", "--kernel", "nonsense", "--", "true"], "is not a kernel ref"),
        (["run", "--deb", "/x.deb", "--copy", "file", "--", "true"], "what to copy where"),
        (["run", "--deb", "/x.deb", "--copy", "file:relative", "--", "true"], "what to copy where"),
        (["run", "--deb", "/nonexistent.deb", "--", "true"], "cannot read the kernel package"),
        (["shell"], "no kernel is given"),
    ],
)
def test_mistakes(cache: Path, words: list[str], message: str) -> None:
    result = invoke(*words)
    assert result.exit_code == STATUS_LAB_FAILED
    assert message in result.output


def test_no_command() -> None:
    assert invoke("run", "--deb", "/x.deb").exit_code == 2


def test_an_error_as_json(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["lab", "run", "--json", "--deb", "/nonexistent.deb", "--", "true"]
    monkeypatch.setattr("sys.argv", ["kmend-factory", *words])
    result = CliRunner().invoke(command, words[1:])
    assert json.loads(result.stdout)["error"]["kind"] == "lab-kernel-package"
