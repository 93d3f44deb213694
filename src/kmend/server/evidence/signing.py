"""Who signs a pack: the server that makes it, and people who have looked at it, with keys that are not on the server.

The server's key proves only which server it comes from. What makes a pack worth something to who does not trust the server are
the hosts' own signatures, the repository's, and a person's over the whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from tuf.api.metadata import Metadata, Root

from kmend.core import durable
from kmend.core.cache import locked
from kmend.core.document import encode
from kmend.core.errors import MalformedError
from kmend.core.manifest import sha256_hex
from kmend.core.wire import check_public_key
from kmend.server.evidence.documents import Signature
from kmend.server.evidence.errors import EvidenceError
from kmend.server.hosts.signatures import signed_raw
from kmend.trust import keypem, recalls

SERVER, PERSON = "server", "person"
OFFLINE_ROLES = ("root", "targets")
MAX_NOTE = 300
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
Passphrase = Callable[[Path], bytes]


def signed_bytes(role: str, signature: Signature) -> bytes:
    """What is signed: all that the signature says, and in which role."""
    return f"kmend-evidence/1 {role}\n".encode() + encode(replace(signature, signature=""))


def make(role: str, manifest: bytes, key: Ed25519PrivateKey, *, name: str, note: str, at: int) -> Signature:
    """Sign the manifest of a pack.

    Raises:
        MalformedError: name or note are not one line each, of at most 300 characters.
    """
    for text in (name, note):
        if len(text) > MAX_NOTE or not text.isprintable():
            raise MalformedError(f"name and note are one line of at most {MAX_NOTE} characters each")
    bare = Signature(sha256_hex(manifest), public_of(key), name, note, at)
    return replace(bare, signature=key.sign(signed_bytes(role, bare)).hex())


def holds(role: str, manifest: bytes, signature: Signature) -> bool:
    """Whether it is over this manifest, and of the key that it names; whose key that is has to be known otherwise."""
    # One way to write a signature only: what is not signed itself must not be free to change either.
    fits = signature.manifest == sha256_hex(manifest) and _SIGNATURE.fullmatch(signature.signature) is not None
    return fits and signed_raw(signature.public_key, signature.signature, signed_bytes(role, signature))


def public_of(key: Ed25519PrivateKey) -> str:
    """The public half, hexadecimal."""
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()


def server_key(path: Path) -> Ed25519PrivateKey:
    """The key with which this server signs packs; made when it is first needed.

    Raises:
        EvidenceError: the file holds something else.
    """
    with locked(path.with_suffix(".lock")):
        if not path.exists():
            keypem.write_private(path, Ed25519PrivateKey.generate())
    return _ed25519(path, keypem.decrypt(path, keypem.read_private(path), b""))


def private_key(path: Path, passphrase: Passphrase) -> Ed25519PrivateKey:
    """A person's key, as kmend-factory makes them for root, targets and recalls; or any ed25519 key in PKCS#8.

    Raises:
        EvidenceError: it is of another kind.
        KeyFileError: it cannot be opened, or others can read it.
    """
    content = keypem.read_private(path)
    return _ed25519(path, keypem.decrypt(path, content, passphrase(path) if keypem.is_encrypted(content) else b""))


def public_key(path: Path) -> str:
    """A public key in a file: PEM, or 64 hexadecimal digits.

    Raises:
        EvidenceError: it is neither.
    """
    content = durable.read_bounded(path, max_bytes=keypem.MAX_KEY_BYTES)
    try:
        return check_public_key(content.decode("ascii").strip())
    except (UnicodeDecodeError, MalformedError):
        pass
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise EvidenceError(
            f"{path} is no public ed25519 key", hint="openssl pkey -in KEY.pem -pubout makes one from a private key"
        )
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()


def people_of(root: Metadata[Root]) -> dict[str, str]:
    """The keys that people keep offline, by the trust root: public key -> role."""
    found: dict[str, str] = {}
    signers = recalls.delegator(root.signed)
    if signers is not None and signers.delegations is not None:
        found |= {key.keyval["public"]: recalls.ROLE for key in signers.delegations.keys.values()}
    for role in OFFLINE_ROLES:
        found |= {root.signed.keys[keyid].keyval["public"]: role for keyid in root.signed.roles[role].keyids}
    return found


def _ed25519(path: Path, key: object) -> Ed25519PrivateKey:
    if not isinstance(key, Ed25519PrivateKey):
        raise EvidenceError(f"{path} is not an ed25519 key", hint="the keys that kmend-factory keys init makes are")
    return key
