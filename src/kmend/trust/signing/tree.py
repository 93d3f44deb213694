"""A repository's metadata on disk, as the publisher sees it: the verified current state, and the next one.

Everything is written before `timestamp.json`, under names that carry a version, so a publisher killed at any point leaves
the old state valid; what it left behind is overwritten by the next publish, since nobody refers to it.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)

from kmend.core import durable
from kmend.core.document import plain
from kmend.core.errors import SystemProblemError
from kmend.core.recall import Recalls
from kmend.trust import layout
from kmend.trust.client import SIGNED_FIELD
from kmend.trust.freshness import MAX_METADATA_BYTES
from kmend.trust.recalls import MAX_RECALL_BYTES, META_NAME, ROLE, delegator, read_recalls, stated_version
from kmend.trust.recalls import SIGNED_FIELD as RECALLS_FIELD
from kmend.trust.signing.errors import PublishRefusedError, SigningError
from kmend.trust.signing.keyfiles import KeyFolder

T = TypeVar("T", Root, Timestamp, Snapshot, Targets)

TARGETS_DAYS = 365
SNAPSHOT_DAYS = 30
TIMESTAMP_DAYS = 7
RECALL_DAYS = 36_500
"""A recall stands until it is withdrawn; TUF metadata must name an expiry."""
RENEW_DAYS = 60
"""Offline-signed metadata with less than this left is signed again when the offline keys are at hand anyway."""


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
        metadata = _read(self.folder / f"{version}.{name}.json", Targets)
        _verify(self.targets.signed, name, metadata)
        return metadata

    def target(self, path: str) -> TargetFile | None:
        """What is signed of one target; None if it does not exist."""
        return self.bin(self.bins.get_role_for_target(path)).signed.targets.get(path)

    def build_ids(self) -> tuple[str, ...]:
        """Every kernel build that has levels, sorted."""
        paths = (path for name in self.bins.get_roles() for path in self.bin(name).signed.targets)
        return tuple(sorted(path.split("/")[1] for path in paths))


def load(repository: Path, keys: KeyFolder) -> Tree | None:
    """Read and verify the metadata of an existing repository; None if there is none yet.

    Raises:
        SigningError: it is not signed by the keys that our trust root names; it is not extended then.
    """
    folder = repository / layout.METADATA
    if not (folder / "timestamp.json").exists():
        return None
    root = load_root(repository, keys)
    timestamp = _read(folder / "timestamp.json", Timestamp)
    _verify(root.signed, "timestamp", timestamp)
    snapshot = _read(folder / f"{timestamp.signed.snapshot_meta.version}.snapshot.json", Snapshot)
    _verify(root.signed, "snapshot", snapshot)
    targets = _read(folder / f"{snapshot.signed.meta['targets.json'].version}.targets.json", Targets)
    _verify(root.signed, "targets", targets)
    return Tree(folder, root, targets, snapshot, timestamp)


def load_root(repository: Path, keys: KeyFolder) -> Metadata[Root]:
    """The newest root, followed version by version from the one in the key folder."""
    try:
        root = Metadata[Root].from_bytes(keys.root())
        root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    except (RepositoryError, ValueError) as problem:
        raise SigningError(f"{keys.folder / 'root.json'} is not a valid trust root: {problem}") from None
    while (path := repository / layout.METADATA / f"{root.signed.version + 1}.root.json").exists():
        following = _read(path, Root)
        _verify(root.signed, "root", following)
        _verify(following.signed, "root", following)
        root = following
    return root


def create(repository: Path, keys: KeyFolder, now: datetime.datetime) -> Tree:
    """Lay out an empty repository with all its bins, signed by the targets keys; not valid before `commit`."""
    folder = repository / layout.METADATA
    durable.make_folder(folder)
    root = load_root(repository, keys)
    check_root(root.signed, now)
    durable.write_durably(folder / "1.root.json", keys.root())
    role = root.signed.roles["targets"]
    signers = keys.signers("targets", role.keyids, role.threshold)
    bins = SuccinctRoles(list(role.keyids), role.threshold, keys.plan().bin_bits, layout.BIN_PREFIX)
    expires = now + datetime.timedelta(days=TARGETS_DAYS)
    public = {keyid: root.signed.keys[keyid] for keyid in role.keyids}
    targets = Metadata(Targets(expires=expires, delegations=Delegations(public, succinct_roles=bins)))
    snapshot = Metadata(Snapshot(version=1, expires=expires, meta={}))
    tree = Tree(folder, root, targets, snapshot, Metadata(Timestamp(version=1, expires=expires)))
    snapshot.signed.meta["targets.json"] = _write(tree, "targets", targets, signers)
    for name in bins.get_roles():
        empty = Metadata(Targets(expires=expires))
        snapshot.signed.meta[f"{name}.json"] = _write(tree, name, empty, signers)
    # `commit` raises these by one.
    snapshot.signed.version = tree.timestamp.signed.version = 0
    return tree


def replace_bins(tree: Tree, changes: dict[str, TargetFile], keys: KeyFolder, now: datetime.datetime) -> None:
    """Write new versions of the bins that hold `changes` (by target path), and of what soon expires.

    Raises:
        SigningError: too few targets keys are at hand.
    """
    role = tree.root.signed.roles["targets"]
    signers = keys.signers("targets", role.keyids, role.threshold)
    expires = now + datetime.timedelta(days=TARGETS_DAYS)
    soon = now + datetime.timedelta(days=RENEW_DAYS)
    meta = tree.snapshot.signed.meta
    if tree.targets.signed.expires < soon:
        tree.targets.signed.version += 1
        tree.targets.signed.expires = expires
        meta["targets.json"] = _write(tree, "targets", tree.targets, signers)
    by_bin: dict[str, dict[str, TargetFile]] = {}
    for path, target in changes.items():
        by_bin.setdefault(tree.bins.get_role_for_target(path), {})[path] = target
    for name in tree.bins.get_roles():
        metadata = tree.bin(name)
        if name not in by_bin and metadata.signed.expires >= soon:
            continue
        metadata.signed.targets.update(by_bin.get(name, {}))
        metadata.signed.version += 1
        metadata.signed.expires = expires
        meta[f"{name}.json"] = _write(tree, name, metadata, signers)


def recalls(tree: Tree) -> Recalls:
    """The recalls that stand, verified."""
    version = stated_version(tree.snapshot.signed)
    if version == 0:
        return Recalls()
    content = durable.read_bounded(tree.folder / f"{version}.{ROLE}.json", max_bytes=MAX_RECALL_BYTES)
    return read_recalls(content, tree.root.signed, version)


def write_recalls(tree: Tree, recalls: Recalls, keys: KeyFolder, now: datetime.datetime) -> None:
    """Write the next version of the recalls, signed by the recall key; `commit` makes it the current one.

    Raises:
        SigningError: the trust root names nobody who may recall, or that key is not at hand.
    """
    signers = delegator(tree.root.signed)
    if signers is None or signers.delegations is None or signers.delegations.roles is None:
        raise SigningError(
            "the trust root names nobody who may recall",
            hint="with the root keys at hand: kmend-factory keys renew --keys KEYS --repository REPOSITORY",
        )
    role = signers.delegations.roles[ROLE]
    body = Targets(version=recalls.version, expires=now + datetime.timedelta(days=RECALL_DAYS))
    body.unrecognized_fields[RECALLS_FIELD] = plain(recalls)
    metadata = Metadata(body)
    for signer in keys.signers(ROLE, role.keyids, role.threshold):
        metadata.sign(signer, append=True)
    content = metadata.to_bytes()
    read_recalls(content, tree.root.signed, recalls.version)
    durable.write_durably(tree.folder / f"{recalls.version}.{ROLE}.json", content)
    tree.snapshot.signed.meta[META_NAME] = MetaFile(recalls.version, length=len(content))


def commit(tree: Tree, keys: KeyFolder, now: datetime.datetime) -> None:
    """Sign snapshot and timestamp and make the new state the current one.

    Raises:
        SigningError: an online key is missing.
    """
    root = tree.root.signed
    snapshot, timestamp = tree.snapshot.signed, tree.timestamp.signed
    snapshot.version += 1
    snapshot.expires = now + datetime.timedelta(days=SNAPSHOT_DAYS)
    snapshot_signers = keys.signers("snapshot", root.roles["snapshot"].keyids, root.roles["snapshot"].threshold)
    timestamp_signers = keys.signers("timestamp", root.roles["timestamp"].keyids, root.roles["timestamp"].threshold)
    _write(tree, "snapshot", tree.snapshot, snapshot_signers)
    content = durable.read_bounded(tree.folder / f"{snapshot.version}.snapshot.json", max_bytes=MAX_METADATA_BYTES)
    timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, content, ["sha256"])
    timestamp.version += 1
    timestamp.expires = now + datetime.timedelta(days=TIMESTAMP_DAYS)
    timestamp.unrecognized_fields[SIGNED_FIELD] = int(now.timestamp())
    tree.timestamp.signatures.clear()
    for signer in timestamp_signers:
        tree.timestamp.sign(signer, append=True)
    _verify(root, "timestamp", tree.timestamp)
    durable.write_durably(tree.folder / "timestamp.json", tree.timestamp.to_bytes())


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


def _read(path: Path, kind: type[T]) -> Metadata[T]:
    try:
        metadata = Metadata[T].from_bytes(durable.read_bounded(path, max_bytes=MAX_METADATA_BYTES))
    except (RepositoryError, ValueError, SystemProblemError) as problem:
        raise SigningError(
            f"{path} cannot be read: {problem}", hint="the repository is damaged; restore it from a mirror or a backup"
        ) from None
    if not isinstance(metadata.signed, kind):
        raise SigningError(f"{path} is {metadata.signed.type} metadata, not {kind.type}")
    return metadata


def _verify(delegator: Root | Targets, role: str, metadata: Metadata[T]) -> None:
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as problem:
        raise SigningError(
            f"the repository's {role} metadata is not signed by the keys of this trust root: {problem}",
            hint="use the key folder that belongs to this repository; if it does, somebody changed the repository",
        ) from None


def _write(tree: Tree, role: str, metadata: Metadata[T], signers: tuple[CryptoSigner, ...]) -> MetaFile:
    """Sign and write one versioned metadata file; returns what the snapshot says of it."""
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)
    delegator: Root | Targets = tree.root.signed if role in ("targets", "snapshot") else tree.targets.signed
    _verify(delegator, role, metadata)
    content = metadata.to_bytes()
    durable.write_durably(tree.folder / f"{metadata.signed.version}.{role}.json", content)
    return MetaFile(metadata.signed.version, length=len(content))
