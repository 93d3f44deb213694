"""`kmend-server whatif`, from facts in a file, a tree of the CNA's, and a changelog."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.unit.intel.test_applicability import CHANGELOG, COMMIT, FACTS

from kmend.core.document import encode
from kmend.server.commands import whatif
from kmend.server.feeds import Changelog, FeedError
from kmend.server.main import cli


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(whatif, "changelog", lambda *, now: Changelog(CHANGELOG, "6.1.9-1", now - 7200))
    path = tmp_path / "facts.json"
    path.write_bytes(encode(FACTS))
    return path


@pytest.fixture
def vulns(tmp_path: Path) -> Path:
    for cve, name in (
        ("CVE-2026-3001", "net/core/dev.c"),
        ("CVE-2026-3002", "drivers/gpu/host1x/dev.c"),
        ("CVE-2026-3003", ""),
    ):
        folder = tmp_path / "vulns/cve/published/2026"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{cve}.dyad").write_text(f"6.0:{COMMIT}:6.1.9:{COMMIT}\n" if name else "junk")
        document = {"containers": {"cna": {"affected": [{"programFiles": [name]}]}}, "cveMetadata": {"cveID": cve}}
        (folder / f"{cve}.json").write_text(json.dumps(document))
    return tmp_path / "vulns"


def test_the_counts(facts: Path, vulns: Path) -> None:
    words = [
        "whatif",
        "--kernel",
        "6.1.0-9-amd64",
        "--facts",
        str(facts),
        "--cna",
        str(vulns),
        "--list",
        "open",
        "--json",
    ]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    found = json.loads(done.stdout)
    assert {name: found[name] for name in ("named", "compiled", "open", "closable", "not_built", "unknown")} == {
        "named": 3, "compiled": 1, "open": 2, "closable": 1, "not_built": 1, "unknown": 1,
    }  # fmt: skip
    assert found["cves"] == ["CVE-2026-3001", "CVE-2026-3003"]
    assert found["feeds"]["debian-changelog"] == {"version": "6.1.9-1", "age_seconds": 7200}
    assert found["feeds"]["cna"]["set_aside"] == 1
    assert found["kernel"] == "debian:6.1.0-9-amd64@6.1.8-1"


def test_for_people(facts: Path, vulns: Path) -> None:
    words = ["whatif", "--kernel", "6.1.0-9-amd64", "--facts", str(facts), "--cna", str(vulns)]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert "debian:6.1.0-9-amd64@6.1.8-1, held against 6.1.9-1" in done.stdout
    assert "1 set aside" in done.stderr


def test_without_the_cnas_tree_all_stands_open(facts: Path) -> None:
    words = ["whatif", "--kernel", "6.1.0-9-amd64", "--facts", str(facts), "--json"]
    found = json.loads(CliRunner().invoke(cli, words, catch_exceptions=False).stdout)
    assert (found["named"], found["open"], found["unknown"], found["feeds"]["cna"]) == (3, 3, 3, None)


def test_a_changelog_that_cannot_be_had(facts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*, now: int) -> Changelog:
        raise FeedError("Debian's changelog cannot be had: no archive")

    monkeypatch.setattr(whatif, "changelog", nothing)
    with pytest.raises(FeedError):
        CliRunner().invoke(
            cli, ["whatif", "--kernel", "x:1-y", "--facts", str(facts)], standalone_mode=False, catch_exceptions=False
        )


def test_facts_that_are_none(tmp_path: Path, facts: Path) -> None:
    facts.write_bytes(b"{}")
    done = CliRunner().invoke(
        cli, ["whatif", "--kernel", "6.1.0-9-amd64", "--facts", str(facts)], standalone_mode=False
    )
    assert getattr(done.exception, "kind", "") == "malformed"
