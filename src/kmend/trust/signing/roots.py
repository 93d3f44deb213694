"""The versions of the trust root: which is the newest, and where each has to lie.

They lie in the key folder, where the root keys are, and in the repository, where hosts follow them; either may be out of reach
when a new one is made.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from tuf.api.metadata import Metadata, Root

from kmend.core import durable
from kmend.trust import current, layout
from kmend.trust.online import KeyRequest
from kmend.trust.signing import keyfiles
from kmend.trust.signing.keyfiles import KeyFolder

FOLDER = "roots"
MAX_ROOT_BYTES = 512_000


def newest(keys: KeyFolder, repository: Path | None) -> Metadata[Root]:
    """The newest root that the key folder and, if it is at hand, the repository know.

    Raises:
        SigningError: one of them is not validly signed.
    """
    root = current.follow(current.read_root(keys.root()), keys.folder / FOLDER)
    return current.follow(root, repository / layout.METADATA) if repository is not None else root


def keep(keys: KeyFolder, content: bytes, repository: Path | None) -> Path:
    """Keep a new root in the key folder and, if there is one, in the repository; returns where it lies in the key folder."""
    version = current.read_root(content).signed.version
    path = keys.folder / FOLDER / f"{version}.root.json"
    durable.make_folder(path.parent, mode=0o700)
    durable.write_durably(path, content)
    if repository is not None and (repository / layout.METADATA / "timestamp.json").exists():
        lay_out(keys, repository)
    return path


def lay_out(keys: KeyFolder, repository: Path) -> None:
    """Put the roots of the key folder into the repository, where they are missing."""
    folder = repository / layout.METADATA
    version = current.read_root(keys.root()).signed.version
    contents = {f"{version}.root.json": keys.root()}
    for path in sorted((keys.folder / FOLDER).glob("*.root.json")):
        contents[path.name] = durable.read_bounded(path, max_bytes=MAX_ROOT_BYTES)
    for name, content in contents.items():
        if not (folder / name).exists():
            durable.write_durably(folder / name, content)


def admit(
    keys: KeyFolder, request: KeyRequest, *, repository: Path | None, only: bool, now: datetime.datetime
) -> tuple[int, Path]:
    """Name a machine's online keys in the next version of the trust root.

    Args:
        only: let no other online keys sign any more. Snapshot and timestamp must then be signed anew before hosts follow.

    Returns:
        The version, and where it lies in the key folder.

    Raises:
        KeyFileError: too few root keys are at hand.
    """
    root = newest(keys, repository)
    signers = keyfiles.root_signers(root, keys)
    for role, key in request.keys().items():
        for keyid in list(root.signed.roles[role].keyids) if only else ():
            root.signed.revoke_key(keyid, role)
        root.signed.add_key(key, role)
    path = keep(keys, keyfiles.next_root(root, signers, now=now), repository)
    return root.signed.version, path
