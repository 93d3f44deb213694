"""A person's signature, added to a pack that lies in a file: the rest of it stays as it is, byte for byte.

The pack with it is written beside the one without, and takes its place when it is on disk: a pack is never half signed.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kmend.core import durable
from kmend.core.document import encode
from kmend.core.errors import SystemProblemError
from kmend.server.evidence import signing
from kmend.server.evidence.container import Writer
from kmend.server.evidence.documents import COUNTERSIGNATURES, Signature
from kmend.server.evidence.errors import EvidenceError
from kmend.server.evidence.reading import MAX_COUNTERSIGNATURES, Reader, check_files


def countersign(path: Path, key: Ed25519PrivateKey, *, name: str, note: str, at: int) -> Signature:
    """Sign a pack for a person.

    Raises:
        PackDamagedError: it is no pack.
        EvidenceError: its files are not those that its manifest lists, or this key has signed it already.
        SystemProblemError: it cannot be written; then it is as it was.
    """
    reader = Reader(path)
    manifest, _ = reader.manifest()
    check_files(reader)
    there = reader.countersignatures()
    signature = signing.make(signing.PERSON, manifest, key, name=name, note=note, at=at)
    if signature.public_key in {item.public_key for item in there}:
        raise EvidenceError("this key has countersigned the pack already")
    if len(there) >= MAX_COUNTERSIGNATURES:
        raise EvidenceError(f"a pack has {MAX_COUNTERSIGNATURES} countersignatures at most")
    unfinished = path.with_name(f"{path.name}.part")
    try:
        shutil.copy(path, unfinished)
        with unfinished.open("r+b") as stream:
            # Behind the last member the end is overwritten by one member more, and an end again.
            stream.seek(reader.pack.end)
            writer = Writer(stream.write)
            writer.add(f"{COUNTERSIGNATURES}/{signature.public_key}.json", encode(signature))
            writer.end()
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(path)
        durable.sync_folder(path.parent)
    except OSError as problem:
        raise SystemProblemError(f"cannot write {path}: {problem.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return signature
