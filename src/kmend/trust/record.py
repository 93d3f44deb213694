"""What a host has verified before, verified once more from the trust root on: signatures only, without network and clock.

Used to answer whether the record on a host is still the one that was signed. Expiry is left out on purpose: a record that was
fresh when it was stored does not become another one by age.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kmend.core import durable
from kmend.core.document import decode
from kmend.core.errors import MalformedError, SystemProblemError
from kmend.core.manifest import Levels
from kmend.trust import layout
from kmend.trust.errors import MismatchError

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Root, Snapshot, Targets

MAX_METADATA_BYTES = 8 * 1024 * 1024
MAX_ROOTS = 256


def signed_levels(state: Path, bootstrap: bytes, build_id: str) -> Levels:
    """The levels of a kernel build as this host has kept them, every signature checked again.

    Args:
        state: the folder that `open_repository` was given.
        bootstrap: the trust root given at install.

    Raises:
        MismatchError: something is missing, changed, or not signed by who must sign it.
    """
    # Importing tuf takes 0.1 s and 15 MB, which commands that do not verify are spared.
    from kmend.trust.translation import UNREADABLE

    try:
        return _verified(state, bootstrap, build_id)
    except MalformedError as problem:
        raise MismatchError(f"the record kept on this host: {problem.message}") from None
    except SystemProblemError as problem:
        raise MismatchError(f"the record kept on this host is not whole: {problem.message}") from None
    except UNREADABLE as problem:
        raise MismatchError(f"the record kept on this host does not verify: {problem}") from None


def _verified(state: Path, bootstrap: bytes, build_id: str) -> Levels:
    from tuf.api.metadata import Metadata, Snapshot, Targets, Timestamp

    folder = state / "metadata"
    root = _newest_root(folder, bootstrap)
    timestamp = Metadata[Timestamp].from_bytes(_read(folder / "timestamp.json"))
    root.signed.verify_delegate("timestamp", timestamp.signed_bytes, timestamp.signatures)
    content = _read(folder / "snapshot.json")
    timestamp.signed.snapshot_meta.verify_length_and_hashes(content)
    snapshot = Metadata[Snapshot].from_bytes(content)
    root.signed.verify_delegate("snapshot", snapshot.signed_bytes, snapshot.signatures)
    targets = Metadata[Targets].from_bytes(_listed(folder, snapshot.signed, "targets"))
    root.signed.verify_delegate("targets", targets.signed_bytes, targets.signatures)
    _hold(snapshot.signed, "targets", targets.signed.version)
    path = layout.levels_target(build_id)
    target = targets.signed.targets.get(path) or _delegated(folder, snapshot.signed, targets.signed, path)
    levels = durable.read_bounded(state / "levels" / f"{build_id}.json", max_bytes=layout.MAX_LEVELS_BYTES)
    target.verify_length_and_hashes(levels)
    return decode(Levels, levels, max_bytes=layout.MAX_LEVELS_BYTES)


def _newest_root(folder: Path, bootstrap: bytes) -> Metadata[Root]:
    from tuf.api.metadata import Metadata, Root

    root = Metadata[Root].from_bytes(bootstrap)
    root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    for _ in range(MAX_ROOTS):
        path = folder / "root_history" / f"{root.signed.version + 1}.root.json"
        if not path.exists():
            break
        newer = Metadata[Root].from_bytes(_read(path))
        for signer in (root, newer):
            signer.signed.verify_delegate("root", newer.signed_bytes, newer.signatures)
        if newer.signed.version != root.signed.version + 1:
            raise MismatchError(f"{path.name} is of version {newer.signed.version}")
        root = newer
    return root


def _delegated(folder: Path, snapshot: Snapshot, targets: Targets, path: str) -> Any:
    """The target as the one bin says that the path falls into."""
    from tuf.api.metadata import Metadata, Targets

    roles = targets.delegations.get_roles_for_target(path) if targets.delegations is not None else ()
    for name, _ in roles:
        role = Metadata[Targets].from_bytes(_listed(folder, snapshot, name))
        targets.verify_delegate(name, role.signed_bytes, role.signatures)
        _hold(snapshot, name, role.signed.version)
        if path in role.signed.targets:
            return role.signed.targets[path]
    raise MismatchError("the record kept on this host names no level of the running kernel build")


def _listed(folder: Path, snapshot: Snapshot, role: str) -> bytes:
    content = _read(folder / f"{quote(role, '')}.json")
    stated: Mapping[str, Any] = snapshot.meta
    stated[f"{role}.json"].verify_length_and_hashes(content)
    return content


def _hold(snapshot: Snapshot, role: str, version: int) -> None:
    stated = snapshot.meta[f"{role}.json"].version
    if version != stated:
        raise MismatchError(f"{role}.json is of version {version}, and the snapshot names version {stated}")


def _read(path: Path) -> bytes:
    return durable.read_bounded(path, max_bytes=MAX_METADATA_BYTES)
