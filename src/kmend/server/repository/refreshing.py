"""What the server does to a repository that lies on its own machine: sign snapshot and timestamp anew, adopt a new trust root."""

from __future__ import annotations

import contextlib
import datetime
from pathlib import Path

from tuf.api.metadata import Metadata, Root

from kmend.core import durable
from kmend.core.cache import locked
from kmend.server.config import ServerConfig
from kmend.server.repository.errors import AdoptionError
from kmend.trust import current, layout, online
from kmend.trust.client import MAX_ROOT_BYTES, SIGNED_FIELD
from kmend.trust.signingerrors import SigningError


def refresh(config: ServerConfig, *, now: datetime.datetime) -> int:
    """Sign snapshot and timestamp anew; the new timestamp's version.

    Raises:
        AdoptionError: the repository lies elsewhere, or there is no trust root yet.
        SigningError: the online keys are not (yet) those that the trust root names.
    """
    folder = config.repository_folder
    if folder is None:
        raise AdoptionError(
            f"the repository lies at {config.repository_source}, where this server cannot write",
            hint="whoever keeps it refreshes it",
        )
    tree = online.refresh(folder, read_root(config), online.OnlineKeys(config.online), now=now)
    return tree.timestamp.signed.version


def is_due(config: ServerConfig, *, now: datetime.datetime) -> bool:
    """Whether the repository lies here, this server's keys count, and the last signature is older than is configured."""
    folder, hours = config.repository_folder, config.repository.refresh_hours
    if folder is None or not hours or not config.root.exists():
        return False
    with contextlib.suppress(SigningError):
        tree = current.load(folder, read_root(config))
        if tree is None or not online.names(tree.root.signed, online.OnlineKeys(config.online)):
            return False
        signed = tree.timestamp.signed.unrecognized_fields.get(SIGNED_FIELD)
        age = now.timestamp() - signed if isinstance(signed, int) else hours * 3600
        return not 0 <= age < hours * 3600
    return False


def read_root(config: ServerConfig) -> bytes:
    """The trust root that this server follows.

    Raises:
        AdoptionError: there is none yet.
    """
    if not config.root.exists():
        raise AdoptionError(
            f"there is no trust root at {config.root}",
            hint="whoever holds the root keys makes one that names this server's online keys "
            "(kmend-factory keys admit); then: kmend-server repository adopt ROOT_JSON",
        )
    return durable.read_bounded(config.root, max_bytes=MAX_ROOT_BYTES)


def adopt(config: ServerConfig, content: bytes, *, now: datetime.datetime) -> Metadata[Root]:
    """Take a trust root: the first one as it is, a later one if it follows from the one that is there.

    A repository on this machine gets it too, and is signed anew if the new root lets this server's keys sign.

    Raises:
        AdoptionError: it does not follow from the present one.
        SigningError: it is not a validly signed root.
    """
    root = current.read_root(content)
    folder = config.repository_folder
    if config.root.exists():
        before = current.read_root(read_root(config))
        present = current.load_root(folder, read_root(config)) if folder is not None else before
        if root.signed.version > present.signed.version + 1:
            raise AdoptionError(
                f"that is version {root.signed.version} of the trust root; here is version {present.signed.version}",
                hint="adopt the versions in their order",
            )
        if root.signed.version == present.signed.version + 1:
            current.verify(present.signed, "root", root)
        elif content != _kept(config, folder, root.signed.version):
            raise AdoptionError(
                f"version {root.signed.version} of the trust root is here already, and is another",
                hint="make the new one from the newest that the repository has: kmend-factory keys admit --repository",
            )
    if folder is not None and (folder / layout.METADATA / "timestamp.json").exists():
        _enter(config, folder, root, content, now)
    if not config.root.exists() or root.signed.version > current.read_root(read_root(config)).signed.version:
        durable.write_durably(config.root, content)
    return root


def _kept(config: ServerConfig, folder: Path | None, version: int) -> bytes:
    """That version of the root, as it is here; empty if it is not."""
    own = read_root(config)
    if current.read_root(own).signed.version == version:
        return own
    path = folder / layout.METADATA / f"{version}.root.json" if folder is not None else None
    return durable.read_bounded(path, max_bytes=MAX_ROOT_BYTES) if path is not None and path.exists() else b""


def _enter(config: ServerConfig, folder: Path, root: Metadata[Root], content: bytes, now: datetime.datetime) -> None:
    path = folder / layout.METADATA / f"{root.signed.version}.root.json"
    with locked(folder / ".lock"):
        if not path.exists():
            durable.write_durably(path, content)
    keys = online.OnlineKeys(config.online)
    if online.names(root.signed, keys):
        online.refresh(folder, content, keys, now=now)
