"""The audit log: append-only, each record with the digest of the one before, so that an export can be verified by anybody.

A record's digest is the SHA-256 of the canonical JSON of all its other members. Whoever keeps the head (number and digest of the
newest record) from time to time can tell later whether anything before it was changed, taken out or put in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from sqlalchemy import Connection, insert, select, text

from kmend.core.document import decode, encode
from kmend.core.errors import KmendError, MalformedError
from kmend.core.manifest import sha256_hex
from kmend.server.store import tables

FIRST = "0" * 64
"""What stands for the digest of the record before the first."""
SERVER = "server"
MAX_LINE = 4 * 1024 * 1024
"""Of an export: a rollout of as many kernel builds as one may have is named whole, in one record."""
_LOCK = 0x6B6D61756469  # "kmaudi": PostgreSQL's advisory lock of whoever appends, until its transaction ends


class AuditError(KmendError):
    """An exported audit log is not whole, or was changed."""

    kind: ClassVar[str] = "audit"
    default_hint: ClassVar[str] = "compare it with an earlier export, and ask who can write the server's database"


@dataclass(frozen=True, slots=True)
class Record:
    """One act.

    Attributes:
        number: 1, 2, 3 ... without gaps.
        at: seconds since 1970-01-01 UTC.
        actor: `token:<id>`, `host:<id>` or `server`.
        action: `rollout.pause`, for example.
        subject: what it was done to.
        detail: canonical JSON; never a secret.
    """

    number: int
    at: int
    actor: str
    action: str
    subject: str
    detail: str
    previous: str
    digest: str


@dataclass(frozen=True, slots=True)
class Head:
    """The newest record: keep it elsewhere, to verify by later."""

    number: int
    digest: str


def append(
    connection: Connection, *, at: int, actor: str, action: str, subject: str, detail: Mapping[str, object]
) -> None:
    """Record an act in the transaction that does it: both are on disk, or neither is.

    Others who append wait until this transaction ends, so call it late in it.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    before = head(connection)
    said = json.dumps(detail, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    number, previous = (before.number + 1, before.digest) if before is not None else (1, FIRST)
    members = {
        "number": number,
        "at": at,
        "actor": actor,
        "action": action,
        "subject": subject,
        "detail": said,
        "previous": previous,
    }
    connection.execute(insert(tables.audit).values(**members, digest=_digest(members)))


def head(connection: Connection) -> Head | None:
    """The newest record; None if there is none."""
    audit = tables.audit.c
    row = connection.execute(select(audit.number, audit.digest).order_by(audit.number.desc()).limit(1)).first()
    return Head(row.number, row.digest) if row is not None else None


def records(connection: Connection, *, after: int = 0, limit: int | None = None) -> Iterator[Record]:
    """Records in their order.

    Args:
        after: the number of the last one that is not wanted.
    """
    query = select(tables.audit).where(tables.audit.c.number > after).order_by(tables.audit.c.number).limit(limit)
    for row in connection.execute(query.execution_options(yield_per=500)):
        yield Record(**row._mapping)


def exported(record: Record) -> str:
    """One line of an export."""
    return encode(record).decode()


def verify(lines: Iterable[bytes], *, known: Head | None = None) -> Head:
    """Verify an export from its first record on.

    Args:
        lines: of the export, each one record.
        known: a head that was kept earlier; the export must hold that very record.

    Returns:
        The head of the export.

    Raises:
        AuditError: a record was changed, is missing or out of its order; the message says which.
    """
    found = Head(0, FIRST)
    seen = known is None
    for place, line in enumerate((line for line in lines if line.strip()), start=1):
        try:
            record = decode(Record, line, max_bytes=MAX_LINE)
        except MalformedError as problem:
            raise AuditError(f"line {place} is no record of an audit log: {problem.message}") from None
        if record.number != found.number + 1:
            raise AuditError(f"record {found.number + 1} is missing: line {place} is record {record.number}")
        members = {name: getattr(record, name) for name in Record.__slots__ if name != "digest"}
        if record.digest != _digest(members):
            raise AuditError(f"record {record.number} was changed: it does not have the digest that it names")
        if record.previous != found.digest:
            raise AuditError(
                f"record {record.number} does not follow the one before it: that one was changed or replaced"
            )
        found = Head(record.number, record.digest)
        seen = seen or found == known
        if known is not None and record.number == known.number and found != known:
            raise AuditError(f"record {record.number} is not the one that was known: the log was written anew")
    if not seen and known is not None:
        raise AuditError(f"the export ends with record {found.number}, but record {known.number} was known")
    return found


def _digest(members: Mapping[str, object]) -> str:
    return sha256_hex(json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
