"""`kmend-server documents`, as a client of a server that runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.server.api.test_documents import LEVEL, MANIFEST, inform
from tests.unit.server.hosts.machines import BUILD_ID
from tests.unit.server.operations.running import Running
from tests.unit.server.operations.test_serving import command

from kmend.server.store import open_store

RELEASE = MANIFEST.kernel.release


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that knows a level, and a host."""
    folder = tmp_path_factory.mktemp("running")
    made = Running(folder)
    store = open_store(f"sqlite:///{folder / 'data/kmend.sqlite'}", pool=1)
    host = inform(store, folder / "vulns", ring="default")
    assert host.id
    store.close()
    yield made
    made.close()


def test_documents_are_printed_or_written(running: Running, tmp_path: Path) -> None:
    printed = command(running, "documents", "csaf", RELEASE, "2")
    assert printed.returncode == 0, printed.stderr
    document = json.loads(printed.stdout)
    assert document["document"]["publisher"]["name"] == "kmend-server localhost"
    assert document["document"]["references"][0]["url"] == f"{running.made.url}/api/v1{LEVEL}/csaf"
    target = tmp_path / "level.json"
    written = command(running, "documents", "csaf", BUILD_ID, "2", "-o", str(target))
    assert (written.returncode, written.stdout) == (0, "")
    assert f"{target}: " in written.stderr
    assert json.loads(target.read_text()) == document
    assert json.loads(command(running, "documents", "osv", RELEASE, "2").stdout)["schema_version"] == "1.7.0"
    assert "<oval_definitions " in command(running, "documents", "oval", RELEASE, "2").stdout
    statements = json.loads(command(running, "documents", "openvex", "web-1").stdout)
    assert (statements["author"], statements["version"]) == ("kmend-server localhost", 1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("csaf", "6.1.0-99-amd64", "2"), "no build of 6.1.0-99-amd64 has a level"),
        (("oval", RELEASE, "7"), "there is no level 7"),
        (("osv", RELEASE, "0"), "0 is not in the range"),
        (("openvex", "nobody"), "no host has the name nobody"),
        (("csaf", RELEASE, "2", "-o", "/nowhere/level.json"), "/nowhere/level.json"),
    ],
)
def test_what_is_not_there_is_told(running: Running, words: tuple[str, ...], told: str) -> None:
    done = command(running, "documents", *words)
    assert done.returncode != 0
    assert done.stdout == ""
    assert told in done.stderr


def test_a_host_is_explained_whole_or_by_counts(running: Running) -> None:
    shown = command(running, "explain", "web-1")
    assert shown.returncode == 0, shown.stderr
    found = json.loads(command(running, "explain", "web-1", "--json").stdout)
    assert len(found["items"]) == sum(found["counts"].values()) > 1
    assert found["next"] == ""
    for word, count in found["counts"].items():
        assert f"{count} {word}" in shown.stdout
    cve = found["items"][0]["cve"]
    assert json.loads(command(running, "explain", "web-1", cve, "--json").stdout)["changes"]
    refused = command(running, "explain", "web-1", "CVE-1999-0001")
    assert refused.returncode != 0
    assert "names CVE-1999-0001" in refused.stderr
