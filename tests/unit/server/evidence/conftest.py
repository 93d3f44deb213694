"""A yard whose pack most tests only read or copy."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.unit.server.conftest import Databases
from tests.unit.server.evidence.packing import Yard
from tests.unit.server.repository.conftest import Press, press, press_keys

from kmend.server.store import open_store

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
