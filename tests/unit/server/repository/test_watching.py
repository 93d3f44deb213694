"""The watcher: a new state is there within its turn, and a bad one is told of once."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select
from tests.unit.server.repository.conftest import Press
from tests.unit.trust.loopback import folder, serving

from kmend.server.config import RepositorySection, ServerConfig, ServerSection
from kmend.server.notices import Event, channels
from kmend.server.notices.channels import Kind
from kmend.server.notices.guard import Rules
from kmend.server.repository.watching import AGAIN_SECONDS, TELL_EVERY_SECONDS, Watcher
from kmend.server.store import Store, tables


def watcher(store: Store, press: Press, source: str = "") -> Watcher:
    data = press.folder / "data"
    data.mkdir(exist_ok=True)
    (data / "root.json").write_bytes((press.keys / "root.json").read_bytes())
    section = RepositorySection(source=source or str(press.repository))
    config = ServerConfig(server=ServerSection(data=str(data)), repository=section)
    return Watcher(config, store, press._begin)


def told(store: Store) -> list[str]:
    with store.read() as connection:
        return list(connection.execute(select(tables.outbox.c.body).order_by(tables.outbox.c.id)).scalars())


@pytest.fixture
def listening(store: Store) -> Store:
    store.transact(
        lambda connection: channels.create(
            connection,
            kind=Kind.EMAIL,
            target="a@example.org",
            events=[Event.REPOSITORY_STALE],
            actor="t",
            now=1,
            rules=Rules(),
        )
    )
    return store


def test_a_new_state_of_a_folder_is_taken_at_once_and_an_old_one_costs_nothing(store: Store, press: Press) -> None:
    watching = watcher(store, press)
    assert watching.look(press.now) is None  # nothing is there yet
    press.publish(1, ["CVE-2026-2001"])
    found = watching.look(press.now + AGAIN_SECONDS)
    assert found is not None
    assert len(found.new_levels) == 1
    assert watching.look(press.now + AGAIN_SECONDS + 1) is None
    press.publish(2, ["CVE-2026-2001", "CVE-2026-2002"], base=1)
    found = watching.look(press.now + AGAIN_SECONDS + 2)
    assert found is not None
    assert [level.level for level in found.new_levels] == [2]
    watching.close()


def test_a_broken_state_is_told_of_once_a_day_and_tried_again(listening: Store, press: Press) -> None:
    press.publish(1, ["CVE-2026-2001"])
    watching = watcher(listening, press)
    assert watching.look(press.now) is not None
    good = (press.repository / "metadata/timestamp.json").read_bytes()
    (press.repository / "metadata/timestamp.json").write_bytes(b"<html>")
    now = press.now + 1
    for _ in range(5):
        assert watching.look(now) is None
        now += AGAIN_SECONDS
    assert len(told(listening)) == 1
    assert "is kept as it was" in told(listening)[0]
    assert watching.look(press.now + TELL_EVERY_SECONDS + 60) is None
    assert len(told(listening)) == 2
    (press.repository / "metadata/timestamp.json").write_bytes(good)
    assert watching.look(press.now + TELL_EVERY_SECONDS + 60 + AGAIN_SECONDS) is not None
    watching.close()


def test_an_expiry_that_is_near_is_told_of(listening: Store, press: Press) -> None:
    press.publish(1, ["CVE-2026-2001"])
    watching = watcher(listening, press)
    watching.look(press.now)
    assert told(listening) == []
    watching.look(press.now + 6 * 86_400)
    assert "expires soon" in told(listening)[0]
    watching.close()


def test_a_url_is_looked_at_now_and_then_and_small_when_nothing_is_new(
    store: Store, press: Press, tmp_path: Path
) -> None:
    press.publish(1, ["CVE-2026-2001"])
    with serving(folder(press.repository)) as server:
        watching = watcher(store, press, server.url)
        assert watching.look(press.now) is not None
        count = len(server.requests)
        assert watching.look(press.now + 1) is None
        assert len(server.requests) == count
        assert watching.look(press.now + 60) is not None
        assert len(server.requests) <= count + 2
        watching.close()
