"""What can go wrong with the database."""

from __future__ import annotations

from typing import ClassVar

from kmend.core.errors import KmendError


class StoreError(KmendError):
    """The database cannot be used as it is asked for."""

    kind: ClassVar[str] = "store"


class StoreUnreachableError(StoreError):
    """It is not there, does not let us in, or went away."""

    kind: ClassVar[str] = "store-unreachable"
    default_hint: ClassVar[str] = "look whether the database runs, and at database.url"


class StoreBusyError(StoreError):
    """Others held what was needed for longer than we wait; the same again may go through."""

    kind: ClassVar[str] = "store-busy"
    default_hint: ClassVar[str] = "try again"


class StoreFullError(StoreError):
    """There is no space for what was to be written; nothing of it was."""

    kind: ClassVar[str] = "store-full"
    default_hint: ClassVar[str] = "free space where the database lies"


class StoreDamagedError(StoreError):
    """The file is no database, or is damaged."""

    kind: ClassVar[str] = "store-damaged"
    default_hint: ClassVar[str] = "restore it: kmend-server restore"


class SchemaError(StoreError):
    """The database has another form than this version of kmend-server works with."""

    kind: ClassVar[str] = "store-schema"
    exit_status = 2


class StoreUrlError(StoreError):
    """`database.url` is not one."""

    kind: ClassVar[str] = "store-url"
    exit_status = 2
    default_hint: ClassVar[str] = "write sqlite:////path/to/file, or postgresql+psycopg://user@host/database"
