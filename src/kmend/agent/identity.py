"""Who this host is to its server: an ID, a key, and a counter that is on disk before it is used.

    host.key      ID and private key in one file, so that no crash leaves one without the other; for the service's account alone
    host.json     the same without the key, for everybody
    coming.key    the key of an identity that was asked for; if the answer is lost, asking again with it gets the same identity
    counter.json  the last counter that may have been sent
    boots.json    this boot and the one before

They lie in the service's folder. Root writes there at enrolment, and neither follows a link nor gives away a file by its name.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from dataclasses import dataclass
from typing import TypeVar

from kmend.agent.paths import Paths
from kmend.core import durable
from kmend.core.document import decode, encode
from kmend.core.errors import MalformedError, SystemProblemError
from kmend.core.wire import MAX_COUNTER, check_host_id
from kmend.trust import hostkey

ACCOUNT = "kmend"
MAX_BYTES = 8192
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Identity:
    """`host.json`.

    Attributes:
        machine: digest of the machine that was enrolled.
        parent: the ID that this host had before it found itself to be a clone; empty if it never did.
    """

    host: str
    server: str
    url: str
    machine: str
    parent: str = ""
    format: str = "kmend-host/1"

    def __post_init__(self) -> None:
        check_host_id(self.host)


@dataclass(frozen=True, slots=True)
class Key:
    """`host.key`.

    Attributes:
        seed: the private key, hexadecimal.
    """

    identity: Identity
    seed: str
    format: str = "kmend-host-key/1"

    def __post_init__(self) -> None:
        _check_seed(self.seed)


@dataclass(frozen=True, slots=True)
class Coming:
    """`coming.key`.

    Attributes:
        machine: digest of the machine that asks; a copy of it asks with another key.
    """

    machine: str
    seed: str
    format: str = "kmend-coming-key/1"

    def __post_init__(self) -> None:
        _check_seed(self.seed)


@dataclass(frozen=True, slots=True)
class Counter:
    """`counter.json`: the last counter that may have been sent."""

    value: int = 0
    format: str = "kmend-counter/1"

    def __post_init__(self) -> None:
        if not 0 <= self.value < MAX_COUNTER:
            raise MalformedError("that is not a counter")


@dataclass(frozen=True, slots=True)
class Boots:
    """`boots.json`: the boot that this host has seen last, and the one before."""

    current: str
    previous: str = ""
    format: str = "kmend-boots/1"


class Credentials:
    """The files of `paths.fetched` by which the service speaks to the server."""

    def __init__(self, paths: Paths) -> None:
        self._folder = paths.fetched
        self._key: Key | None = None

    def identity(self) -> Identity | None:
        """Who this host is; None if it is not enrolled."""
        if os.access(self._folder / "host.key", os.R_OK):
            key = self._load("host.key", Key)
            return key.identity if key is not None else None
        return self._load("host.json", Identity)

    def seed(self) -> bytes:
        """The private key.

        Raises:
            SystemProblemError: it cannot be read, or is none.
        """
        if self._key is None:
            self._key = self._load("host.key", Key)
        if self._key is None:
            raise SystemProblemError(
                f"{self._folder / 'host.key'} holds no key that can be read",
                hint="enrol this host anew: kmend enrol --again",
            )
        return bytes.fromhex(self._key.seed)

    def coming_seed(self, machine: str) -> bytes:
        """The private key of the identity to come, on disk when it is returned.

        Args:
            machine: digest of this machine.
        """
        kept = self._load("coming.key", Coming)
        present = self._load("host.key", Key)
        used = present is not None and kept is not None and kept.seed == present.seed  # killed before it was removed
        if kept is None or kept.machine != machine or used:
            kept = Coming(machine, hostkey.make_seed().hex())
            self._save("coming.key", kept, mode=0o600)
        return bytes.fromhex(kept.seed)

    def keep(self, identity: Identity, seed: bytes) -> None:
        """Become somebody."""
        for name in ("offer.json", "acknowledged.json", "counter.json"):
            self._remove(name)
        self._key = Key(identity, seed.hex())
        self._save("host.key", self._key, mode=0o600)
        self._save("host.json", identity)
        self._remove("coming.key")

    def forget_coming(self) -> None:
        """The key to come was refused; another one is made for the next try."""
        self._remove("coming.key")

    def next_counter(self) -> int:
        """A counter that was never sent; on disk when it is returned.

        Raises:
            SystemProblemError: it cannot be written; then nothing may be sent.
        """
        kept = self._load("counter.json", Counter) or Counter()
        return self._write_counter(kept.value + 1)

    def counter_behind(self, last: int) -> None:
        """Go on from what the server has seen, if that is ahead."""
        kept = self._load("counter.json", Counter) or Counter()
        if kept.value < last < MAX_COUNTER - 1:
            self._write_counter(last)

    def last_boot(self) -> str:
        """The boot on which this host has checked in last; empty if it never has."""
        kept = self._load("boots.json", Boots)
        return kept.current if kept is not None else ""

    def boots(self, boot_id: str) -> Boots:
        """This boot and the one before."""
        kept = self._load("boots.json", Boots)
        if kept is None or kept.current != boot_id:
            kept = Boots(boot_id, kept.current if kept is not None else "")
            self._save("boots.json", kept)
        return kept

    def _write_counter(self, value: int) -> int:
        self._save("counter.json", Counter(value))
        return value

    def _load(self, name: str, kind: type[T]) -> T | None:
        """A file of them; None if it is not there, or is nothing that was written here."""
        try:
            content = durable.read_bounded(self._folder / name, max_bytes=MAX_BYTES, follow=False)
            return decode(kind, content, max_bytes=MAX_BYTES)
        except (MalformedError, SystemProblemError):
            return None

    def _save(self, name: str, document: object, *, mode: int = 0o644) -> None:
        owner = self._owner()
        durable.make_folder(self._folder)
        if owner is not None and self._folder.stat().st_uid == 0:
            os.chown(self._folder, *owner, follow_symlinks=False)
        durable.write_durably(self._folder / name, encode(document) + b"\n", mode=mode, owner=owner)

    def _remove(self, name: str) -> None:
        if self._folder.is_dir():
            durable.remove_durably(self._folder / name)

    def _owner(self) -> tuple[int, int] | None:
        """Whom root writes for: the folder's owner, else the service's account; None where root runs the service, too."""
        if os.geteuid() != 0:
            return None
        with contextlib.suppress(OSError):
            found = self._folder.stat()
            if found.st_uid != 0:
                return found.st_uid, found.st_gid
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(ACCOUNT)
            return account.pw_uid, account.pw_gid
        return None


def _check_seed(text: str) -> None:
    with contextlib.suppress(ValueError):
        if len(bytes.fromhex(text)) == hostkey.SEED_BYTES:
            return
    raise MalformedError("that is not a private key")
