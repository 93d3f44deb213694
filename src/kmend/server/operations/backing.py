"""Backup and restore: one tar file with what cannot be made again.

SQLite is copied by its own online backup, so the copy is one state of the database while the server goes on writing. PostgreSQL
has tools of its own that do better than we could; then the file holds the rest.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import make_url

from kmend.core import durable
from kmend.core.errors import SystemProblemError
from kmend.server.config import ServerConfig
from kmend.server.operations.errors import BackupError, FoundedError

DATABASE = "kmend.sqlite"
CONFIG = "server.toml"
MAX_MEMBERS = 1000
MAX_SMALL = 1024 * 1024
_KEPT = ("root.json", "online-keys.json", "online/*.pem", "tls/*.pem", "tls/*.key")
"""Of the data folder. Not `keys/`, which belongs away from the machine."""


@dataclass(frozen=True, slots=True)
class BackedUp:
    """What is in a backup."""

    files: tuple[str, ...]
    bytes: int
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """What was brought back."""

    data: str
    files: tuple[str, ...]
    remarks: tuple[str, ...]


def backup(config: ServerConfig, config_path: Path, file: Path, *, now: datetime.datetime) -> BackedUp:
    """Write a backup.

    Raises:
        SystemProblemError: something cannot be read, or the file not be written.
        BackupError: the file exists.
    """
    if file.exists():
        raise BackupError(f"{file} exists; it is not overwritten")
    remarks = []
    members = {CONFIG: durable.read_bounded(config_path, max_bytes=MAX_SMALL)}
    for pattern in _KEPT:
        for path in sorted(config.data.glob(pattern)):
            members[path.relative_to(config.data).as_posix()] = durable.read_bounded(path, max_bytes=MAX_SMALL)
    temporary = file.with_name(f".{file.name}.part")
    try:
        with _private(temporary) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
            for name, content in members.items():
                _add(archive, name, io.BytesIO(content), len(content), now)
            names = list(members)
            if config.database_url.startswith("sqlite"):
                found = Path(make_url(config.database_url).database or "")
                with _copied(found) as copy, copy.open("rb") as database:
                    _add(archive, DATABASE, database, copy.stat().st_size, now)
                names.append(DATABASE)
            else:
                remarks.append("the database is PostgreSQL's to back up: pg_dump -Fc, at the same time")
        temporary.replace(file)
        durable.sync_folder(file.absolute().parent)
    except (OSError, tarfile.TarError, sqlite3.Error) as problem:
        raise SystemProblemError(f"cannot write {file}: {getattr(problem, 'strerror', None) or problem}") from None
    finally:
        temporary.unlink(missing_ok=True)
    if (config.data / "keys").exists():
        remarks.append(f"{config.data / 'keys'} is not in it: those keys belong away from this machine")
    return BackedUp(tuple(names), file.stat().st_size, tuple(remarks))


def restore(file: Path, config_path: Path, data: Path | None) -> Restored:
    """Bring a server back.

    Args:
        data: instead of the folder that the configuration in the backup names.

    Raises:
        FoundedError: there is a server already.
        BackupError: the file is no backup.
    """
    from kmend.server.config import read_config

    if config_path.exists():
        raise FoundedError(
            f"{config_path} exists; nothing was changed", hint="give another --config, or remove it first"
        )
    try:
        with tarfile.open(file, mode="r:") as archive:
            members = _checked(archive)
            text = _content(archive, members[CONFIG])
            durable.make_folder(config_path.absolute().parent)
            if data is not None:
                text = _with_data(text, data)
            durable.write_durably(config_path, text, mode=0o640)
            try:
                config = read_config(config_path)
                if (config.data / "online").exists() or (config.data / DATABASE).exists():
                    raise FoundedError(f"there is a server in {config.data} already; nothing was changed")
                for name, member in members.items():
                    if name != CONFIG:
                        _place(archive, member, config.data / name)
            except BaseException:
                config_path.unlink(missing_ok=True)
                raise
    except (OSError, tarfile.TarError) as problem:
        raise BackupError(f"{file} cannot be read: {getattr(problem, 'strerror', None) or problem}") from None
    remarks = []
    if DATABASE not in members:
        remarks.append("the database is PostgreSQL's to restore: pg_restore")
    remarks.append("copy or publish the repository into its folder, if it lay on the lost machine")
    return Restored(str(config.data), tuple(members), tuple(remarks))


@contextlib.contextmanager
def _private(path: Path) -> Iterator[io.BufferedWriter]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def _copied(database: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kmend-backup-", dir=database.parent) as folder:
        copy = Path(folder) / DATABASE
        source = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        target = sqlite3.connect(copy)
        try:
            source.backup(target, pages=4096)
        finally:
            source.close()
            target.close()
        yield copy


def _add(
    archive: tarfile.TarFile, name: str, content: io.BufferedReader | io.BytesIO, size: int, now: datetime.datetime
) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, int(now.timestamp())
    archive.addfile(member, content)


def _checked(archive: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """The members, if they are those of a backup: plain files of names that we write."""
    found: dict[str, tarfile.TarInfo] = {}
    for member in archive:
        known = member.name in (CONFIG, DATABASE) or any(Path(member.name).match(pattern) for pattern in _KEPT)
        if not member.isreg() or not known or member.name.startswith("/") or ".." in member.name.split("/"):
            raise BackupError(f"{member.name[:80]!r} does not belong into a backup of a server")
        found[member.name] = member
        if len(found) > MAX_MEMBERS:
            raise BackupError(f"a backup has at most {MAX_MEMBERS} files")
    if CONFIG not in found:
        raise BackupError("that is not a backup of a server: it holds no configuration")
    return found


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    if stream is None or member.size > MAX_SMALL:
        raise BackupError(f"{member.name} cannot be read")
    return stream.read()


def _with_data(text: bytes, data: Path) -> bytes:
    lines = text.decode(errors="replace").splitlines()
    changed = [f'data = "{data}"' if line.replace(" ", "").startswith("data=") else line for line in lines]
    return ("\n".join(changed) + "\n").encode()


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    durable.make_folder(path.parent, mode=0o700)
    mode = 0o644 if path.suffix in (".json", ".pem") and path.parent.name != "online" else 0o600
    if member.name != DATABASE:
        durable.write_durably(path, _content(archive, member), mode=mode)
        return
    stream = archive.extractfile(member)
    if stream is None:
        raise BackupError(f"{member.name} cannot be read")
    with _private(path) as target:
        while piece := stream.read(1024 * 1024):
            target.write(piece)
    durable.sync_folder(path.parent)
