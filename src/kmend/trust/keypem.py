"""Private keys in files that only their owner may read: PEM, PKCS#8, perhaps encrypted. Needs `cryptography`: not for hosts."""

from __future__ import annotations

import stat
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from securesystemslib.signer import CryptoSigner

from kmend.core import durable
from kmend.trust.signingerrors import KeyFileError

MAX_KEY_BYTES = 64 * 1024
PrivateKey = ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def read_private(path: Path) -> bytes:
    """The content of a private key's file.

    Raises:
        KeyFileError: others can read it too.
        SystemProblemError: it cannot be read.
    """
    content = durable.read_bounded(path, max_bytes=MAX_KEY_BYTES)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise KeyFileError(f"{path} can be read by others", hint=f"chmod 600 {path}, and think about who has read it")
    return content


def is_encrypted(content: bytes) -> bool:
    """Whether a passphrase is needed for it."""
    return b"ENCRYPTED" in content.split(b"\n", 1)[0]


def decrypt(path: Path, content: bytes, passphrase: bytes) -> object:
    """The key in `content`, which was read from `path`.

    Raises:
        KeyFileError: it is none, or the passphrase is wrong.
    """
    try:
        return serialization.load_pem_private_key(content, passphrase or None)
    except (ValueError, TypeError):
        reason = "the passphrase is wrong, or the file is damaged" if passphrase else "it is not a private key in PEM"
        raise KeyFileError(f"cannot open {path}: {reason}") from None


def signer(path: Path, content: bytes, passphrase: bytes) -> CryptoSigner:
    """What signs metadata with the ed25519 key in `content`.

    Raises:
        KeyFileError: it is no such key.
    """
    key = decrypt(path, content, passphrase)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise KeyFileError(f"{path} is not an ed25519 key")
    return CryptoSigner(key)


def make_signer(path: Path, passphrase: bytes = b"") -> CryptoSigner:
    """Make an ed25519 key, keep it in `path`, and give what signs with it."""
    key = ed25519.Ed25519PrivateKey.generate()
    write_private(path, key, passphrase)
    return CryptoSigner(key)


def write_private(path: Path, key: PrivateKey, passphrase: bytes = b"") -> None:
    """Keep a key in a file that only its owner can read; encrypted if there is a passphrase.

    Raises:
        SystemProblemError: it cannot be written.
    """
    encryption: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    content = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    durable.write_durably(path, content, mode=0o600)
