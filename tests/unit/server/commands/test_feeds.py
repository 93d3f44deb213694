"""`kmend-server feeds` and `inventory` as an operator types them, beside a server that runs, with files as they should not be."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.intel.test_applicability import CHANGELOG, COMMIT
from tests.unit.intel.test_feeds import record
from tests.unit.server.operations.running import Running
from tests.unit.server.operations.test_serving import command, program

from kmend.server.store import open_store, tables

CVE = "CVE-2026-3001"
PLACE = "vulns/cve/published/2026"
DYAD = f"6.0:{COMMIT}:6.1.9:{COMMIT}\n".encode()
INVENTORY = "name,machine,address,owner,scope\nweb-1,,192.0.2.1,team,production\ndb-1,,192.0.2.2,team,production\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = Running(tmp_path_factory.mktemp("running"))
    yield made
    made.close()


def archive(path: Path, **members: bytes) -> Path:
    with tarfile.open(path, "w:gz") as made:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return path


def tree(path: Path, cve: str = CVE) -> Path:
    return archive(path, **{f"{PLACE}/{cve}.json": record(cve), f"{PLACE}/{cve}.dyad": DYAD})


def feeds(running: Running, *words: str) -> str:
    done = command(running, "feeds", *words, "--config", str(running.config))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path / "fresh")
    yield made
    made.close()


def test_everything_by_hand_then_the_list(fresh: Running, tmp_path: Path) -> None:
    running = fresh
    assert "nothing was imported" in command(running, "feeds", "list").stdout
    assert "records: 1, added: 1" in feeds(running, "import", "cna", str(tree(tmp_path / "v.tar.gz")))
    twelve, thirteen = tmp_path / "12.gz", tmp_path / "13"
    twelve.write_bytes(gzip.compress(CHANGELOG.encode()))
    thirteen.write_text(CHANGELOG.replace("6.1.", "6.12."))
    assert feeds(running, "import", "debian", str(twelve)).startswith("feed: debian, records: 5")
    made = json.loads(feeds(running, "import", "debian", str(thirteen), "--json"))
    assert (made["feed"], made["records"]) == ("debian-6.12", 5)
    shown = command(running, "feeds", "list").stdout
    assert [line.split()[:2] for line in shown.splitlines()[1:]] == [
        ["cna", "sha256:" + shown.partition("sha256:")[2][:13]], ["debian", "6.1.9-1"], ["debian-6.12", "6.12.9-1"],
    ]  # fmt: skip
    assert feeds(running, "forget", "debian-6.12") == "debian-6.12 is forgotten\n"
    names = [row["name"] for row in json.loads(command(running, "feeds", "list", "--json").stdout)]
    assert names == ["cna", "debian"]


def hostile(folder: Path, kind: str) -> Path:
    path = folder / kind
    if kind == "bomb":
        with gzip.open(path, "wb", compresslevel=9) as made:
            for _ in range(300):
                made.write(bytes(1024 * 1024))
    elif kind == "deep":
        path.write_text("[" * 10_000 + "]" * 10_000)
    elif kind == "noise":
        path.write_bytes(bytes(range(256)) * 300)
    elif kind == "cut":
        path.write_bytes(tree(folder / "whole").read_bytes()[:120])
    elif kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    return path


@pytest.mark.parametrize("kind", ["bomb", "deep", "noise", "cut", "folder", "empty", "missing"])
@pytest.mark.parametrize("feed", ["cna", "debian", "kev", "epss", "ssvc", "bod", "facts"])
def test_a_file_that_is_none_is_refused_and_changes_nothing(
    running: Running, tmp_path: Path, feed: str, kind: str
) -> None:
    before = rows(running)
    done = command(running, "feeds", "import", feed, str(hostile(tmp_path, kind)), "--config", str(running.config))
    assert done.returncode in (1, 2)
    assert done.stderr
    assert rows(running) == before


def rows(running: Running) -> list[object]:
    store = open_store(f"sqlite:///{running.folder / 'data/kmend.sqlite'}", pool=1)
    try:
        with store.read() as connection:
            names = (tables.feeds, tables.cves, tables.distro_fixes, tables.distro_uploads, tables.cve_signals)
            return [sorted(map(tuple, connection.execute(table.select()).all()), key=repr) for table in names]
    finally:
        store.close()


def test_links_and_paths_in_an_archive_lead_nowhere(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "links.tar.gz"
    with tarfile.open(path, "w:gz") as made:
        link = tarfile.TarInfo(f"{PLACE}/CVE-2026-3100.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        made.addfile(link)
        for name in (f"{PLACE}/CVE-2026-3100.dyad", f"../../{PLACE}/CVE-2026-3101.dyad"):
            info = tarfile.TarInfo(name)
            info.size = len(DYAD)
            made.addfile(info, io.BytesIO(DYAD))
    made_of_it = json.loads(feeds(running, "import", "cna", str(path), "--json"))
    assert (made_of_it["records"], made_of_it["set_aside"]) == (0, 2)
    aside = next(row for row in json.loads(command(running, "feeds", "list", "--json").stdout) if row["name"] == "cna")
    assert dict(aside["aside"]) == dict.fromkeys(("CVE-2026-3100", "CVE-2026-3101"), "there is no .json")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("fetch",), "no feed is configured"),
        (("fetch", "kev"), "kev is not configured"),
        (("import", "kev"), "where is the feed kev"),
        (("import", "facts"), "which kernel"),
        (("forget", "debian-5.10"), "there is no changelog 'debian-5.10'"),
        (("import", "nvd", "x"), "'nvd' is not one of"),
    ],
)
def test_what_is_asked_for_and_is_not_there(running: Running, words: tuple[str, ...], told: str) -> None:
    done = command(running, "feeds", *words, "--config", str(running.config))
    assert done.returncode == 2
    assert told in done.stderr


def test_fetching_says_which_failed_with_its_status(running: Running, tmp_path: Path) -> None:
    kev = tmp_path / "kev.json"
    config = tmp_path / "server.toml"
    text = running.config.read_text()
    config.write_text(f'{text}\n[feeds]\ncna = "{tree(tmp_path / "v.tar.gz", "CVE-2026-3200")}"\nkev = "{kev}"\n')
    words = ("feeds", "fetch", "--config", str(config))
    done = program(running, *words, token="")
    assert done.returncode == 1
    assert "cna, records: 1, added: 1" in done.stdout
    assert f"kev: NOT FETCHED: there is no {kev}" in done.stdout
    kev.write_text(json.dumps({"catalogVersion": "1", "dateReleased": "2026-11-01T00:00:00Z", "vulnerabilities": []}))
    done = program(running, *words, "kev", "--json", token="")
    assert (done.returncode, [item["feed"] for item in json.loads(done.stdout)]) == (0, ["kev"])


def test_the_inventory(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "machines.csv"
    path.write_text(INVENTORY)
    config = ("--config", str(running.config))
    assert (
        command(running, "inventory", "import", str(path), *config).stdout
        == "2 machines, 0 of them are enrolled hosts\n"
    )
    shown = command(running, "inventory", "coverage").stdout
    assert shown.startswith("0 of 2 machines are enrolled hosts\nwithout an agent:\n")
    assert "192.0.2.2" in shown
    for kind in ("bomb", "deep", "noise", "folder", "empty", "missing"):
        done = command(running, "inventory", "import", str(hostile(tmp_path, kind)), *config)
        assert done.returncode in (1, 2)
        assert done.stderr
    assert json.loads(command(running, "inventory", "coverage", "--json").stdout)["machines"] == 2
