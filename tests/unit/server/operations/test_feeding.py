"""Feeds by themselves: a duty for each, the work in a program of its own, failures written down, an end when the server ends."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.unit.server.api.asking import Asked, person
from tests.unit.trust.loopback import serving

from kmend.server.access.permissions import Role
from kmend.server.config import DatabaseSection, FeedsSection, ServerConfig, ServerSection
from kmend.server.feeds import FeedError
from kmend.server.knowledge import sources
from kmend.server.operations import feeding, metrics
from kmend.server.operations.duties import Duties
from kmend.server.operations.feeding import Feeder
from kmend.server.repository import Mirror
from kmend.server.store import Store, tables

NOW = 1_790_000_000
KEV = {"catalogVersion": "2026.10.01", "dateReleased": "2026-09-20T00:00:00.0000Z", "vulnerabilities": []}


def config(store: Store, folder: Path, **feeds: str) -> ServerConfig:
    return ServerConfig(ServerSection(str(folder)), database=DatabaseSection(store.url), feeds=FeedsSection(**feeds))  # type: ignore[arg-type]


def catalogue(folder: Path) -> Path:
    path = folder / "kev.json"
    path.write_text(json.dumps({**KEV, "vulnerabilities": [{"cveID": "CVE-2026-3001", "dateAdded": "2026-09-20"}, {}]}))
    return path


def test_only_what_is_configured_has_a_duty(sqlite: Store, tmp_path: Path) -> None:
    names = [
        [duty.name for duty in Duties(made, sqlite, Mirror(sqlite)).all() if duty.name.startswith("feed-")]
        for made in (ServerConfig(), config(sqlite, tmp_path, kev="/kev.json", debian="apt"))
    ]
    assert names == [[], ["feed-debian", "feed-kev"]]


def test_a_feed_comes_in_by_a_program_of_its_own(sqlite: Store, tmp_path: Path) -> None:
    feeder = Feeder(config(sqlite, tmp_path, kev=str(catalogue(tmp_path))), sqlite)
    (duty,) = feeder.duties()
    assert duty.work(NOW) is True
    assert duty.work(NOW + 60) is False, "it is not due"
    with sqlite.read() as connection:
        row = connection.execute(select(tables.feeds)).one()
        feeding.count(connection, NOW + 100)
    assert (row.version, row.records, row.aside_count) == ("2026.10.01", 1, 1)
    told = metrics.text().decode()
    assert 'kmend_server_feed_set_aside{feed="kev"} 1.0' in told
    assert f'kmend_server_feed_age_seconds{{feed="kev"}} {float(NOW + 100 - row.as_of)}' in told
    assert 'kmend_server_feed_failures{feed="kev"} 0.0' in told


def test_what_cannot_be_had_is_shown(sqlite: Store, tmp_path: Path) -> None:
    made = config(sqlite, tmp_path, kev=str(tmp_path / "none.json"))
    with pytest.raises(FeedError, match=r"there is no .*none\.json"):
        Feeder(made, sqlite).look("kev", NOW)
    asked = Asked(sqlite, made, NOW + 60)
    try:
        rows = {row["name"]: row for row in person(asked, Role.VIEWER)("GET", "/feeds").json}
    finally:
        asked.close()
    assert set(rows) == {"cna", "debian", "kev"}, "the two without which nothing can be said are missing, and shown so"
    kev = rows["kev"]
    assert (kev["version"], kev["age"], kev["tried_age"], kev["checked_age"], kev["failures"]) == (
        "",
        None,
        60,
        None,
        1,
    )
    assert "there is no" in kev["error"]
    assert kev["next_at"] == NOW + sources.pause(1)
    assert (rows["cna"]["stale"], kev["source"]) == (True, str(tmp_path / "none.json"))


def test_a_program_that_dies_is_a_failure(sqlite: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(script))
    feeder = Feeder(config(sqlite, tmp_path, kev=str(catalogue(tmp_path))), sqlite)
    sqlite.transact(lambda connection: sources.claim(connection, "kev", str(tmp_path / "kev.json"), NOW - 10_000))
    with pytest.raises(FeedError, match="ended by SIGKILL"):
        feeder.look("kev", NOW)
    with sqlite.read() as connection:
        row = connection.execute(select(tables.feed_sources)).one()
    assert (row.failures, row.next_at) == (1, NOW + sources.FIRST_PAUSE)


def test_the_end_of_the_server_ends_a_fetch_which_the_next_one_takes_up(sqlite: Store, tmp_path: Path) -> None:
    with serving(lambda request: [60.0]) as server:
        feeder = Feeder(config(sqlite, tmp_path, kev=f"{server.url}/kev.json"), sqlite)
        done: list[bool] = []
        thread = threading.Thread(target=lambda: done.append(feeder.look("kev", NOW)))
        thread.start()
        while not server.requests:
            time.sleep(0.05)
        feeder.cancel()
        thread.join()
    assert done == [False]
    with sqlite.read() as connection:
        row = connection.execute(select(tables.feed_sources)).one()
        assert (row.failures, row.next_at) == (0, NOW)
        assert sources.is_due(connection, "kev", f"{server.url}/kev.json", NOW)
    assert feeder.look("kev", NOW) is False, "it is stopping"
