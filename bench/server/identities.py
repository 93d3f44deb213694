"""The hosts of the benchmark: each has an ID and a key that follow from its number, so that no file of keys is carried about."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kmend.core.cache import cache_root
from kmend.core.durable import write_durably

KEY_BYTES = 32
BOOT_ID = "00000000-0000-4000-8000-000000000001"


def _seed(number: int) -> bytes:
    return hashlib.sha256(b"kmend benchmark host %d" % number).digest()


def host_id(number: int) -> str:
    """The ID of host `number`."""
    return _seed(number).hex()[:32]


def private_key(number: int) -> Ed25519PrivateKey:
    """Its key."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"key" + _seed(number)).digest())


def public_keys(count: int) -> list[str]:
    """The public keys of hosts 0 to `count` - 1, in hexadecimal; kept in the cache, since making 300,000 takes half a minute."""
    path = cache_root() / "bench" / "host-keys.bin"
    known = path.read_bytes() if path.exists() else b""
    if len(known) < count * KEY_BYTES:
        first = len(known) // KEY_BYTES
        more = [
            private_key(number).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            for number in range(first, count)
        ]
        known += b"".join(more)
        Path(path.parent).mkdir(parents=True, exist_ok=True)
        write_durably(path, known)
    return [known[place : place + KEY_BYTES].hex() for place in range(0, count * KEY_BYTES, KEY_BYTES)]
