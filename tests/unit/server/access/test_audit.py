"""The audit log: a chain that shows every change."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest
from tests.unit.server.conftest import NOW

from kmend.server.access import audit
from kmend.server.access.audit import AuditError, Head
from kmend.server.rollouts.acts import MAX_TARGETS
from kmend.server.store import Store, open_store


def _append(store: Store, count: int) -> None:
    for number in range(count):
        with store.write() as connection:
            audit.append(
                connection,
                at=NOW + number,
                actor="token:1",
                action="ring.create",
                subject=f"ring {number}",
                detail={"positiön": number},
            )


def _export(store: Store) -> list[bytes]:
    with store.read() as connection:
        return [audit.exported(record).encode() for record in audit.records(connection)]


def test_an_export_verifies(store: Store) -> None:
    _append(store, 5)
    lines = _export(store)
    with store.read() as connection:
        assert audit.verify(lines) == audit.head(connection)
    assert audit.verify(lines).number == 5
    assert audit.verify([]) == Head(0, audit.FIRST)


def _changed(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[2].replace(b"ring 2", b"ring 9"), *lines[3:]]


def _rehashed(lines: list[bytes]) -> list[bytes]:
    """Changed by somebody who knows how digests are made, but not of all records after it."""
    record = json.loads(lines[2]) | {"subject": "ring 9"}
    del record["digest"]
    return [*lines[:2], json.dumps(record | {"digest": audit._digest(record)}).encode(), *lines[3:]]


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (_changed, "record 3 was changed"),
        (_rehashed, "record 4 does not follow"),
        (lambda lines: lines[:2] + lines[3:], "record 3 is missing"),
        (lambda lines: lines[1:], "record 1 is missing"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "record 1 is missing"),
        (lambda lines: [*lines, b"{}"], "line 6 is no record"),
        (lambda lines: [*lines, b"\xff\x00"], "line 6 is no record"),
        (lambda lines: [*lines, lines[-1]], "record 6 is missing"),
    ],
)
def test_what_was_done_to_it_is_found(sqlite: Store, forge: Callable[[list[bytes]], list[bytes]], message: str) -> None:
    _append(sqlite, 5)
    with pytest.raises(AuditError, match=message):
        audit.verify(forge(_export(sqlite)))


def test_a_known_head_shows_what_was_cut_off_or_written_anew(sqlite: Store) -> None:
    _append(sqlite, 5)
    lines = _export(sqlite)
    known = audit.verify(lines)
    assert audit.verify(lines, known=known) == known
    with pytest.raises(AuditError, match="ends with record 4, but record 5 was known"):
        audit.verify(lines[:4], known=known)
    with pytest.raises(AuditError, match="written anew"):
        audit.verify(lines, known=Head(4, "f" * 64))


def test_a_record_of_the_largest_rollout_verifies(sqlite: Store) -> None:
    """One of every kernel build that a rollout may have."""
    targets = {f"{number:064x}": 999_999 for number in range(MAX_TARGETS)}
    sqlite.transact(
        lambda connection: audit.append(
            connection, at=NOW, actor="server", action="rollout.create", subject="r", detail={"targets": targets}
        )
    )
    (line,) = _export(sqlite)
    assert audit.verify([line]).number == 1


def test_appending_at_once_leaves_no_gap(database: str) -> None:
    stores = [open_store(database), open_store(database)]
    threads = [threading.Thread(target=_append, args=(store, 8)) for store in stores * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert audit.verify(_export(stores[0])).number == 32
    for store in stores:
        store.close()


def test_what_fails_is_not_recorded(store: Store) -> None:
    def fail() -> None:
        with store.write() as connection:
            audit.append(connection, at=NOW, actor="server", action="x", subject="y", detail={})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert _export(store) == []
