"""Secrets that the server makes: shown once, kept as digests. 256 random bits need no slow hash, and no salt."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets

_FORM = re.compile(r"kmend_[a-z]{3,12}_[a-z2-7]{52}")


def make(kind: str) -> str:
    """A new secret: `kmend_<kind>_<52 letters and digits>`, so that scanners for leaked secrets know it by its beginning."""
    random = base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=").lower()
    return f"kmend_{kind}_{random}"


def digest(secret: str) -> str:
    """What is kept of it: its SHA-256 in hexadecimal. Looking it up by this takes no time that depends on the secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def well_formed(secret: str, kind: str) -> bool:
    """Whether it could be one of that kind."""
    return _FORM.fullmatch(secret) is not None and secret.startswith(f"kmend_{kind}_")
