"""The repository's signed metadata, taken into a pack and verified out of it: that each level was signed by the offline keys.

It is verified from a trust root on, as a host does it, but at no time in particular: an auditor comes when the timestamp has
long expired, and what was signed then is signed still.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from kmend.core.document import decode, from_plain
from kmend.core.errors import MalformedError
from kmend.core.manifest import LevelRecord, Levels
from kmend.core.recall import Recalls
from kmend.server.evidence.errors import EvidenceError
from kmend.trust import current, layout
from kmend.trust.client import MAX_ROOT_BYTES, fetch_file
from kmend.trust.current import Tree
from kmend.trust.errors import MissingError, TrustError
from kmend.trust.freshness import MAX_METADATA_BYTES
from kmend.trust.recalls import MAX_RECALL_BYTES, ROLE, stated_version
from kmend.trust.signingerrors import SigningError
from kmend.trust.transport import Transport

MAX_ROOTS = 1000


class NotPublishedError(EvidenceError):
    """The repository's metadata does not say what is said of it."""

    kind = "not-published"


@dataclass(slots=True)
class Published:
    """Metadata in a folder of its own, verified.

    Attributes:
        folder: laid out as a repository.
        tree: None if there is no repository.
    """

    folder: Path
    tree: Tree | None
    _levels: dict[str, Levels] = field(default_factory=dict)

    @property
    def root(self) -> Metadata[Root] | None:
        """The newest root; None if there is no repository."""
        return self.tree.root if self.tree is not None else None

    def files(self) -> Iterator[tuple[str, bytes]]:
        """What there is: path in the repository, and content."""
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                yield path.relative_to(self.folder).as_posix(), path.read_bytes()

    def target(self, build_id: str) -> TargetFile | None:
        """What is signed of a build's levels; None if nothing is.

        Raises:
            NotPublishedError: its metadata is missing, or not signed as it must be.
        """
        if self.tree is None:
            return None
        with _translated():
            name = self.tree.bins.get_role_for_target(layout.levels_target(build_id))
            stated = self.tree.snapshot.signed.meta.get(f"{name}.json")
            if stated is None:
                raise NotPublishedError(f"the signed snapshot does not name {name}")
            found = self.tree.bin(name)
            if found.signed.version != stated.version:
                raise NotPublishedError(f"{name} is of another version than the signed snapshot names")
            return found.signed.targets.get(layout.levels_target(build_id))

    def levels(self, build_id: str) -> dict[int, LevelRecord]:
        """The published levels of a kernel build; none if none are.

        Raises:
            NotPublishedError: as above, or the list of levels is not the signed one.
        """
        if build_id not in self._levels:
            target = self.target(build_id)
            if target is None:
                return {}
            path = self.folder / layout.TARGETS / target.get_prefixed_paths()[0]
            if not path.is_file():
                raise NotPublishedError(f"the levels of kernel build {build_id} are signed, and not there")
            self._levels[build_id] = _checked(path.read_bytes(), target, build_id)
        return {record.level: record for record in self._levels[build_id].levels}

    def recalls(self) -> Recalls:
        """What is recalled.

        Raises:
            NotPublishedError: that is missing, or not signed by who may recall.
        """
        if self.tree is None:
            return Recalls()
        with _translated():
            return current.recalls(self.tree)


@contextlib.contextmanager
def empty() -> Iterator[Published]:
    """Of a server that has no repository yet."""
    with tempfile.TemporaryDirectory(prefix="kmend-evidence-") as folder:
        yield Published(Path(folder), None)


@contextlib.contextmanager
def fetched(url: str, root: bytes, transport: Transport) -> Iterator[Fetched]:
    """What is published at `url` now.

    Raises:
        TrustError: it cannot be fetched.
        NotPublishedError: it does not verify.
    """
    with tempfile.TemporaryDirectory(prefix="kmend-evidence-") as name:
        found = Fetched(Path(name), url, transport)
        found.take_metadata(root)
        yield found


