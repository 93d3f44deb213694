"""A repository's metadata on disk, as its keeper sees it: the verified current state.

Who signs extends it: the publisher (`kmend.trust.signing`) with all keys, the server with the online keys (`online`).
Everything is written before `timestamp.json`, under names that carry a version, so a writer killed at any point leaves the old
state valid; what it left behind is overwritten by the next, since nobody refers to it.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, SuccinctRoles, TargetFile, Targets, Timestamp

from kmend.core import durable
from kmend.core.errors import SystemProblemError
from kmend.core.recall import Recalls
from kmend.trust import layout
from kmend.trust.freshness import MAX_METADATA_BYTES
from kmend.trust.recalls import MAX_RECALL_BYTES, ROLE, read_recalls, stated_version
from kmend.trust.signingerrors import PublishRefusedError, SigningError

T = TypeVar("T", Root, Timestamp, Snapshot, Targets)


@dataclass(slots=True)
class Tree:
    """The current metadata; the bins are read when they are needed.

    Attributes:
        root: the newest root that is validly signed.
        targets: with the delegation to the bins.
    """

    folder: Path
    root: Metadata[Root]
    targets: Metadata[Targets]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]

    @property
    def bins(self) -> SuccinctRoles:
        """The delegation to the hashed bins (TAP 15)."""
        delegations = self.targets.signed.delegations
        if delegations is None or delegations.succinct_roles is None:
            raise SigningError("the repository does not spread its targets over bins", hint="it is not one of kmend's")
        return delegations.succinct_roles

    def bin(self, name: str) -> Metadata[Targets]:
        """One bin's metadata, verified."""
        version = self.snapshot.signed.meta[f"{name}.json"].version
        metadata = read(self.folder / f"{version}.{name}.json", Targets)
        verify(self.targets.signed, name, metadata)
        return metadata

    def target(self, path: str) -> TargetFile | None:
        """What is signed of one target; None if it does not exist."""
        return self.bin(self.bins.get_role_for_target(path)).signed.targets.get(path)

    def build_ids(self) -> tuple[str, ...]:
        """Every kernel build that has levels, sorted."""
        found = (layout.build_id_of(path) for name in self.bins.get_roles() for path in self.bin(name).signed.targets)
        return tuple(sorted(build_id for build_id in found if build_id))


def load(repository: Path, trusted: bytes) -> Tree | None:
    """Read and verify the metadata of an existing repository; None if there is none yet.

    Args:
        trusted: the trust root, of whatever version, that the newest one is followed from.

    Raises:
        SigningError: it is not signed by the keys that our trust root names; it is not extended then.
    """
    folder = repository / layout.METADATA
    if not (folder / "timestamp.json").exists():
        return None
    roots = _chain(read_root(trusted), folder)
    root = roots[-1]
    timestamp = read(folder / "timestamp.json", Timestamp)
    _verify_online(roots, "timestamp", timestamp)
    snapshot = read(folder / f"{timestamp.signed.snapshot_meta.version}.snapshot.json", Snapshot)
    _verify_online(roots, "snapshot", snapshot)
    targets = read(folder / f"{snapshot.signed.meta['targets.json'].version}.targets.json", Targets)
    verify(root.signed, "targets", targets)
    return Tree(folder, root, targets, snapshot, timestamp)


def load_root(repository: Path, trusted: bytes) -> Metadata[Root]:
    """The newest root, followed version by version from a trusted one.

    Raises:
        SigningError: one of them is not validly signed.
    """
    return follow(read_root(trusted), repository / layout.METADATA)


def follow(root: Metadata[Root], folder: Path) -> Metadata[Root]:
    """The newest root that the files `<version>.root.json` in a folder lead to from `root`, one version at a time.

    Raises:
        SigningError: one of them is not validly signed.
    """
    return _chain(root, folder)[-1]


def _chain(root: Metadata[Root], folder: Path) -> list[Metadata[Root]]:
    found = [root]
    while (path := folder / f"{found[-1].signed.version + 1}.root.json").exists():
        following = read(path, Root)
        verify(found[-1].signed, "root", following)
        verify(following.signed, "root", following)
        found.append(following)
    return found


def read_root(content: bytes) -> Metadata[Root]:
    """A trust root, signed by its own keys.

    Raises:
        SigningError: it is not.
    """
    try:
        root = Metadata[Root].from_bytes(content)
        root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    except (RepositoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise SigningError(
            f"that is not a valid trust root: {problem}", hint="take root.json as its publisher hands it out"
        ) from None
    return root


def recalls(tree: Tree) -> Recalls:
    """The recalls that stand, verified."""
    version = stated_version(tree.snapshot.signed)
    if version == 0:
        return Recalls()
    content = durable.read_bounded(tree.folder / f"{version}.{ROLE}.json", max_bytes=MAX_RECALL_BYTES)
    return read_recalls(content, tree.root.signed, version)


def check_root(root: Root, now: datetime.datetime) -> None:
    """Refuse to sign under an expired root: no host would accept the result.

    Raises:
        PublishRefusedError: it has expired.
    """
    if root.is_expired(now):
        raise PublishRefusedError(
            f"the trust root has expired on {root.expires:%Y-%m-%d}; no host accepts the repository any more",
            hint="with the root keys at hand: kmend-factory keys renew --keys KEYS --repository REPOSITORY",
        )


def read(path: Path, kind: type[T]) -> Metadata[T]:
    """One metadata file; not verified yet.

    Raises:
        SigningError: it is not metadata of that kind.
    """
    try:
        metadata = Metadata[T].from_bytes(durable.read_bounded(path, max_bytes=MAX_METADATA_BYTES))
    except (RepositoryError, ValueError, SystemProblemError) as problem:
        raise SigningError(
            f"{path} cannot be read: {problem}", hint="the repository is damaged; restore it from a mirror or a backup"
        ) from None
    if not isinstance(metadata.signed, kind):
        raise SigningError(f"{path} is {metadata.signed.type} metadata, not {kind.type}")
    return metadata


def verify(delegator: Root | Targets, role: str, metadata: Metadata[T]) -> None:
    """Hold metadata against the keys of the role that delegates to it.

    Raises:
        SigningError: too few of them have signed it.
    """
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as problem:
        raise SigningError(
            f"the repository's {role} metadata is not signed by the keys of this trust root: {problem}",
            hint="use the key folder that belongs to this repository; if it does, somebody changed the repository",
        ) from None


def _verify_online(roots: list[Metadata[Root]], role: str, metadata: Metadata[T]) -> None:
    """As `verify`; what the root before let sign counts too, since new online keys sign only after their root is there."""
    try:
        verify(roots[-1].signed, role, metadata)
    except SigningError:
        if len(roots) < 2:
            raise
        verify(roots[-2].signed, role, metadata)
