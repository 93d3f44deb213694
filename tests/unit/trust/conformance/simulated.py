"""A TUF repository in memory that a test can publish to, tamper with, and ask what was requested."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from securesystemslib.signer import CryptoSigner
from tests.unit.trust.conformance import client
from tests.unit.trust.loopback import Loopback, Request, reply
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

Role = Root | Timestamp | Snapshot | Targets
YEAR = datetime.timedelta(days=365)
TOP = ("root", "timestamp", "snapshot", "targets")
KEYS = [CryptoSigner.generate_ed25519() for _ in range(10)]
"""Ten keys for whoever needs some; making them takes longer than using them."""


class Simulated:
    """The repository.

    Attributes:
        roles: what the next publication holds, by name.
        signers: who signs it.
        files: what is served, by name.
        hashes: name metadata files with hash and length.
        asked: role and version (None if the name has none) of every request for metadata.
    """

    def __init__(self) -> None:
        expires = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) + YEAR
        self.root = Root(expires=expires, consistent_snapshot=True)
        self.timestamp = Timestamp(expires=expires)
        self.snapshot = Snapshot(expires=expires)
        self.targets = Targets(expires=expires)
        self.expires = expires
        self.roles: dict[str, Role] = {
            "root": self.root, "timestamp": self.timestamp, "snapshot": self.snapshot, "targets": self.targets
        }  # fmt: skip
        for unpublished in self.roles.values():
            unpublished.version = 0
        self.signers = {role: [KEYS[index]] for index, role in enumerate(TOP)}
        self.files: dict[str, bytes] = {}
        self.artifacts: dict[str, bytes] = {}
        self.asked: list[tuple[str, int | None]] = []
        self.hashes = False
        for index, role in enumerate(TOP):
            self.root.add_key(KEYS[index].public_key, role)
        self.publish_root()
        self.publish("targets")

    def sign(self, role: str) -> bytes:
        """The present state of a role, signed."""
        metadata: Metadata[Any] = Metadata(self.roles[role])
        for signer in self.signers[role]:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    def publish_root(self) -> bytes:
        """The next root."""
        self.root.version += 1
        content = self.files[f"{self.root.version}.root"] = self.sign("root")
        return content

    def publish(self, *roles: str, bump: bool = True) -> None:
        """The next version of targets roles (perhaps none), of the snapshot and of the timestamp."""
        for role in roles:
            self.roles[role].version += bump
            self.files[f"{self.roles[role].version}.{role}"] = content = self.sign(role)
            self.snapshot.meta[f"{role}.json"] = self._meta(self.roles[role].version, content)
        self.snapshot.version += bump
        self.publish_timestamp(bump=bump)

    def publish_timestamp(self, *, bump: bool = True) -> None:
        """The next timestamp, of the snapshot as it is."""
        self.files[f"{self.snapshot.version}.snapshot"] = content = self.sign("snapshot")
        self.timestamp.snapshot_meta = self._meta(self.snapshot.version, content)
        self.timestamp.version += bump
        self.files["timestamp"] = self.sign("timestamp")

    def rotate(self, role: str, keys: Iterable[CryptoSigner], threshold: int = 1) -> None:
        """Give a role other keys, with the next root."""
        for keyid in list(self.root.roles[role].keyids):
            self.root.revoke_key(keyid, role)
        self.signers[role] = list(keys)
        for key in self.signers[role]:
            self.root.add_key(key.public_key, role)
        self.root.roles[role].threshold = threshold

    def delegate(
        self, delegator: str, role: str, *, paths: tuple[str, ...] = ("*",), terminating: bool = False
    ) -> Targets:
        """Let a role delegate to another, which is made if there is none; it signs with KEYS[9]."""
        if role not in self.roles:
            self.roles[role] = Targets(expires=self.expires)
            self.roles[role].version = 0
            self.signers[role] = [KEYS[9]]
        above = self.targets_of(delegator)
        if above.delegations is None:
            above.delegations = Delegations({}, {})
        assert above.delegations.roles is not None
        above.delegations.roles[role] = DelegatedRole(role, [], 1, terminating, list(paths))
        above.add_key(KEYS[9].public_key, role)
        return self.targets_of(role)

    def targets_of(self, role: str) -> Targets:
        found = self.roles[role]
        assert isinstance(found, Targets)
        return found

    def add(self, role: str, path: str, content: bytes) -> None:
        """A target; it is served, and named by the role when that is published."""
        target = TargetFile.from_data(path, content, ["sha256"])
        self.targets_of(role).targets[path] = target
        self.artifacts[target.get_prefixed_paths()[0]] = content

    def answer(self, request: Request) -> bytes:
        """The script of a server."""
        _, folder, name = request.path.split("/", 2)
        if folder == "targets":
            found = self.artifacts.get(unquote(name))
        else:
            name = name.removesuffix(".json")
            version, _, role = name.partition(".")
            numbered = version.isdigit() and bool(role)
            self.asked.append((unquote(role), int(version)) if numbered else (name, None))
            found = self.files.get(unquote(name))
        return reply(404) if found is None else reply(200, found)

    def _meta(self, version: int, content: bytes) -> MetaFile:
        return MetaFile.from_data(version, content, ["sha256"]) if self.hashes else MetaFile(version)


class Client:
    """The client behind the suite's command line."""

    def __init__(self, server: Loopback, folder: Path, root: bytes) -> None:
        self._server = server
        self._folder = folder
        self._metadata = folder / "metadata"
        folder.mkdir(exist_ok=True)
        (folder / "initial.json").write_bytes(root)
        assert client.main(["--metadata-dir", str(self._metadata), "init", str(folder / "initial.json")]) == 0

    def refresh(self) -> bool:
        return client.main([*self._common(), "refresh"]) == 0

    def download(self, *names: str) -> bool:
        chosen = [word for name in names for word in ("--target-name", name)]
        places = ["--target-base-url", f"{self._server.url}/targets/", "--target-dir", str(self._folder / "targets")]
        return client.main([*self._common(), *chosen, *places, "download"]) == 0

    def version(self, role: str) -> int:
        """Of the trusted metadata on disk, 0 if there is none."""
        path = self._metadata / f"{role}.json"
        return int(Metadata.from_bytes(path.read_bytes()).signed.version) if path.exists() else 0

    def versions(self) -> tuple[int, ...]:
        """Of root, timestamp, snapshot and targets."""
        return tuple(self.version(role) for role in TOP)

    def content(self, role: str) -> bytes:
        return (self._metadata / f"{role}.json").read_bytes()

    def trusted(self) -> int:
        """How many roles are on disk."""
        return len(list(self._metadata.glob("*.json")))

    def downloaded(self) -> list[bytes]:
        folder = self._folder / "targets"
        return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.exists() else []

    def _common(self) -> list[str]:
        return ["--metadata-dir", str(self._metadata), "--metadata-url", f"{self._server.url}/metadata/"]
