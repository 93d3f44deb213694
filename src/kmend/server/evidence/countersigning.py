"""A person's signature, added to a pack that lies in a file: the rest of it stays as it is, byte for byte."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kmend.core.document import encode
from kmend.core.errors import SystemProblemError
from kmend.server.evidence import signing
from kmend.server.evidence.container import Writer
from kmend.server.evidence.documents import COUNTERSIGNATURES, Signature
from kmend.server.evidence.errors import EvidenceError
from kmend.server.evidence.reading import MAX_COUNTERSIGNATURES, Reader


def countersign(path: Path, key: Ed25519PrivateKey, *, name: str, note: str, at: int) -> Signature:
    """Sign a pack for a person.

    Raises:
        PackDamagedError: it is no pack.
        EvidenceError: this key has signed it already.
    """
    reader = Reader(path)
    manifest, _ = reader.manifest()
    there = reader.countersignatures()
    signature = signing.make(signing.PERSON, manifest, key, name=name, note=note, at=at)
    if signature.public_key in {item.public_key for item in there}:
        raise EvidenceError("this key has countersigned the pack already")
    if len(there) >= MAX_COUNTERSIGNATURES:
        raise EvidenceError(f"a pack has {MAX_COUNTERSIGNATURES} countersignatures at most")
    try:
        with path.open("r+b") as stream:
            # Behind the last member the end is overwritten by one member more, and an end again.
            stream.seek(reader.pack.end)
            tail: list[bytes] = []
            writer = Writer(tail.append)
            writer.add(f"{COUNTERSIGNATURES}/{signature.public_key}.json", encode(signature))
            writer.end()
            stream.write(b"".join(tail))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as problem:
        raise SystemProblemError(f"cannot write {path}: {problem.strerror}") from None
    return signature
