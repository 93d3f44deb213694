"""What a host downloads from a large repository: 10,000 kernel builds of 30 levels each.

The metadata is real and signed. Of the levels' documents only those that the measured host asks for are written: nobody else's
are fetched, and what the signed metadata says of them has its true size.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.serving import served
from tests.unit.sample_livepatch import livepatch
from tuf.api.metadata import TargetFile

from bench.traffic import Relay, counted
from kmend.core.document import encode, plain
from kmend.core.kernel import KernelIdentity
from kmend.core.manifest import FileRecord, LevelRecord, Levels, sha256_hex
from kmend.trust import current, layout, online
from kmend.trust.client import open_repository
from kmend.trust.network import Network
from kmend.trust.signing import keyfiles, tree
from kmend.trust.signing.keyfiles import KeyFolder, KeyPlan
from kmend.trust.transport import Transport

OWN = hashlib.sha1(b"own").hexdigest()  # noqa: S324 - a GNU build ID has the size of a SHA-1
CVES = ("CVE-2026-1001", "CVE-2026-1002")


@dataclass(frozen=True, slots=True)
class Bytes:
    """What one look cost on the wire without TLS, up and down, and in how many connections."""

    what: str
    sent: int
    received: int


def _build_id(number: int) -> str:
    return hashlib.sha1(b"%d" % number).hexdigest()  # noqa: S324 - as above


def _record(build_id: str, level: int) -> LevelRecord:
    digests = [hashlib.sha256(f"{build_id} {level} {part}".encode()).hexdigest() for part in ("manifest", "module")]
    return LevelRecord(
        level, FileRecord(digests[0], 6000 + level), FileRecord(digests[1], 40_000 + level), 1_790_000_000
    )


class LargeRepository:
    """A repository in which one host's own kernel build is among thousands.

    Args:
        folder: receives keys and repository.
    """

    def __init__(self, folder: Path, builds: int, levels: int) -> None:
        self.repository = folder / "repository"
        self._now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
        keyfiles.create(folder / "keys", KeyPlan(module_key_bits=2048), now=self._now)
        self._keys = KeyFolder(folder / "keys", lambda path: b"")
        self.root = self._keys.root()
        self._own: list[LevelRecord] = []
        self.levels = levels
        begun = tree.create(self.repository, self._keys, self._now)
        changes = {}
        for number in range(builds - 1):
            build_id = _build_id(number)
            document = Levels(build_id, tuple(_record(build_id, level) for level in range(1, levels + 1)))
            changes[layout.levels_target(build_id)] = self._target(document)
        for level in range(1, levels + 1):
            self._add(level)
        document = Levels(OWN, tuple(self._own))
        changes[layout.levels_target(OWN)] = self._stored(document)
        self._commit(begun, changes)

    def others_news(self) -> None:
        """Publish one more level of another kernel build."""
        build_id = _build_id(1)
        document = Levels(build_id, tuple(_record(build_id, level) for level in range(1, self.levels + 2)))
        self._publish({layout.levels_target(build_id): self._target(document)})

    def own_news(self) -> None:
        """Publish one more level of the measured host's kernel build."""
        self._add(len(self._own) + 1)
        self._publish({layout.levels_target(OWN): self._stored(Levels(OWN, tuple(self._own)))})

    def _add(self, level: int) -> None:
        manifest, module = livepatch(level, CVES, base=level - 1 or None, kernel=_own_kernel())
        content = encode(manifest)
        for part in (content, module):
            path = self.repository / layout.file_path(sha256_hex(part))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(part)
        record = FileRecord(sha256_hex(content), len(content))
        self._own.append(LevelRecord(level, record, FileRecord(sha256_hex(module), len(module)), 1_790_000_000))

    def _publish(self, changes: dict[str, TargetFile]) -> None:
        found = current.load(self.repository, self._keys.root())
        if found is not None:
            self._commit(found, changes)

    def _commit(self, found: current.Tree, changes: dict[str, TargetFile]) -> None:
        tree.replace_bins(found, changes, self._keys, self._now)
        online.commit(found, self._keys, self._now)

    def _target(self, document: Levels) -> TargetFile:
        target = TargetFile.from_data(layout.levels_target(document.build_id), encode(document), ["sha256"])
        target.unrecognized_fields["custom"] = {"kmend": plain(layout.TargetCustom.of(document))}
        return target

    def _stored(self, document: Levels) -> TargetFile:
        target = self._target(document)
        path = self.repository / layout.TARGETS / layout.levels_target(OWN)
        path = path.with_name(f"{target.hashes['sha256']}.{path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(document))
        return target


def _own_kernel() -> KernelIdentity:
    return KernelIdentity(OWN, "6.1.0-50-cloud-amd64", "#1 SMP", "debian:6.1.0-50-cloud-amd64@6.1.176-1")


class _Look:
    """Looks at the repository as a host does that has done so before, and counts."""

    def __init__(self, large: LargeRepository, state: Path, relay: Relay) -> None:
        self._large = large
        self._state = state
        self._relay = relay
        self._transport = Transport(Network())

    def look(self, what: str, *, module: bool = False) -> Bytes:
        self._relay.reset()
        with open_repository(
            f"http://127.0.0.1:{self._relay.port}",
            bootstrap=self._large.root,
            state=self._state,
            transport=self._transport,
        ) as repository:
            levels = repository.levels(OWN)
            if levels is not None and module:
                repository.manifest(OWN, levels.levels[-1])
                repository.module(levels.levels[-1])
        return Bytes(what, self._relay.sent, self._relay.received)


@contextmanager
def _looking(large: LargeRepository, state: Path) -> Iterator[_Look]:
    with served(large.repository) as port, counted(port) as relay:
        yield _Look(large, state, relay)


def measure(folder: Path, builds: int, levels: int) -> tuple[Bytes, ...]:
    """The bytes of every kind of look at a repository of that size."""
    large = LargeRepository(folder, builds, levels)
    with _looking(large, folder / "state") as looking:
        first = looking.look("first look, newest level included", module=True)
        nothing = looking.look("nothing new")
        large.others_news()
        others = looking.look("news for another kernel build")
        large.own_news()
        own = looking.look("news for its own, newest level included", module=True)
    return first, nothing, others, own
