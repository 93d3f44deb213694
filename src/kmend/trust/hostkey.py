"""The host's own key: ed25519 in pure Python (RFC 8032, section 5.1); a signature takes some milliseconds.

The arithmetic below takes time that depends on the key. Whoever could measure that on the host could read the key file there
as well, and over the network a check-in's time says nothing of a few milliseconds (docs/decisions/0025-host-key.md).
"""

from __future__ import annotations

import hashlib
import secrets

SEED_BYTES = 32
_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
Point = tuple[int, int, int, int]
"""X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z."""
_BASE_Y = 4 * pow(5, _P - 2, _P) % _P
_BASE_X = 15112221349535400772501151409588531511454012693041857206046113283949847762202
_NEUTRAL: Point = (0, 1, 1, 0)
_WINDOW = 4


def make_seed() -> bytes:
    """A new private key."""
    return secrets.token_bytes(SEED_BYTES)


def public_key(seed: bytes) -> str:
    """The public key of a private one, in hexadecimal."""
    scalar, _ = _expand(seed)
    return _compress(_multiply_base(scalar)).hex()


def sign(seed: bytes, content: bytes) -> str:
    """The signature of `content`, in hexadecimal."""
    scalar, prefix = _expand(seed)
    public = _compress(_multiply_base(scalar))
    nonce = int.from_bytes(hashlib.sha512(prefix + content).digest(), "little") % _ORDER
    commitment = _compress(_multiply_base(nonce))
    challenge = int.from_bytes(hashlib.sha512(commitment + public + content).digest(), "little") % _ORDER
    return (commitment + ((nonce + challenge * scalar) % _ORDER).to_bytes(32, "little")).hex()


def _expand(seed: bytes) -> tuple[int, bytes]:
    if len(seed) != SEED_BYTES:
        raise ValueError("a private key has 32 bytes")
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little")
    return scalar & ((1 << 254) - 8) | (1 << 254), digest[32:]


def _add(left: Point, right: Point) -> Point:
    a = (left[1] - left[0]) * (right[1] - right[0]) % _P
    b = (left[1] + left[0]) * (right[1] + right[0]) % _P
    c = 2 * left[3] * right[3] * _D % _P
    d = 2 * left[2] * right[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _multiply_base(scalar: int) -> Point:
    """The base point, `scalar` times: four bits at a time, from a table of sixteen multiples."""
    base: Point = (_BASE_X, _BASE_Y, 1, _BASE_X * _BASE_Y % _P)
    table = [_NEUTRAL]
    for _ in range((1 << _WINDOW) - 1):
        table.append(_add(table[-1], base))
    found = _NEUTRAL
    for shift in range(256 - _WINDOW, -1, -_WINDOW):
        for _ in range(_WINDOW):
            found = _add(found, found)
        found = _add(found, table[scalar >> shift & ((1 << _WINDOW) - 1)])
    return found


def _compress(point: Point) -> bytes:
    inverse = pow(point[2], _P - 2, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")
