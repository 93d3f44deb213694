"""What the repository holds for the kernel build of the simulated hosts."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tests.unit.sample_livepatch import KERNEL, livepatch

from kmend.core.kernel import KernelIdentity
from kmend.core.manifest import Manifest
from kmend.core.recall import Recalls
from kmend.trust.client import open_repository
from kmend.trust.network import Network
from kmend.trust.transport import Transport


class Library:
    """Levels of one kernel build, and recalls.

    Attributes:
        levels: the newest first.
    """

    def __init__(self, kernel: KernelIdentity, levels: Sequence[Manifest] = (), recalls: Recalls | None = None) -> None:
        self.kernel = kernel
        self.levels = tuple(sorted(levels, key=lambda manifest: -manifest.level))
        self.recalls = recalls or Recalls()

    @classmethod
    def made_up(cls, levels: Sequence[int] = (1, 2, 3), kernel: KernelIdentity = KERNEL) -> Library:
        """Level N closes N made-up CVEs."""
        made = [
            livepatch(level, [f"CVE-2026-{1000 + number}" for number in range(1, level + 1)], kernel=kernel)[0]
            for level in levels
        ]
        return cls(kernel, made)

    def level(self, number: int) -> Manifest | None:
        """The level of that number."""
        return next((manifest for manifest in self.levels if manifest.level == number), None)

    def refresh(self, timestamp: str) -> None:
        """The server has named this timestamp of the repository; called in a thread, once for each."""


class RepositoryLibrary(Library):
    """What a real repository holds, looked at with the agent's client whenever its timestamp has changed; once for all hosts.

    Args:
        root: the trust root's file.
        state: a folder for what was verified.
    """

    def __init__(
        self, kernel: KernelIdentity, url: str, root: Path, state: Path, network: Network | None = None
    ) -> None:
        super().__init__(kernel)
        self._url = url
        self._root = root.read_bytes()
        self._state = state
        self._network = network or Network()
        self._manifests: dict[str, Manifest] = {}
        self._lock = threading.Lock()

    def refresh(self, timestamp: str) -> None:
        """Look at the repository; raises TrustError."""
        build_id = self.kernel.build_id
        with (
            self._lock,
            closing(Transport(self._network)) as transport,
            open_repository(self._url, bootstrap=self._root, state=self._state, transport=transport) as repository,
        ):
            found = repository.levels(build_id)
            for record in found.levels if found is not None else ():
                if record.manifest.sha256 not in self._manifests:
                    self._manifests[record.manifest.sha256] = repository.manifest(build_id, record)
            recalls = repository.recalls()
            levels = [self._manifests[record.manifest.sha256] for record in (found.levels if found is not None else ())]
        self.levels = tuple(sorted(levels, key=lambda manifest: -manifest.level))
        self.recalls = recalls
