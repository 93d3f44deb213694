"""A yard whose pack most tests only read or copy."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.unit.server.conftest import Databases
from tests.unit.server.evidence.packing import FIRST, SECOND, Yard
from tests.unit.server.repository.conftest import Press, press, press_keys

from kmend.server.store import Store, open_store

__all__ = ["press", "press_keys"]


@dataclass(frozen=True)
class Packed:
    yard: Yard
    path: Path


@pytest.fixture(scope="session")
def packed(databases: Databases, press_keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packed]:
    """A pack, countersigned; whoever changes something works on a copy."""
    folder = tmp_path_factory.mktemp("evidence")
    store = open_store(databases.fresh("sqlite"))
    now = int(datetime.datetime.now(datetime.timezone.utc).timestamp())
    yard = Yard(store, Press(folder, press_keys, now), folder)
    yard.fill()
    yield Packed(yard, yard.pack())
    store.close()


@pytest.fixture
def copy(packed: Packed, tmp_path: Path) -> Path:
    """The pack, in a file of the test's own."""
    path = tmp_path / "pack.tar"
    path.write_bytes(packed.path.read_bytes())
    return path


@pytest.fixture
def chained(store: Store, press: Press, tmp_path: Path) -> Yard:
    """Two hosts: what one of them sends is chained, the other one's agent is of an earlier version."""
    yard = Yard(store, press, tmp_path)
    press.publish(1, [FIRST])
    press.publish(2, [FIRST, SECOND], base=1)
    press.take(store)
    yard.enrol("web-1", "default")
    yard.enrol("web-2", "default")
    link = None
    for day, level in ((0.5, 0), (1, 1), (2, 2), (4, 1)):
        link = yard.chain("web-1", day, link, level)
    yard.say("web-2", 1, 0)
    yard.say("web-2", 2, 2)
    return yard
