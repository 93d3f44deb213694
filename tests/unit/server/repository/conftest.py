"""A publisher with keys and a repository to import from."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import Connection
from tests.unit.sample_livepatch import KERNEL, livepatch, write_build

from kmend.core.kernel import KernelIdentity
from kmend.core.recall import Extent
from kmend.server.repository.importing import Imported, import_repository
from kmend.server.store import Store
from kmend.trust.signing import keyfiles
from kmend.trust.signing.keyfiles import KeyFolder, KeyPlan
from kmend.trust.signing.publishing import AgentFile, Publisher, read_build


def no_passphrase(path: Path) -> bytes:
    raise AssertionError(f"{path} should not be encrypted")


@dataclass
class Press:
    """Publishes made-up levels, and imports them as the server does.

    Attributes:
        begun: what the import has announced as new.
    """

    folder: Path
    keys: Path
    now: int
    begun: list[tuple[str, int]] = field(default_factory=list)

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    @property
    def publisher(self) -> Publisher:
        moment = datetime.datetime.fromtimestamp(self.now, datetime.timezone.utc)
        return Publisher(self.repository, KeyFolder(self.keys, no_passphrase), now=moment)

    def publish(
        self,
        level: int,
        cves: Sequence[str],
        *,
        kernel: KernelIdentity = KERNEL,
        base: int | None = None,
        channel: str = "",
    ) -> None:
        build = write_build(
            self.folder / f"{kernel.build_id[:4]}-{level}", *livepatch(level, cves, base=base, kernel=kernel)
        )
        self.publisher.publish([read_build(build)], channel=channel)

    def offer(self, **files: bytes) -> None:
        self.publisher.publish([], agent=[AgentFile(name, content) for name, content in files.items()])

    def recall(self, level: int) -> None:
        self.publisher.recall(Extent.REVERT, "crashes hosts", build_id=KERNEL.build_id, level=level)

    def take(self, store: Store, *, state: str = "state") -> Imported:
        root = (self.keys / "root.json").read_bytes()
        return import_repository(
            store, self.repository.as_uri(), root, self.folder / state, self.now, begin=self._begin
        )

    def _begin(self, connection: Connection, levels: Sequence[tuple[str, int]], now: int) -> None:
        self.begun += levels


@pytest.fixture(scope="session")
def press_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("press") / "keys"
    now = datetime.datetime.now(datetime.timezone.utc)
    keyfiles.create(folder, KeyPlan(bin_bits=2, module_key_bits=2048), now=now)
    return folder


@pytest.fixture
def press(tmp_path: Path, press_keys: Path) -> Press:
    # TUF's client asks the real clock whether metadata has expired.
    return Press(tmp_path, press_keys, int(datetime.datetime.now(datetime.timezone.utc).timestamp()))
