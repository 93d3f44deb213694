"""What the online keys can do: sign a repository's snapshot and timestamp, so that hosts see that nothing is held back.

They cannot add a level, change one, or recall one. The publisher ends every publication with it; the server refreshes daily,
and it is the only signing that it may import. Needs `cryptography`: not for hosts.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ed25519
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Key, Metadata, MetaFile, Root, Targets

from kmend.core import durable
from kmend.core.cache import locked
from kmend.core.document import decode, encode
from kmend.core.errors import MalformedError
from kmend.trust import keypem
from kmend.trust.client import SIGNED_FIELD
from kmend.trust.current import T, Tree, check_root, load, verify
from kmend.trust.freshness import MAX_METADATA_BYTES
from kmend.trust.signingerrors import KeyFileError, NoRepositoryError

ROLES = ("snapshot", "timestamp")
SNAPSHOT_DAYS = 30
TIMESTAMP_DAYS = 7
MAX_REQUEST_BYTES = 64 * 1024


class Signers(Protocol):
    """Where the signers of a role come from."""

    def signers(self, role: str, keyids: Sequence[str], threshold: int) -> tuple[CryptoSigner, ...]:
        """At least `threshold` signers of a role among those that `keyids` name."""


class OnlineKeys:
    """The online keys in a folder: `snapshot*.pem` and `timestamp*.pem`, ed25519, not encrypted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def signers(self, role: str, keyids: Sequence[str], threshold: int) -> tuple[CryptoSigner, ...]:
        """The signers at hand for a role.

        Raises:
            KeyFileError: fewer than `threshold` of those that the trust root names are in the folder.
        """
        found = [keypem.signer(path, keypem.read_private(path), b"") for path in self._files(role)]
        usable = tuple(signer for signer in found if signer.public_key.keyid in keyids)
        if len(usable) < threshold:
            raise KeyFileError(
                f"{len(usable)} usable {role} keys are in {self.folder}; {threshold} must sign",
                hint="the trust root does not name this machine's keys yet: kmend-factory keys admit, "
                "then kmend-server repository adopt",
            )
        return usable

    def public(self) -> Mapping[str, Key]:
        """The public half of the first key of each role.

        Raises:
            KeyFileError: one is missing.
        """
        found = {}
        for role in ROLES:
            files = self._files(role)
            if not files:
                raise KeyFileError(f"there is no {role} key in {self.folder}")
            found[role] = keypem.signer(files[0], keypem.read_private(files[0]), b"").public_key
        return found

    def _files(self, role: str) -> list[Path]:
        if role not in ROLES:
            raise KeyFileError(f"{role} is not signed by online keys")
        return sorted(self.folder.glob(f"{role}*.pem"))


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """Asks whoever holds the root keys to name a machine's online keys in the trust root (`kmend-factory keys admit`).

    Attributes:
        machine: whose keys they are, for people.
        snapshot: public key, ed25519, hexadecimal.
        timestamp: public key, ed25519, hexadecimal.
    """

    machine: str
    snapshot: str
    timestamp: str
    format: str = "kmend-online-keys/1"

    def __post_init__(self) -> None:
        if self.format != "kmend-online-keys/1":
            raise MalformedError(f"{self.format[:40]!r} is not a request for online keys")
        if len(self.machine) > 255 or not self.machine.isprintable():
            raise MalformedError("the machine's name is not one line of text")
        for text in (self.snapshot, self.timestamp):
            if len(text) != 64 or set(text) - set("0123456789abcdef"):
                raise MalformedError("a key is not an ed25519 public key in hexadecimal")

    def keys(self) -> Mapping[str, Key]:
        """Role -> key, as the trust root is to name it."""
        return {"snapshot": _key(self.snapshot), "timestamp": _key(self.timestamp)}


def make(folder: Path) -> None:
    """Make what online keys are missing in `folder`; none is ever overwritten."""
    durable.make_folder(folder, mode=0o700)
    for role in ROLES:
        if not any(folder.glob(f"{role}*.pem")):
            keypem.make_signer(folder / f"{role}.pem")


def request(keys: OnlineKeys, machine: str) -> bytes:
    """The request that names the keys in a folder."""
    public = keys.public()
    return encode(KeyRequest(machine, *(public[role].keyval["public"] for role in ROLES))) + b"\n"


def read_request(content: bytes) -> KeyRequest:
    """Read such a request.

    Raises:
        MalformedError: it is none.
    """
    return decode(KeyRequest, content, max_bytes=MAX_REQUEST_BYTES)


def names(root: Root, keys: OnlineKeys) -> bool:
    """Whether a trust root lets these keys sign."""
    return all(key.keyid in root.roles[role].keyids for role, key in keys.public().items())


def refresh(repository: Path, trusted: bytes, keys: Signers, *, now: datetime.datetime) -> Tree:
    """Sign snapshot and timestamp again with the online keys alone.

    Args:
        repository: its folder.
        trusted: the trust root that it is verified from.
        now: the time to sign with.

    Returns:
        The state that is current now.

    Raises:
        SigningError: there is none, it is not validly signed, or a key is missing.
    """
    if repository.is_dir():
        with locked(repository / ".lock"):
            tree = load(repository, trusted)
            if tree is not None:
                check_root(tree.root.signed, now)
                commit(tree, keys, now)
                return tree
    raise NoRepositoryError(f"there is no repository at {repository}", hint="publish a level first")


def commit(tree: Tree, keys: Signers, now: datetime.datetime) -> None:
    """Sign snapshot and timestamp and make the new state the current one; its caller holds the repository's lock.

    Raises:
        SigningError: an online key is missing.
    """
    root = tree.root.signed
    snapshot, timestamp = tree.snapshot.signed, tree.timestamp.signed
    snapshot.version += 1
    snapshot.expires = now + datetime.timedelta(days=SNAPSHOT_DAYS)
    snapshot_signers = keys.signers("snapshot", root.roles["snapshot"].keyids, root.roles["snapshot"].threshold)
    timestamp_signers = keys.signers("timestamp", root.roles["timestamp"].keyids, root.roles["timestamp"].threshold)
    write(tree, "snapshot", tree.snapshot, snapshot_signers)
    content = durable.read_bounded(tree.folder / f"{snapshot.version}.snapshot.json", max_bytes=MAX_METADATA_BYTES)
    timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, content, ["sha256"])
    timestamp.version += 1
    timestamp.expires = now + datetime.timedelta(days=TIMESTAMP_DAYS)
    timestamp.unrecognized_fields[SIGNED_FIELD] = int(now.timestamp())
    tree.timestamp.signatures.clear()
    for signer in timestamp_signers:
        tree.timestamp.sign(signer, append=True)
    verify(root, "timestamp", tree.timestamp)
    durable.write_durably(tree.folder / "timestamp.json", tree.timestamp.to_bytes())


def write(tree: Tree, role: str, metadata: Metadata[T], signers: Sequence[CryptoSigner]) -> MetaFile:
    """Sign and write one versioned metadata file; returns what the snapshot says of it."""
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)
    delegator: Root | Targets = tree.root.signed if role in ("targets", "snapshot") else tree.targets.signed
    verify(delegator, role, metadata)
    content = metadata.to_bytes()
    durable.write_durably(tree.folder / f"{metadata.signed.version}.{role}.json", content)
    return MetaFile(metadata.signed.version, length=len(content))


def _key(public: str) -> Key:
    return SSlibKey.from_crypto(ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)))
