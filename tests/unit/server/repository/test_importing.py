"""The import: what the signed repository says comes into the tables, and nothing else does."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.unit.sample_livepatch import BUILD_ID, KERNEL, OTHER_BUILD_ID, fix
from tests.unit.server.repository.conftest import Press

from kmend.server.repository import Mirror, agent
from kmend.server.store import Store, news, tables
from kmend.trust.errors import RollbackError, SignatureError, TrustError
from kmend.trust.signing import keyfiles
from kmend.trust.signing.keyfiles import KeyPlan

OTHER = dataclasses.replace(KERNEL, build_id=OTHER_BUILD_ID, release="6.1.0-53-cloud-amd64")


def rows(store: Store, table: Any) -> list[dict[str, Any]]:
    with store.read() as connection:
        return [dict(row._mapping) for row in connection.execute(select(table))]


def test_levels_fixes_and_kernel_builds_come_in(store: Store, press: Press) -> None:
    press.publish(1, ["CVE-2026-2001"])
    press.publish(2, ["CVE-2026-2001", "CVE-2026-2002"], base=1, channel="early")
    press.publish(1, ["CVE-2026-2003"], kernel=OTHER)
    found = press.take(store)
    assert sorted((level.build_id, level.level) for level in found.new_levels) == sorted(
        [(BUILD_ID, 1), (BUILD_ID, 2), (OTHER_BUILD_ID, 1)]
    )
    assert sorted(press.begun) == sorted((level.build_id, level.level) for level in found.new_levels)
    assert not found.recalls_changed
    levels = {(row["build_id"], row["level"]): row for row in rows(store, tables.levels)}
    second = levels[BUILD_ID, 2]
    assert (second["base"], second["channel"], second["pinned"]) == (1, "early", False)
    assert json.loads(second["manifest"])["level"] == 2
    assert {row["cve"] for row in rows(store, tables.level_cves) if row["level"] == 2} == {
        "CVE-2026-2001", "CVE-2026-2002",
    }  # fmt: skip
    fixes = {row["fix"] for row in rows(store, tables.level_fixes) if row["build_id"] == OTHER_BUILD_ID}
    assert fixes == {fix("CVE-2026-2003").digest}
    assert {row["release"] for row in rows(store, tables.kernel_builds)} == {KERNEL.release, OTHER.release}


def test_only_what_is_new_comes_in_the_next_time(store: Store, press: Press) -> None:
    press.publish(1, ["CVE-2026-2001"])
    first = press.take(store)
    again = press.take(store)
    assert again.new_levels == ()
    assert again.timestamp == first.timestamp
    press.publisher.refresh()
    refreshed = press.take(store)
    assert refreshed.new_levels == ()
    assert refreshed.timestamp.version == first.timestamp.version + 1
    press.publish(2, ["CVE-2026-2001", "CVE-2026-2002"], base=1)
    assert [level.level for level in press.take(store).new_levels] == [2]
    assert press.begun == [(BUILD_ID, 1), (BUILD_ID, 2)]


def test_the_timestamp_is_what_lies_in_the_repository(store: Store, press: Press) -> None:
    mirror = Mirror(store)
    assert mirror.timestamp().version == 0
    press.publish(1, ["CVE-2026-2001"])
    press.take(store)
    assert mirror.timestamp().version == 0
    mirror.reload()
    assert mirror.timestamp().text.encode() == (press.repository / "metadata/timestamp.json").read_bytes()
    assert mirror.timestamp().expires > press.now


def test_recalls_come_and_go_and_everybody_who_waits_is_told(store: Store, press: Press) -> None:
    def generation() -> int:
        with store.read() as connection:
            return news.generations(connection).get(news.ALL, 0)

    press.publish(1, ["CVE-2026-2001"])
    press.take(store)
    before = generation()
    press.recall(1)
    assert press.take(store).recalls_changed
    assert generation() == before + 1
    (row,) = rows(store, tables.recalls)
    assert (row["build_id"], row["level"], row["extent"], row["withdrawn_at"]) == (BUILD_ID, 1, "revert", None)
    assert not press.take(store).recalls_changed
    press.publisher.withdraw(1)
    assert press.take(store).recalls_changed
    assert generation() == before + 2
    (row,) = rows(store, tables.recalls)
    assert row["withdrawn_at"] == press.now


def test_what_installs_the_agent_is_known_from_signed_metadata(store: Store, press: Press) -> None:
    press.offer(**{"kmend_9_all.deb": b"a package", agent.SCRIPT: b"#!/bin/sh\n"})
    press.take(store)
    with store.read() as connection:
        files = agent.read_files(connection)
    assert [file.name for file in files.files] == [agent.SCRIPT, "kmend_9_all.deb"]
    assert files.script is not None
    assert (press.repository / files.script.path).read_bytes() == b"#!/bin/sh\n"


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40] + b"x" * 40)


@pytest.mark.parametrize(
    "what", ["metadata/*.snapshot.json", "metadata/*.kernels-*.json", "targets/**/*.json", "files/*/*"]
)
def test_a_damaged_repository_changes_nothing(store: Store, press: Press, what: str) -> None:
    press.publish(1, ["CVE-2026-2001"])
    first = press.take(store)
    press.publish(2, ["CVE-2026-2001", "CVE-2026-2002"], base=1)
    for path in press.repository.glob(what):
        damage(path)
    with pytest.raises(TrustError):
        press.take(store)
    assert [row["level"] for row in rows(store, tables.levels)] == [1]
    mirror = Mirror(store)
    assert mirror.timestamp() == first.timestamp


def test_a_strangers_repository_changes_nothing(store: Store, press: Press, tmp_path: Path) -> None:
    press.publish(1, ["CVE-2026-2001"])
    keyfiles.create(
        tmp_path / "stranger", KeyPlan(module_key_bits=2048), now=datetime.datetime.now(datetime.timezone.utc)
    )
    with pytest.raises(SignatureError):
        dataclasses.replace(press, keys=tmp_path / "stranger").take(store)
    assert rows(store, tables.levels) == []


def test_an_older_state_is_refused_even_by_a_process_that_has_never_seen_the_newer(store: Store, press: Press) -> None:
    """Two machines with one database: what the one has seen binds the other."""
    press.publish(1, ["CVE-2026-2001"])
    older = press.folder / "older"
    shutil.copytree(press.repository, older)
    press.publish(2, ["CVE-2026-2001", "CVE-2026-2002"], base=1)
    press.take(store)
    shutil.rmtree(press.repository)
    older.rename(press.repository)
    with pytest.raises(RollbackError):
        press.take(store)
    with pytest.raises(RollbackError, match="was imported before"):
        press.take(store, state="another")


def test_an_import_that_is_killed_goes_on_where_it_was(store: Store, press: Press) -> None:
    press.publish(1, ["CVE-2026-2001"])
    press.publish(1, ["CVE-2026-2003"], kernel=OTHER)

    class KilledError(Exception):
        pass

    whole = press._begin

    def killed(*words: object) -> None:
        raise KilledError

    press._begin = killed  # type: ignore[method-assign,assignment]
    with pytest.raises(KilledError):
        press.take(store)
    assert rows(store, tables.levels) == []
    assert Mirror(store).timestamp().version == 0
    press._begin = whole  # type: ignore[method-assign]
    assert len(press.take(store).new_levels) == 2


def test_a_newer_trust_root_is_followed_with_the_same_memory(store: Store, press: Press, tmp_path: Path) -> None:
    """As after `repository adopt`: the server's own root.json is a later one than the one that it began with."""
    mine = dataclasses.replace(press, keys=tmp_path / "keys")
    shutil.copytree(press.keys, mine.keys)
    mine.publish(1, ["CVE-2026-2001"])
    mine.take(store)
    assert mine.publisher.renew() == 2
    first = (mine.keys / "root.json").read_bytes()
    (mine.keys / "root.json").write_bytes((mine.repository / "metadata/2.root.json").read_bytes())
    mine.publish(2, ["CVE-2026-2001", "CVE-2026-2002"], base=1)
    assert [level.level for level in mine.take(store).new_levels] == [2]
    # And an earlier one does no harm: newer ones are followed from it.
    (mine.keys / "root.json").write_bytes(first)
    mine.publisher.refresh()
    assert mine.take(store).new_levels == ()
