"""Feeds that are fetched by themselves: what is new comes in, once; what goes wrong is written down, and nothing is lost."""

from __future__ import annotations

import json
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, update
from tests.unit.intel.test_applicability import CHANGELOG, COMMIT
from tests.unit.intel.test_feeds import record
from tests.unit.intel.test_ssvc import GOOD, assessed
from tests.unit.server.conftest import NOW
from tests.unit.server.hosts.machines import enrolled, judge
from tests.unit.server.knowledge.test_knowledge import KERNEL, ONE, TWO
from tests.unit.trust.loopback import folder, reply, serving

from kmend.core.errors import KmendError, MalformedError
from kmend.intel.feeds import read_changelog
from kmend.server import knowledge
from kmend.server.feeds import FeedError, Repository, place_of
from kmend.server.knowledge import Ways, bring, bring_file, sources, telling
from kmend.server.notices import Event, channels
from kmend.server.notices.guard import Rules
from kmend.server.store import Store, tables

DYAD = f"6.0:{COMMIT}:6.1.9:{COMMIT}\n".encode()
HOUR = 3600


def ways(place: Path) -> Ways:
    return Ways(place / "own", 6 * HOUR, 60, draw=lambda: 0.5)


def git(place: Path, *words: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=master"]
    done = subprocess.run(["git", *who, "-C", str(place), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write(place: Path, cve: str, *, state: str = "published", name: str = "net/core/dev.c", dyad: bytes = DYAD) -> None:
    target = place / f"cve/{state}/2026"
    target.mkdir(parents=True, exist_ok=True)
    (target / f"{cve}.json").write_bytes(record(cve, affected=[{"programFiles": [name]}]))
    (target / f"{cve}.dyad").write_bytes(dyad)


def commit(place: Path) -> str:
    if not (place / ".git").exists():
        git(place, "init", "-q")
    git(place, "add", "-A")
    git(place, "commit", "-q", "--allow-empty", "-m", "records")
    return git(place, "rev-parse", "HEAD")


@pytest.fixture
def vulns(tmp_path: Path) -> Path:
    """A repository of the CNA's form, with two records and one that is broken."""
    place = tmp_path / "vulns"
    write(place, ONE)
    write(place, TWO, name="drivers/gpu/host1x/dev.c")
    write(place, "CVE-2026-3099", dyad=b"junk\n")
    commit(place)
    return place


def feed(store: Store, name: str) -> dict[str, object]:
    with store.read() as connection:
        row = connection.execute(select(tables.feeds).where(tables.feeds.c.name == name)).one()
        source = connection.execute(select(tables.feed_sources).where(tables.feed_sources.c.name == name)).first()
    return {**row._asdict(), **(source._asdict() if source is not None else {})}


def told(store: Store) -> list[tuple[str, str]]:
    """Every notice: its event, and what it says."""
    with store.read() as connection:
        rows = connection.execute(select(tables.outbox).order_by(tables.outbox.c.id)).all()
    return [(row.event, item["body"]) for row in rows for item in json.loads(row.body)["items"]]


@pytest.fixture
def listening(sqlite: Store) -> Store:
    """Somebody is told of everything, and a host runs a kernel that is known."""

    def make(connection: Connection) -> None:
        kind, target = channels.Kind.EMAIL, "a@example.org"
        channels.create(connection, kind=kind, target=target, events=(), actor="t", now=NOW, rules=Rules())

    sqlite.transact(make)
    knowledge.import_changelog(sqlite, read_changelog(CHANGELOG), as_of=NOW, now=NOW)
    knowledge.import_facts(sqlite, KERNEL, now=NOW)
    (host,) = enrolled(sqlite, "web-1")
    judge(sqlite, host.check_in())
    return sqlite


def test_a_checkout_comes_whole_then_by_what_changed(sqlite: Store, vulns: Path, tmp_path: Path) -> None:
    first = bring(sqlite, ways(tmp_path), "cna", str(vulns), NOW)
    assert first is not None
    assert first.imported is not None
    assert set(first.imported.added) == {ONE, TWO}
    before = feed(sqlite, "cna")
    assert (before["version"], before["records"], before["aside_count"]) == (git(vulns, "rev-parse", "HEAD"), 2, 1)
    # Not due, then nothing new.
    assert bring(sqlite, ways(tmp_path), "cna", str(vulns), NOW + HOUR) is None
    again = bring(sqlite, ways(tmp_path), "cna", str(vulns), NOW + 7 * HOUR)
    assert again is not None
    assert again.imported is None
    # One record is new, one is rejected; the broken one was not looked at, and still is set aside.
    write(vulns, "CVE-2026-3005")
    git(vulns, "rm", "-q", f"cve/published/2026/{TWO}.json", f"cve/published/2026/{TWO}.dyad")
    write(vulns, TWO, state="rejected")
    (vulns / "cve/published/2026" / f"{ONE}.json").write_text("not committed, so not read")
    git(vulns, "add", "cve/published/2026/CVE-2026-3005.json", "cve/published/2026/CVE-2026-3005.dyad", "cve/rejected")
    git(vulns, "commit", "-q", "-m", "more")
    third = bring(sqlite, ways(tmp_path), "cna", str(vulns), NOW + 14 * HOUR)
    assert third is not None
    assert third.imported is not None
    assert (third.imported.records, third.imported.added, third.imported.rejected) == (1, ("CVE-2026-3005",), (TWO,))
    after = feed(sqlite, "cna")
    assert (after["version"], after["records"], after["aside_count"]) == (git(vulns, "rev-parse", "HEAD"), 2, 1)


def test_a_checkout_that_follows_something_is_pulled(sqlite: Store, vulns: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", str(vulns), str(checkout)], check=True)
    bring(sqlite, ways(tmp_path), "cna", str(checkout), NOW)
    write(vulns, "CVE-2026-3005")
    newest = commit(vulns)
    found = bring(sqlite, ways(tmp_path), "cna", str(checkout), NOW + 7 * HOUR)
    assert found is not None
    assert found.imported is not None
    assert found.imported.added == ("CVE-2026-3005",)
    assert feed(sqlite, "cna")["version"] == newest
    # A history that was rewritten is refused, and what was there stays.
    git(vulns, "reset", "-q", "--hard", "HEAD~1")
    write(vulns, "CVE-2026-3006")
    commit(vulns)
    with pytest.raises(FeedError) as caught:
        bring(sqlite, ways(tmp_path), "cna", str(checkout), NOW + 14 * HOUR)
    assert "rewritten" in caught.value.hint
    row = feed(sqlite, "cna")
    assert (row["version"], row["records"], row["failures"]) == (newest, 3, 1)
    assert row["error"]


def test_the_servers_own_copy_of_a_repository(sqlite: Store, vulns: Path, tmp_path: Path) -> None:
    source = f"git+file://{vulns}"
    bring(sqlite, ways(tmp_path), "cna", source, NOW)
    write(vulns, "CVE-2026-3005")
    commit(vulns)
    found = bring(sqlite, ways(tmp_path), "cna", source, NOW + 7 * HOUR)
    assert found is not None
    assert found.imported is not None
    assert found.imported.records == 1


def test_an_archive_is_fetched_only_if_it_has_changed(sqlite: Store, vulns: Path, tmp_path: Path) -> None:
    web = tmp_path / "web"
    web.mkdir()
    with tarfile.open(web / "vulns.tar.gz", "w:gz") as archive:
        archive.add(vulns / "cve", "vulns/cve")
    with serving(folder(web)) as server:
        source = f"{server.url}/vulns.tar.gz"
        first = bring(sqlite, ways(tmp_path), "cna", source, NOW)
        again = bring(sqlite, ways(tmp_path), "cna", source, NOW + 7 * HOUR)
        assert server.requests[1].headers["if-none-match"]
    assert first is not None
    assert again is not None
    assert first.imported is not None
    assert again.imported is None
    row = feed(sqlite, "cna")
    assert (row["records"], row["checked_at"]) == (2, NOW + 7 * HOUR)


def test_failures_are_written_down_and_tried_again_later_and_later(sqlite: Store, tmp_path: Path) -> None:
    with serving(lambda request: reply(503, b"")) as server:
        now = NOW
        for failures in (1, 2):
            with pytest.raises(FeedError, match="503"):
                bring(sqlite, replace(ways(tmp_path), seconds=0.2), "kev", f"{server.url}/kev.json", now)
            with sqlite.read() as connection:
                row = connection.execute(select(tables.feed_sources)).one()
            assert (row.failures, row.next_at - now) == (failures, sources.pause(failures))
            assert "503" in row.error
            assert bring(sqlite, ways(tmp_path), "kev", f"{server.url}/kev.json", row.next_at - 1) is None
            now = row.next_at
    # Another source is tried at once.
    with pytest.raises(FeedError, match="there is no"):
        bring(sqlite, ways(tmp_path), "kev", str(tmp_path / "none.json"), now - 1)


def test_what_was_cut_short_does_not_take_away_what_was_there(sqlite: Store, tmp_path: Path) -> None:
    def catalogue(*names: str) -> bytes:
        rows = [{"cveID": name, "dateAdded": "2026-10-01"} for name in names]
        return json.dumps({"catalogVersion": "1", "vulnerabilities": rows}).encode()

    path = tmp_path / "kev.json"
    path.write_bytes(catalogue(ONE, TWO, "CVE-2026-3003"))
    bring(sqlite, ways(tmp_path), "kev", str(path), NOW)
    path.write_bytes(catalogue(ONE))
    with pytest.raises(FeedError, match="kept"):
        bring(sqlite, ways(tmp_path), "kev", str(path), NOW + 7 * HOUR)
    assert feed(sqlite, "kev")["records"] == 3
    bring_file(sqlite, "kev", path, NOW + 8 * HOUR)
    assert feed(sqlite, "kev")["records"] == 1


def test_two_never_fetch_one_feed_at_once(sqlite: Store) -> None:
    def claim(now: int) -> object:
        return sqlite.transact(lambda connection: sources.claim(connection, "kev", "/k", now))

    assert claim(NOW) is not None
    assert claim(NOW + 1) is None
    assert claim(NOW + sources.CLAIM_SECONDS) is not None


def test_many_new_cves_make_one_notice(listening: Store, vulns: Path, tmp_path: Path) -> None:
    assert bring(listening, ways(tmp_path), "cna", str(vulns), NOW) is not None
    listening.transact(lambda connection: connection.execute(tables.outbox.delete()))
    for number in range(4000, 4300):
        write(vulns, f"CVE-2026-{number}")
    listening.transact(
        lambda connection: connection.execute(insert(tables.cve_signals).values(cve="CVE-2026-4007", kev_added=NOW))
    )
    write(vulns, TWO, state="rejected")
    commit(vulns)
    bring(listening, ways(tmp_path), "cna", str(vulns), NOW + 7 * HOUR)
    (digest, listed) = told(listening)
    assert digest[0] == Event.CVES_IMPORTED.value
    assert digest[1].startswith(f"300 new CVEs; 1 rejected ({TWO}). 300 of them are in kernels that 1 hosts here run. ")
    assert digest[1].endswith("Known to be exploited: CVE-2026-4007")
    assert listed[0] == Event.CVE_EXPLOITED.value
    assert "CVE-2026-4007 (1 host)" in listed[1]
    # Nothing changed: nothing is told.
    commit(vulns)
    bring(listening, ways(tmp_path), "cna", str(vulns), NOW + 14 * HOUR)
    assert len(told(listening)) == 2


def test_a_listing_of_what_stands_open_is_told_once(listening: Store, vulns: Path, tmp_path: Path) -> None:
    bring(listening, ways(tmp_path), "cna", str(vulns), NOW)
    listening.transact(lambda connection: connection.execute(tables.outbox.delete()))
    rows = [{"cveID": name, "dateAdded": "2026-10-01"} for name in (ONE, TWO, "CVE-2020-1000")]
    path = tmp_path / "kev.json"
    path.write_text(json.dumps({"catalogVersion": "1", "vulnerabilities": rows}))
    for turn in range(2):
        bring(listening, ways(tmp_path), "kev", str(path), NOW + turn * 7 * HOUR)
        ((event, body),) = told(listening)
        assert event == Event.CVE_EXPLOITED.value
        assert f"{ONE} (1 host)" in body
        assert TWO not in body, "its code is not in the kernel"


def test_an_import_that_was_stopped_is_judged_and_told_of_by_the_next(
    listening: Store, vulns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as once:
        once.setattr("kmend.server.knowledge.bringing.judge_builds", killed)
        with pytest.raises(KeyboardInterrupt):
            bring(listening, ways(tmp_path), "cna", str(vulns), NOW)
    assert told(listening) == []
    found = bring(listening, ways(tmp_path), "cna", str(vulns), NOW + sources.CLAIM_SECONDS)
    assert found is not None
    assert (found.imported, found.told) == (None, 1)
    assert found.judged
    assert told(listening)[0][1].startswith("2 new CVEs")
    assert feed(listening, "cna")["begun_at"] is None


def test_assessments_come_with_the_answers(sqlite: Store, vulns: Path, tmp_path: Path) -> None:
    bring(sqlite, ways(tmp_path), "cna", str(vulns), NOW)
    place = tmp_path / "vulnrichment"
    (place / "2026").mkdir(parents=True)
    (place / f"2026/{ONE}.json").write_bytes(assessed(ONE, *GOOD))
    (place / "2026/CVE-2019-1000.json").write_bytes(assessed("CVE-2019-1000", *GOOD))
    commit(place)
    bring(sqlite, ways(tmp_path), "ssvc", str(place), NOW)
    with sqlite.read() as connection:
        (row,) = connection.execute(select(tables.cve_signals)).all()
    signals = knowledge.signals_of(row)
    assert (row.cve, row.ssvc_exploitation, signals.automatable, signals.total) == (ONE, "none", False, False)
    # One that is broken since is set aside, and what was known stays.
    (place / f"2026/{ONE}.json").write_bytes(b"{")
    commit(place)
    bring(sqlite, ways(tmp_path), "ssvc", str(place), NOW + 7 * HOUR)
    with sqlite.read() as connection:
        (row,) = connection.execute(select(tables.cve_signals)).all()
    assert (row.ssvc_exploitation, feed(sqlite, "ssvc")["aside_count"]) == ("none", 1)


def test_a_new_model_moves_scores_and_nobody_is_told(listening: Store, vulns: Path, tmp_path: Path) -> None:
    bring(listening, ways(tmp_path), "cna", str(vulns), NOW)
    listening.transact(lambda connection: connection.execute(tables.outbox.delete()))
    path = tmp_path / "epss.csv"
    for turn, (model, score) in enumerate((("v2025.03.14", 0.01), ("v2026.09.01", 0.99))):
        path.write_text(
            f"#model_version:{model},score_date:2026-10-0{turn + 1}T00:00:00+0000\ncve,epss,percentile\n{ONE},{score},{score}\n"
        )
        bring(listening, ways(tmp_path), "epss", str(path), NOW + turn * 7 * HOUR)
        assert feed(listening, "epss")["version"] == model
    assert told(listening) == []


def test_an_old_feed_is_said_to_be_old(sqlite: Store, vulns: Path, tmp_path: Path) -> None:
    bring(sqlite, ways(tmp_path), "cna", str(vulns), NOW)
    sqlite.transact(lambda connection: connection.execute(update(tables.feeds).values(as_of=NOW)))
    with sqlite.read() as connection:
        assert knowledge.ages(connection, NOW + HOUR)[1] == ("debian",)
        assert knowledge.ages(connection, NOW + 8 * 24 * HOUR)[1] == ("cna", "debian")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("kev", "http://example.org/kev.json"), ("kev", "ftp://example.org/x"), ("kev", "relative"), ("kev", "apt"),
        ("cna", "ext::sh -c id"), ("cna", "ssh://git@example.org/vulns.git"), ("kev", "https://example.org/a.git"),
        ("kev", "https://"), ("kev", ""), ("cna", "/a\n"), ("cna", "git+http://example.org/vulns"),
    ],
)  # fmt: skip
def test_where_no_feed_comes_from(name: str, text: str) -> None:
    with pytest.raises(MalformedError):
        place_of(name, text)


def test_where_feeds_come_from() -> None:
    found = [
        str(place_of("debian", "apt")), str(place_of("cna", "/srv/vulns")),
        str(place_of("kev", "https://user:secret@example.org/kev.json?token=1")), str(place_of("cna", "http://[::1]:80/v.tar")),
    ]  # fmt: skip
    assert found == ["the package client", "/srv/vulns", "https://example.org/kev.json", "http://[::1]:80/v.tar"]


def test_a_repository_that_is_none(tmp_path: Path) -> None:
    assert Repository.at(tmp_path) is None
    (tmp_path / "HEAD").write_text("junk")
    (tmp_path / "objects").mkdir()
    found = Repository.at(tmp_path)
    assert found is not None
    with pytest.raises(KmendError):
        found.commit()
    assert not found.has("junk")


def test_since_tells_new_from_changed_and_rejected(sqlite: Store, vulns: Path, tmp_path: Path) -> None:
    bring(sqlite, ways(tmp_path), "cna", str(vulns), NOW)
    with sqlite.read() as connection:
        assert telling.since(connection, NOW + 1).nothing
        assert telling.since(connection, NOW).added == {ONE, TWO}
