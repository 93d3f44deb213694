"""Who this host is to its server: an ID, a key, and a counter that is on disk before it is used."""

from __future__ import annotations

import contextlib
import os
import pwd
from dataclasses import dataclass

from kmend.agent import statefile
from kmend.agent.paths import Paths
from kmend.core import durable
from kmend.core.errors import SystemProblemError
from kmend.core.wire import MAX_COUNTER, check_host_id
from kmend.trust import hostkey

ACCOUNT = "kmend"


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
class Counter:
    """`counter.json`: the last counter that may have been sent."""

    value: int = 0
    format: str = "kmend-counter/1"


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

    def identity(self) -> Identity | None:
        """Who this host is; None if it is not enrolled."""
        return statefile.load(self._folder / "host.json", Identity)

    def seed(self) -> bytes:
        """The private key.

        Raises:
            SystemProblemError: it cannot be read, or is none.
        """
        content = durable.read_bounded(self._folder / "host.key", max_bytes=200)
        with contextlib.suppress(ValueError):
            seed = bytes.fromhex(content.decode("ascii", "replace").strip())
            if len(seed) == hostkey.SEED_BYTES:
                return seed
        raise SystemProblemError(
            f"{self._folder / 'host.key'} holds no key", hint="enrol this host anew: kmend enrol --again"
        )

    def keep(self, identity: Identity, seed: bytes) -> None:
        """Become somebody: key first, so that an identity never stands without its key."""
        durable.make_folder(self._folder)
        durable.write_durably(self._folder / "host.key", f"{seed.hex()}\n".encode(), mode=0o600)
        statefile.save(self._folder / "counter.json", Counter())
        statefile.save(self._folder / "host.json", identity)
        for name in ("offer.json", "acknowledged.json"):
            durable.remove_durably(self._folder / name)
        self._give_to_service()

    def next_counter(self) -> int:
        """A counter that was never sent; on disk when it is returned.

        Raises:
            SystemProblemError: it cannot be written; then nothing may be sent.
        """
        kept = statefile.load(self._folder / "counter.json", Counter) or Counter()
        return self._write_counter(kept.value + 1)

    def counter_behind(self, last: int) -> None:
        """Go on from what the server has seen, if that is ahead."""
        kept = statefile.load(self._folder / "counter.json", Counter) or Counter()
        if kept.value < last < MAX_COUNTER - 1:
            self._write_counter(last)

    def _write_counter(self, value: int) -> int:
        statefile.save(self._folder / "counter.json", Counter(value))
        return value

    def boots(self, boot_id: str) -> Boots:
        """This boot and the one before."""
        path = self._folder / "boots.json"
        kept = statefile.load(path, Boots)
        if kept is None or kept.current != boot_id:
            kept = Boots(boot_id, kept.current if kept is not None else "")
            statefile.save(path, kept)
        return kept

    def _give_to_service(self) -> None:
        """Root has written what the service's account must read; where there is no such account root runs the service."""
        if os.geteuid() != 0:
            return
        with contextlib.suppress(KeyError, OSError):
            account = pwd.getpwnam(ACCOUNT)
            for path in (self._folder, *self._folder.glob("*.json"), self._folder / "host.key"):
                os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
