"""What only the publisher does to a repository's metadata: lay it out, change its bins, write recalls."""

from __future__ import annotations

import datetime
from pathlib import Path

from tuf.api.metadata import (
    Delegations,
    Metadata,
    MetaFile,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)

from kmend.core import durable
from kmend.core.document import plain
from kmend.core.recall import Recalls
from kmend.trust import layout
from kmend.trust.current import Tree, check_root, load_root
from kmend.trust.online import write
from kmend.trust.recalls import META_NAME, ROLE, delegator, read_recalls
from kmend.trust.recalls import SIGNED_FIELD as RECALLS_FIELD
from kmend.trust.signing import roots
from kmend.trust.signing.keyfiles import KeyFolder
from kmend.trust.signingerrors import SigningError

TARGETS_DAYS = 365
RECALL_DAYS = 36_500
"""A recall stands until it is withdrawn; TUF metadata must name an expiry."""
RENEW_DAYS = 60
"""Offline-signed metadata with less than this left is signed again when the offline keys are at hand anyway."""


def create(repository: Path, keys: KeyFolder, now: datetime.datetime) -> Tree:
    """Lay out an empty repository with all its bins, signed by the targets keys; not valid before `online.commit`."""
    folder = repository / layout.METADATA
    durable.make_folder(folder)
    roots.lay_out(keys, repository)
    root = load_root(repository, keys.root())
    check_root(root.signed, now)
    role = root.signed.roles["targets"]
    signers = keys.signers("targets", role.keyids, role.threshold)
    bins = SuccinctRoles(list(role.keyids), role.threshold, keys.plan().bin_bits, layout.BIN_PREFIX)
    expires = now + datetime.timedelta(days=TARGETS_DAYS)
    public = {keyid: root.signed.keys[keyid] for keyid in role.keyids}
    targets = Metadata(Targets(expires=expires, delegations=Delegations(public, succinct_roles=bins)))
    snapshot = Metadata(Snapshot(version=1, expires=expires, meta={}))
    tree = Tree(folder, root, targets, snapshot, Metadata(Timestamp(version=1, expires=expires)))
    snapshot.signed.meta["targets.json"] = write(tree, "targets", targets, signers)
    for name in bins.get_roles():
        empty = Metadata(Targets(expires=expires))
        snapshot.signed.meta[f"{name}.json"] = write(tree, name, empty, signers)
    # `online.commit` raises these by one.
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
        meta["targets.json"] = write(tree, "targets", tree.targets, signers)
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
        meta[f"{name}.json"] = write(tree, name, metadata, signers)


def write_recalls(tree: Tree, recalls: Recalls, keys: KeyFolder, now: datetime.datetime) -> None:
    """Write the next version of the recalls, signed by the recall key; `online.commit` makes it the current one.

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
