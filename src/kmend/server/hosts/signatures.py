"""Verifying what hosts signed."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from kmend.core.wire import Purpose, signed_bytes


def signed(public_key: str, signature: str, purpose: Purpose, server: str, body: bytes) -> bool:
    """Whether the holder of a key has signed these bytes for this purpose and this server."""
    return signed_raw(public_key, signature, signed_bytes(purpose, server, body))


def signed_raw(public_key: str, signature: str, content: bytes) -> bool:
    """Whether the holder of a key (hexadecimal) has made this signature (hexadecimal) over these very bytes."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(signature), content)
    except (InvalidSignature, ValueError):
        return False
    return True
