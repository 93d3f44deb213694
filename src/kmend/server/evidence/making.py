"""Making a pack: everything gathered, listed, signed with the server's key, and sent while it is still being written."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from sqlalchemy import Connection, select

from kmend.core.document import encode
from kmend.core.errors import SystemProblemError
from kmend.server.access import audit
from kmend.server.config import ServerConfig
from kmend.server.evidence import signing
from kmend.server.evidence.auditlog import KEY_NOTED, MADE
from kmend.server.evidence.container import Entry, Writer
from kmend.server.evidence.documents import MANIFEST, SIGNATURE, PackManifest
from kmend.server.evidence.errors import PackBusyError, PeriodError
from kmend.server.evidence.gathering import Wanted, gather
from kmend.server.evidence.published import Fetched, fetched
from kmend.server.hosts import rings
from kmend.server.repository.mirror import read_timestamp
from kmend.server.repository.refreshing import read_root
from kmend.server.store import Store, tables
from kmend.trust.transport import Transport

MAX_DAYS = 1100
"""Of a period; three years."""
_CHUNK = 256 * 1024
_LOOK_SECONDS = 0.05
_FIRST_BYTE_SECONDS = 30
_one_at_a_time = threading.Lock()


def key_path(config: ServerConfig) -> Path:
    """Where the key is with which this server signs packs."""
    return config.data / "evidence.pem"


def check(connection: Connection, since: int, until: int, ring: str, now: int) -> None:
    """See that there can be a pack of this.

    Raises:
        PeriodError: the period makes no sense.
        NotFoundError: there is no such ring.
    """
    if not 0 <= since < until:
        raise PeriodError("the period ends before it begins")
    if until - since > MAX_DAYS * 86_400:
        raise PeriodError(f"a pack is of {MAX_DAYS} days at most")
    if since > now:
        raise PeriodError("the period has not begun yet")
    if ring:
        rings.show(connection, ring)


def make(store: Store, config: ServerConfig, wanted: Wanted, put: Callable[[bytes], object]) -> None:
    """Write a pack, and record in the audit log that it is made.

    Args:
        put: takes the bytes of the pack, in their order.

    Raises:
        TrustError, EvidenceError: the repository cannot be read, or does not verify.
    """
    key = signing.server_key(key_path(config))
    _record(store, wanted, signing.public_of(key))
    files: list[Entry] = []
    writer = Writer(put)

    def add(name: str, content: bytes) -> Entry:
        files.append(writer.add(name, content))
        return files[-1]

    with ExitStack() as stack:
        source = _published(stack, store, config)
        connection = stack.enter_context(store.read())
        gather(connection, wanted, source, add)
    manifest = encode(PackManifest(wanted.server, wanted.now, tuple(files)))
    writer.add(MANIFEST, manifest)
    signature = signing.make(signing.SERVER, manifest, key, name=wanted.server, note="", at=wanted.now)
    writer.add(SIGNATURE, encode(signature))
    writer.end()


def stream(store: Store, config: ServerConfig, wanted: Wanted) -> Iterator[bytes]:
    """A pack, in pieces as it is made. It is written to a temporary file first, so that a slow reader keeps no snapshot open.

    What is wrong before its first byte is raised at once; what is wrong later cuts the answer off.

    Raises:
        PackBusyError: another one is being made; one at a time is enough work.
        SystemProblemError: it cannot be written there.
        TrustError, EvidenceError: as `make`.
    """
    if not _one_at_a_time.acquire(blocking=False):
        raise PackBusyError("another pack of evidence is being made")
    try:
        file = tempfile.NamedTemporaryFile(prefix="kmend-evidence-", buffering=0)  # noqa: SIM115 - whoever reads it closes it
        work = _Work(store, config, wanted, file)
        work.start()
    except BaseException as problem:  # noqa: BLE001 - whatever it was, the next one may begin
        _one_at_a_time.release()
        raise _of_disk(problem) from None
    end = time.monotonic() + _FIRST_BYTE_SECONDS
    while work.is_alive() and not file.tell() and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
    if work.problem is not None:
        file.close()
        raise work.problem
    return _pieces(work, file)


def _pieces(work: _Work, file: tempfile._TemporaryFileWrapper[bytes]) -> Iterator[bytes]:
    with file, Path(file.name).open("rb") as reader:
        try:
            while True:
                over = not work.is_alive()  # before the read, so that nothing is left behind
                piece = reader.read(_CHUNK)
                if piece:
                    yield piece
                elif over:
                    break
                else:
                    time.sleep(_LOOK_SECONDS)
        finally:
            work.join()
    if work.problem is not None:
        raise work.problem


def _of_disk(problem: BaseException) -> BaseException:
    """What went wrong; if the disk did, in words that whoever asks for the pack can use."""
    if not isinstance(problem, OSError):
        return problem
    return SystemProblemError(
        f"the server cannot write the pack: {problem.strerror or type(problem).__name__}",
        hint=f"look at free space in {tempfile.gettempdir()} on the server; a pack needs it once",
    )


class _Work(threading.Thread):
    """Makes the pack; the lock is free again when it is made.

    Attributes:
        problem: what went wrong; None if nothing did.
    """

    def __init__(self, store: Store, config: ServerConfig, wanted: Wanted, file: IO[bytes]) -> None:
        super().__init__(name="evidence", daemon=True)
        self._store, self._config, self._wanted, self._file = store, config, wanted, file
        self.problem: BaseException | None = None

    def run(self) -> None:
        """Make it."""
        try:
            make(self._store, self._config, self._wanted, self._file.write)
        except BaseException as problem:  # noqa: BLE001 - it is raised again where the pieces are asked for
            self.problem = _of_disk(problem)
        finally:
            _one_at_a_time.release()


def _published(stack: ExitStack, store: Store, config: ServerConfig) -> Fetched | None:
    """What the repository has; None before the first import."""
    with store.read() as connection:
        if not read_timestamp(connection).version:
            return None
    transport = Transport()
    stack.callback(transport.close)
    return stack.enter_context(fetched(config.repository_source, read_root(config), transport))


def _record(store: Store, wanted: Wanted, key: str) -> None:
    """That the pack is made, and by which key; the pack's own audit log ends with it."""

    def work(connection: Connection) -> None:
        table = tables.audit.c
        noted = connection.execute(select(table.number).where(table.action == KEY_NOTED, table.subject == key)).first()
        if noted is None:
            audit.append(
                connection, at=wanted.now, actor=audit.SERVER, action=KEY_NOTED, subject=key, detail={"for": "evidence"}
            )
        detail = {"since": wanted.since, "until": wanted.until, "ring": wanted.ring}
        audit.append(connection, at=wanted.now, actor=wanted.actor, action=MADE, subject="pack", detail=detail)

    store.transact(work)