class Fetched:
    """Takes metadata from a repository into a folder.

    Attributes:
        published: what has been taken, verified.
    """

    def __init__(self, folder: Path, url: str, transport: Transport) -> None:
        self._folder = folder
        self._url = url
        self._transport = transport
        self.published = Published(folder, None)

    def take_metadata(self, root: bytes) -> None:
        """All that does not depend on the kernel build."""
        with _translated():
            trusted = current.read_root(root)
            for version in range(1, trusted.signed.version + MAX_ROOTS):
                try:
                    self._take(f"{layout.METADATA}/{version}.root.json", MAX_ROOT_BYTES)
                except MissingError:
                    if version > trusted.signed.version:
                        break
            # Whoever follows the roots from here on needs this one too.
            own = self._folder / layout.METADATA / f"{trusted.signed.version}.root.json"
            if not own.exists():
                own.parent.mkdir(exist_ok=True)
                own.write_bytes(root)
            content = self._take(f"{layout.METADATA}/timestamp.json", MAX_METADATA_BYTES)
            snapshot_version = Metadata[Timestamp].from_bytes(content).signed.snapshot_meta.version
            content = self._take(f"{layout.METADATA}/{snapshot_version}.snapshot.json", MAX_METADATA_BYTES)
            snapshot = Metadata[Snapshot].from_bytes(content).signed
            self._take(f"{layout.METADATA}/{snapshot.meta['targets.json'].version}.targets.json", MAX_METADATA_BYTES)
            if version := stated_version(snapshot):
                self._take(f"{layout.METADATA}/{version}.{ROLE}.json", MAX_RECALL_BYTES)
            self.published = Published(self._folder, _load(self._folder, root))

    def take_build(self, build_id: str) -> None:
        """What is signed of a kernel build's levels, and the list of them."""
        tree = self.published.tree
        if tree is None:
            return
        with _translated():
            name = tree.bins.get_role_for_target(layout.levels_target(build_id))
            path = f"{layout.METADATA}/{tree.snapshot.signed.meta[f'{name}.json'].version}.{name}.json"
            if not (self._folder / path).exists():
                self._take(path, MAX_METADATA_BYTES)
            target = self.published.target(build_id)
            if target is not None:
                path = f"{layout.TARGETS}/{target.get_prefixed_paths()[0]}"
                self._take(path, min(target.length, layout.MAX_LEVELS_BYTES))
                self.published.levels(build_id)

    def manifest(self, record: LevelRecord) -> bytes:
        """The manifest of a level, its digest checked."""
        return fetch_file(self._url, record.manifest, self._transport, limit=layout.MAX_MANIFEST_BYTES)

    def _take(self, path: str, limit: int) -> bytes:
        content = self._transport.get(f"{self._url}/{path}", limit).content
        place = self._folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        return content


@contextlib.contextmanager
def unpacked(files: Iterator[tuple[str, bytes]], root: bytes) -> Iterator[Published]:
    """Verify what a pack has of a repository, in a folder that is gone afterwards.

    Args:
        files: path in the repository and content; the paths are plain ones already.
        root: the trust root of whoever verifies.

    Raises:
        NotPublishedError: it is not signed by whom that root names.
    """
    with tempfile.TemporaryDirectory(prefix="kmend-evidence-") as name:
        folder = Path(name)
        for path, content in files:
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        with _translated():
            found = Published(folder, _load(folder, root))
        yield found


def _load(folder: Path, root: bytes) -> Tree | None:
    """The verified metadata; each file also as the one above it states it."""
    tree = current.load(folder, root)
    if tree is None:
        return None
    _hold(tree.timestamp.signed.snapshot_meta, tree.snapshot, folder, "snapshot")
    _hold(tree.snapshot.signed.meta["targets.json"], tree.targets, folder, "targets")
    return tree


def _hold(stated: MetaFile, found: Metadata[Snapshot] | Metadata[Targets], folder: Path, name: str) -> None:
    content = (folder / layout.METADATA / f"{stated.version}.{name}.json").read_bytes()
    stated.verify_length_and_hashes(content)
    if found.signed.version != stated.version:
        raise NotPublishedError(f"the {name} metadata is of version {found.signed.version}, not {stated.version}")


def _checked(content: bytes, target: TargetFile, build_id: str) -> Levels:
    with _translated():
        target.verify_length_and_hashes(content)
        levels = decode(Levels, content, max_bytes=layout.MAX_LEVELS_BYTES)
        custom = target.custom.get("kmend") if isinstance(target.custom, dict) else None
        stated = from_plain(layout.TargetCustom, custom)
        if levels.build_id != build_id or stated != layout.TargetCustom.of(levels):
            raise NotPublishedError(f"the levels of {build_id} are not what their signed metadata says of them")
        return levels


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """What cannot be verified, as one error; that something cannot be fetched stays what it is."""
    try:
        yield
    except SigningError as problem:
        raise NotPublishedError(f"the repository's metadata does not verify: {problem.message}") from None
    except MalformedError as problem:
        raise NotPublishedError(f"the repository's metadata cannot be read: {problem.message}") from None
    except TrustError:
        raise
    except (RepositoryError, KeyError, ValueError, TypeError, AttributeError, OSError) as problem:
        raise NotPublishedError(f"the repository's metadata does not verify: {problem}") from None
