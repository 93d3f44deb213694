"""Backup and restore: a server that goes on from where it was, on a machine that has none."""

from __future__ import annotations

import datetime
import io
import stat
import tarfile
import threading
from pathlib import Path

import pytest
from sqlalchemy import func, select
from tests.unit.server.operations.test_founding import config_of, found, run

from kmend.core.errors import SystemProblemError
from kmend.server.access import tokens
from kmend.server.hosts import rings
from kmend.server.operations import backing
from kmend.server.operations.errors import BackupError, FoundedError
from kmend.server.store import open_store, tables

NOW = datetime.datetime.now(datetime.timezone.utc)


def test_what_was_backed_up_comes_back_elsewhere(tmp_path: Path) -> None:
    made, _ = found(tmp_path, one_box=True)
    config = config_of(tmp_path)
    file = tmp_path / "backup.tar"
    done = backing.backup(config, tmp_path / "etc/server.toml", file, now=NOW)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {"server.toml", "kmend.sqlite", "root.json", "tls/authority.key", "online/snapshot.pem"} <= set(done.files)
    assert not [name for name in done.files if "offline" in name or name.startswith("keys")]
    assert any("away from this machine" in remark for remark in done.remarks)
    other = tmp_path / "other"
    run("restore", file, "--data", other / "data", "--config", other / "etc/server.toml")
    restored = config_of(other)
    assert restored.data == other / "data"
    for name in ("tls/authority.pem", "online/snapshot.pem", "root.json"):
        assert (restored.data / name).read_bytes() == (config.data / name).read_bytes()
    assert stat.S_IMODE((restored.data / "online/snapshot.pem").stat().st_mode) == 0o600
    store = open_store(restored.database_url)
    with store.read() as connection:
        assert tokens.recognise(connection, made.token, int(NOW.timestamp())) is not None
    store.close()


def test_a_backup_is_one_state_while_others_write(tmp_path: Path) -> None:
    found(tmp_path)
    config = config_of(tmp_path)
    store = open_store(config.database_url)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            store.transact(
                lambda connection, number=number: rings.put(  # type: ignore[misc]
                    connection, f"r{number}", position=number % 100, description="", actor="server", now=1
                )
            )

    thread = threading.Thread(target=write)
    thread.start()
    try:
        backing.backup(config, tmp_path / "etc/server.toml", tmp_path / "backup.tar", now=NOW)
    finally:
        stop.set()
        thread.join()
        store.close()
    backing.restore(tmp_path / "backup.tar", tmp_path / "other/server.toml", tmp_path / "other/data")
    restored = open_store(f"sqlite:///{tmp_path / 'other/data/kmend.sqlite'}")
    with restored.read() as connection:
        count = connection.execute(select(func.count()).select_from(tables.rings)).scalar_one()
        acts = connection.execute(select(func.count()).where(tables.audit.c.action == "ring.create")).scalar_one()
    restored.close()
    assert count == acts + 1


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    found(tmp_path)
    config, file = config_of(tmp_path), tmp_path / "backup.tar"
    backing.backup(config, tmp_path / "etc/server.toml", file, now=NOW)
    with pytest.raises(BackupError, match="exists"):
        backing.backup(config, tmp_path / "etc/server.toml", file, now=NOW)
    with pytest.raises(FoundedError):
        backing.restore(file, tmp_path / "etc/server.toml", None)
    with pytest.raises(FoundedError):
        backing.restore(file, tmp_path / "new.toml", None)
    assert not (tmp_path / "new.toml").exists()


@pytest.mark.parametrize("name", ["../evil.pem", "/etc/passwd", "tls/../../x.key", "keys/offline/root-1.pem", "other"])
def test_what_is_no_backup_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "evil.tar"
    with tarfile.open(file, "w") as archive:
        for member in ("server.toml", name):
            item = tarfile.TarInfo(member)
            item.size = 1
            archive.addfile(item, io.BytesIO(b"x"))
    with pytest.raises(BackupError, match="does not belong"):
        backing.restore(file, tmp_path / "etc/server.toml", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_links_and_other_things_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "evil.tar"
    with tarfile.open(file, "w") as archive:
        item = tarfile.TarInfo("root.json")
        item.type, item.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(item)
    with pytest.raises(BackupError):
        backing.restore(file, tmp_path / "server.toml", tmp_path / "data")
    file.write_bytes(b"no tar at all")
    with pytest.raises((BackupError, SystemProblemError)):
        backing.restore(file, tmp_path / "server.toml", tmp_path / "data")
