"""The documents of a pack, typed; whatever cannot be read is an error that names the file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from kmend.core.document import decode, encode
from kmend.core.errors import MalformedError
from kmend.server.access.audit import MAX_LINE
from kmend.server.evidence import documents
from kmend.server.evidence.container import MAX_MEMBER, Pack
from kmend.server.evidence.documents import (
    ABOUT,
    COUNTERSIGNATURES,
    MANIFEST,
    SIGNATURE,
    About,
    Meaning,
    PackManifest,
    Signature,
    State,
    Surroundings,
)
from kmend.server.evidence.errors import EvidenceError, PackDamagedError

T = TypeVar("T")
MAX_COUNTERSIGNATURES = 16


class Reader:
    """Reads a pack.

    Attributes:
        pack: its members.
    """

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            PackDamagedError: it is none, or not whole.
        """
        self.pack = Pack(path)

    def about(self) -> About:
        """What it is of."""
        return self.document(About, ABOUT)

    def manifest(self) -> tuple[bytes, PackManifest]:
        """The list of its files, as it is signed, and read."""
        return self.pack.read(MANIFEST), self.document(PackManifest, MANIFEST)

    def signature(self) -> Signature:
        """The server's."""
        return self._signature(SIGNATURE)

    def countersignatures(self) -> tuple[Signature, ...]:
        """People's."""
        names = self.pack.parts(COUNTERSIGNATURES)
        if len(names) > MAX_COUNTERSIGNATURES:
            raise PackDamagedError(f"there are more than {MAX_COUNTERSIGNATURES} countersignatures")
        found = tuple(self._signature(name) for name in names)
        for name, signature in zip(names, found, strict=True):
            if name != f"{COUNTERSIGNATURES}/{signature.public_key}.json":
                raise PackDamagedError(f"{name} holds the signature of another key")
        return found

    def _signature(self, name: str) -> Signature:
        """A signature, which no list of files covers: so its file must be the very one that is written of it."""
        found = self.document(Signature, name)
        if encode(found) != self.pack.read(name):
            raise PackDamagedError(f"{name} is not written as signatures are")
        return found

    def document(self, kind: type[T], name: str) -> T:
        """A file that is one document.

        Raises:
            PackDamagedError: it is missing, or not such a document.
        """
        try:
            return decode(kind, self.pack.read(name), max_bytes=MAX_MEMBER)
        except MalformedError as problem:
            raise PackDamagedError(f"{name} cannot be read: {problem.message}") from None

    def rows(self, kind: type[T], folder: str) -> Iterator[T]:
        """A list that is kept in parts, a document each line.

        Raises:
            PackDamagedError: a line is not such a document; the message names file and line.
        """
        for name in self.pack.parts(folder):
            for number, line in enumerate(self.pack.read(name).splitlines(), start=1):
                try:
                    yield decode(kind, line, max_bytes=MAX_LINE)
                except MalformedError as problem:
                    raise PackDamagedError(f"{name}, line {number}, cannot be read: {problem.message}") from None

    def states(self) -> dict[tuple[str, int], State]:
        """What is open in each state, as the pack says."""
        return {(item.build_id, item.level): item for item in self.rows(State, documents.STATES)}

    def surroundings(self) -> dict[str, Surroundings]:
        """What hosts' modules change, by the name of their surroundings."""
        return {item.id: item for item in self.rows(Surroundings, documents.SURROUNDINGS)}

    def meanings(self) -> dict[str, list[Meaning]]:
        """What each CVE means for each kernel build."""
        found: dict[str, list[Meaning]] = {}
        for item in self.rows(Meaning, documents.KERNELS):
            found.setdefault(item.build_id, []).append(item)
        return found


def check_files(reader: Reader) -> PackManifest:
    """The manifest, if every file is as it lists it, and no other is there.

    Raises:
        EvidenceError: that is not so; the message names the file.
    """
    _, manifest = reader.manifest()
    pack = reader.pack
    behind = {MANIFEST, SIGNATURE}
    there = [name for name in pack.names if name not in behind and not name.startswith(f"{COUNTERSIGNATURES}/")]
    listed = [entry.name for entry in manifest.files]
    if there != listed:
        odd = sorted(set(there) ^ set(listed))
        raise EvidenceError(f"the pack does not hold what its manifest lists: {', '.join(odd[:5]) or 'the order'}")
    if strange := [name for name in listed if name.partition("/")[0] not in documents.TOP]:
        raise EvidenceError(f"a pack of this form has no {strange[0]}, which nobody would look at")
    for entry in manifest.files:
        content = pack.read(entry.name)
        if (len(content), hashlib.sha256(content).hexdigest()) != (entry.size, entry.sha256):
            raise EvidenceError(f"{entry.name} was changed: it is not what the manifest lists")
    tail = [MANIFEST, SIGNATURE, *pack.parts(COUNTERSIGNATURES)]
    if list(pack.names[len(listed) :]) != tail:
        raise EvidenceError("the pack is not in its order")
    return manifest
