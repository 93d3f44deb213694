"""A folder of keys: who may sign what, and the private halves, in files only their owner can read.

root.json            the first trust root, signed; hosts get it at install
roots/2.root.json    later ones, as far as they were made with this folder
repository.json      how the repository is to be laid out
offline/root-1.pem   ed25519, PKCS#8, optionally encrypted; kept by people, away from machines
offline/targets-1.pem
offline/recall-1.pem signs recalls, and nothing else; kept apart from the server too
online/snapshot.pem  ed25519; on the machine that refreshes the repository
online/timestamp.pem
module/module.pem    RSA, signs modules for the kernel; module.x509 is its certificate in DER, to be enrolled on hosts
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import Certificate
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Role, Root

from kmend.core import durable
from kmend.core.document import decode, encode
from kmend.core.errors import MalformedError
from kmend.trust import keypem, online, recalls
from kmend.trust.keypem import MAX_KEY_BYTES
from kmend.trust.layout import DEFAULT_BIN_BITS
from kmend.trust.signing import modules
from kmend.trust.signingerrors import KeyFileError

ROOT_DAYS = 365
OFFLINE_ROLES = ("root", "targets")
ONLINE_ROLES = online.ROLES
RECALL_FILE = "recall-1.pem"
Passphrase = Callable[[Path], bytes]
"""Asked for the passphrase of an encrypted key file."""


_PLAN_HINT = "see 'kmend-factory keys init --help' for what goes with what"


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """What keys to make.

    Attributes:
        bin_bits: the repository spreads kernel builds over 2 to that power bins.
        common_name: subject of the module certificate.
        module_key_bits: RSA modulus; 4096 as distributions use.
    """

    root_keys: int = 1
    root_threshold: int = 1
    targets_keys: int = 1
    targets_threshold: int = 1
    bin_bits: int = DEFAULT_BIN_BITS
    common_name: str = "kmend module signing key"
    module_key_bits: int = 4096

    def __post_init__(self) -> None:
        if not 1 <= self.root_threshold <= self.root_keys <= 16:
            raise MalformedError(
                "the root threshold must be 1 to the number of root keys, at most 16",
                hint=_PLAN_HINT,
            )
        if not 1 <= self.targets_threshold <= self.targets_keys <= 16:
            raise MalformedError(
                "the targets threshold must be 1 to the number of targets keys, at most 16",
                hint=_PLAN_HINT,
            )
        if not 1 <= self.bin_bits <= 14:
            raise MalformedError(
                "the bins' bit length must be 1 to 14",
                hint=_PLAN_HINT,
            )
        if not 1 <= len(self.common_name) <= 64:
            raise MalformedError("the module certificate's name must have 1 to 64 characters", hint=_PLAN_HINT)


@dataclass(frozen=True, slots=True)
class RepositoryPlan:
    """`repository.json`: how to lay out a repository that does not exist yet."""

    bin_bits: int
    format: str = "kmend-repository/1"


@dataclass(frozen=True, slots=True)
class ModuleKey:
    """What signs modules for the kernel."""

    key: rsa.RSAPrivateKey
    certificate: Certificate


def create(folder: Path, plan: KeyPlan, *, now: datetime.datetime, passphrase: bytes = b"") -> None:
    """Make all keys and the first trust root.

    Args:
        folder: must not hold keys yet.
        passphrase: encrypts the offline keys, if not empty.

    Raises:
        KeyFileError: there are keys already; they are never overwritten.
        SystemProblemError: a file cannot be written.
    """
    if any((folder / name).exists() for name in ("root.json", "offline", "online", "module")):
        raise KeyFileError(f"{folder} already holds keys", hint="choose another folder; keys are never overwritten")
    for part in ("", "offline", "online", "module"):
        durable.make_folder(folder / part, mode=0o700)
    root = Root(
        expires=now + datetime.timedelta(days=ROOT_DAYS),
        roles={name: Role([], 1) for name in OFFLINE_ROLES + ONLINE_ROLES},
        consistent_snapshot=True,
    )
    root.roles["root"].threshold = plan.root_threshold
    root.roles["targets"].threshold = plan.targets_threshold
    root_signers = []
    for role, count in (("root", plan.root_keys), ("targets", plan.targets_keys)):
        for number in range(1, count + 1):
            signer = keypem.make_signer(folder / "offline" / f"{role}-{number}.pem", passphrase)
            root.add_key(signer.public_key, role)
            if role == "root":
                root_signers.append(signer)
    for role in ONLINE_ROLES:
        root.add_key(keypem.make_signer(folder / "online" / f"{role}.pem").public_key, role)
    name_recall_key(root, keypem.make_signer(folder / "offline" / RECALL_FILE, passphrase))
    key, certificate = modules.make_key(plan.common_name, bits=plan.module_key_bits, now=now)
    keypem.write_private(folder / "module" / "module.pem", key)
    durable.write_durably(
        folder / "module" / "module.x509", certificate.public_bytes(serialization.Encoding.DER), mode=0o644
    )
    metadata = Metadata(root)
    for signer in root_signers:
        metadata.sign(signer, append=True)
    durable.write_durably(folder / "repository.json", encode(RepositoryPlan(plan.bin_bits)) + b"\n")
    # Last, so that a folder with root.json is a complete one.
    durable.write_durably(folder / "root.json", metadata.to_bytes())


class KeyFolder:
    """An existing folder of keys; opens only the keys that are asked for.

    Args:
        passphrase: asked for the passphrase of an encrypted file.
    """

    def __init__(self, folder: Path, passphrase: Passphrase) -> None:
        self.folder = folder
        self._passphrase = passphrase
        self._known: dict[bytes, bytes] = {}

    def root(self) -> bytes:
        """The first trust root, as hosts have it.

        Raises:
            KeyFileError: missing.
        """
        path = self.folder / "root.json"
        if not path.exists():
            raise KeyFileError(f"{path} does not exist", hint=f"make keys first: kmend-factory keys init {self.folder}")
        return durable.read_bounded(path, max_bytes=512_000)

    def plan(self) -> RepositoryPlan:
        """How a new repository is to be laid out."""
        return decode(RepositoryPlan, durable.read_bounded(self.folder / "repository.json", max_bytes=MAX_KEY_BYTES))

    def signers(self, role: str, keyids: Sequence[str], threshold: int) -> tuple[CryptoSigner, ...]:
        """The signers at hand for a role.

        Args:
            keyids: the keys that the signed metadata grants the role to.
            threshold: how many of them must sign.

        Raises:
            KeyFileError: fewer than `threshold` of them are in the folder.
        """
        sub = "offline" if role in (*OFFLINE_ROLES, recalls.ROLE) else "online"
        found = [self._load(path) for path in sorted((self.folder / sub).glob(f"{role}*.pem"))]
        usable = tuple(signer for signer in found if signer.public_key.keyid in keyids)
        if len(usable) < threshold:
            raise KeyFileError(
                f"{len(usable)} usable {role} keys are in {self.folder / sub}; {threshold} must sign",
                hint="bring the other key files into the folder; keys that the trust root does not name do not count",
            )
        return usable

    def signer(self, path: Path) -> CryptoSigner:
        """The signer of one key file."""
        return self._load(path)

    def module_key(self) -> ModuleKey | None:
        """What signs modules for the kernel; None if the folder has no such key (operators then sign themselves)."""
        path = self.folder / "module" / "module.pem"
        return load_module_key(path, path.with_suffix(".x509"), self._passphrase) if path.exists() else None

    def _load(self, path: Path) -> CryptoSigner:
        content = keypem.read_private(path)
        if content not in self._known:
            self._known[content] = self._passphrase(path) if keypem.is_encrypted(content) else b""
        return keypem.signer(path, content, self._known[content])


def load_module_key(key_path: Path, certificate_path: Path, passphrase: Passphrase) -> ModuleKey:
    """Read a module signing key and its certificate (DER or PEM).

    Raises:
        KeyFileError: unreadable, not RSA, or the two do not belong together.
    """
    content = keypem.read_private(key_path)
    key = keypem.decrypt(key_path, content, passphrase(key_path) if keypem.is_encrypted(content) else b"")
    if not isinstance(key, rsa.RSAPrivateKey):
        raise KeyFileError(f"{key_path} is not an RSA key; kernels accept module signatures made with RSA")
    try:
        certificate = modules.read_certificate(durable.read_bounded(certificate_path, max_bytes=MAX_KEY_BYTES))
    except ValueError:
        raise KeyFileError(f"{certificate_path} is not an X.509 certificate") from None
    if certificate.public_key() != key.public_key():
        raise KeyFileError(f"{certificate_path} is not the certificate of {key_path}")
    return ModuleKey(key, certificate)


def name_recall_key(root: Root, signer: CryptoSigner) -> None:
    """Say in the trust root who may sign recalls."""
    key = signer.public_key
    root.unrecognized_fields[recalls.ROOT_FIELD] = {
        "keys": {key.keyid: key.to_dict()},
        "keyids": [key.keyid],
        "threshold": 1,
    }


def renew_root(metadata: Metadata[Root], keys: KeyFolder, *, now: datetime.datetime) -> bytes:
    """The next version of a trust root with the same keys and a later expiry.

    Raises:
        KeyFileError: too few root keys are at hand.
    """
    signers = root_signers(metadata, keys)
    if recalls.ROOT_FIELD not in metadata.signed.unrecognized_fields:
        # A repository from before there were recalls.
        path = keys.folder / "offline" / RECALL_FILE
        name_recall_key(metadata.signed, keys.signer(path) if path.exists() else keypem.make_signer(path))
    return next_root(metadata, signers, now=now)


def root_signers(metadata: Metadata[Root], keys: KeyFolder) -> tuple[CryptoSigner, ...]:
    """The root keys at hand.

    Raises:
        KeyFileError: too few.
    """
    role = metadata.signed.roles["root"]
    return keys.signers("root", role.keyids, role.threshold)


def next_root(metadata: Metadata[Root], signers: Sequence[CryptoSigner], *, now: datetime.datetime) -> bytes:
    """`metadata`, changed as it may be, as the next version of the trust root."""
    metadata.signed.version += 1
    metadata.signed.expires = now + datetime.timedelta(days=ROOT_DAYS)
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)
    try:
        metadata.signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
    except RepositoryError as problem:
        raise KeyFileError(f"the next trust root would not be valid: {problem}") from None
    return metadata.to_bytes()
