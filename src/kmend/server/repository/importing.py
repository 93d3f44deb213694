"""From the signed repository to the server's tables, verified from the trust root on exactly as a host verifies.

Only what has changed is fetched: the signed metadata says of every kernel build which level is its newest. Levels go in kernel
build by kernel build, so that an import which is killed goes on where it was; the timestamp, which hosts are then told of, goes
in last. What cannot be verified raises, and the tables stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, insert, select, update
from tuf.api.metadata import TargetFile

from kmend.core.cache import locked
from kmend.core.document import from_plain
from kmend.core.errors import MalformedError
from kmend.core.manifest import LevelRecord, Manifest
from kmend.core.recall import Recall, Recalls
from kmend.server import notices
from kmend.server.notices import Event
from kmend.server.repository import agent
from kmend.server.repository.mirror import RepositoryTimestamp, read_timestamp, write_timestamp
from kmend.server.store import Store, news
from kmend.server.store.tables import kernel_builds, level_cves, level_fixes, levels, recalls
from kmend.trust import layout
from kmend.trust.client import Repository, open_repository, read_manifest
from kmend.trust.errors import MismatchError, RollbackError
from kmend.trust.transport import Transport

_AT_ONCE = 100
"""Kernel builds that go into the tables in one transaction."""


@dataclass(frozen=True, slots=True)
class NewLevel:
    """A level that was not known before."""

    build_id: str
    level: int


Begin = Callable[[Connection, Sequence[tuple[str, int]], int], object]
"""Called with the kernel builds and levels that are new."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import found.

    Attributes:
        timestamp: what is current now.
        new_levels: in the order in which they went in.
        recalls_changed: whether something was recalled, or a recall withdrawn.
    """

    timestamp: RepositoryTimestamp
    new_levels: tuple[NewLevel, ...] = ()
    recalls_changed: bool = False


@dataclass(frozen=True, slots=True)
class _Level:
    record: LevelRecord
    manifest: Manifest
    content: bytes


@dataclass(slots=True)
class _Build:
    build_id: str
    levels: list[_Level] = field(default_factory=list)


def import_repository(
    store: Store,
    url: str,
    root: bytes,
    state: Path,
    now: int,
    *,
    begin: Begin,
    transport: Transport | None = None,
) -> Imported:
    """Bring the tables to what the repository says.

    Args:
        url: of the repository: `https`, `http` or `file`.
        root: the trust root.
        state: a folder of our own for what was verified, which keeps this server from being led back.
        begin: called with new levels, in the transaction that takes them in: what is to follow from them by itself.
        transport: how bytes are fetched; None makes one for this time.

    Raises:
        TrustError: it cannot be reached or verified; nothing has changed but levels that were verified before that.
    """
    with (
        locked(state / ".lock"),
        open_repository(url, bootstrap=root, state=state, transport=transport) as repository,
    ):
        timestamp = RepositoryTimestamp(
            repository.freshness.timestamp_version, repository.timestamp().decode(), repository.freshness.expires
        )
        with store.read() as connection:
            before = read_timestamp(connection)
            known = _newest(connection)
        if timestamp == before:
            return Imported(timestamp)
        if timestamp.version < before.version:
            raise RollbackError(
                f"the repository is at version {timestamp.version}; version {before.version} was imported before",
                hint="perhaps a mirror lags behind, or another server process has another source",
            )
        stated = repository.recalls()
        files: list[agent.AgentFile] = []
        changed = _changed(repository.catalogue(), known, files)
        found: list[NewLevel] = []
        while batch := [_read(repository, store, build_id) for build_id in islice(changed, _AT_ONCE)]:
            found += store.transact(lambda connection, batch=batch: _keep(connection, batch, now, begin))  # type: ignore[misc]
        recalled = store.transact(lambda connection: _finish(connection, timestamp, stated, files, now))
    return Imported(timestamp, tuple(found), recalled)


def _newest(connection: Connection) -> dict[str, tuple[int, str]]:
    """Of each kernel build the newest level that is known, and the digest of its manifest."""
    newest = select(levels.c.build_id, func.max(levels.c.level).label("level")).group_by(levels.c.build_id).subquery()
    rows = connection.execute(
        select(levels.c.build_id, levels.c.level, levels.c.manifest_sha256).join(
            newest, (levels.c.build_id == newest.c.build_id) & (levels.c.level == newest.c.level)
        )
    )
    return {row.build_id: (row.level, row.manifest_sha256) for row in rows}


def _changed(
    targets: Iterator[TargetFile], known: Mapping[str, tuple[int, str]], files: list[agent.AgentFile]
) -> Iterator[str]:
    """The kernel builds whose newest level is another than the one that is known; what installs the agent goes into `files`."""
    for target in targets:
        build_id = layout.build_id_of(target.path)
        if not build_id:
            file = agent.of_target(target)
            if file is not None and len(files) < agent.MAX_FILES:
                files.append(file)
            continue
        try:
            custom = target.custom.get("kmend") if isinstance(target.custom, dict) else None
            stated = from_plain(layout.TargetCustom, custom)
        except MalformedError as problem:
            raise MismatchError(f"{target.path}: {problem.message}") from None
        if known.get(build_id) != (stated.level, stated.manifest):
            yield build_id


def _read(repository: Repository, store: Store, build_id: str) -> _Build:
    """The levels of a kernel build that are not known yet, with their manifests."""
    build = _Build(build_id)
    document = repository.levels(build_id, keep=False)
    with store.read() as connection:
        known = set(connection.execute(select(levels.c.level).where(levels.c.build_id == build_id)).scalars())
    for record in document.levels if document is not None else ():
        if record.level not in known:
            content = repository.manifest_content(record)
            build.levels.append(_Level(record, read_manifest(content, build_id, record), content))
    return build


def _keep(connection: Connection, builds: list[_Build], now: int, begin: Begin) -> list[NewLevel]:
    found = []
    for build in builds:
        for level in build.levels:
            _insert(connection, level, now)
            found.append(NewLevel(build.build_id, level.record.level))
    if found:
        # In the same transaction, so that no level goes in without what is to follow from it.
        begin(connection, [(item.build_id, item.level) for item in found], now)
    return found


def _insert(connection: Connection, level: _Level, now: int) -> None:
    manifest, record = level.manifest, level.record
    kernel = manifest.kernel
    where = kernel_builds.c.build_id == kernel.build_id
    if connection.execute(select(kernel_builds.c.build_id).where(where)).first() is None:
        connection.execute(
            insert(kernel_builds).values(
                build_id=kernel.build_id,
                release=kernel.release,
                version=kernel.version,
                ref=kernel.ref,
                architecture=kernel.architecture,
                first_seen=now,
            )
        )
    connection.execute(
        insert(levels).values(
            build_id=kernel.build_id,
            level=record.level,
            module=manifest.module.name,
            manifest_sha256=record.manifest.sha256,
            module_sha256=record.module.sha256,
            published=record.published,
            channel=record.channel,
            base=manifest.base,
            pinned=bool(manifest.pinned),
            imported_at=now,
            manifest=level.content,
        )
    )
    key = {"build_id": kernel.build_id, "level": record.level}
    connection.execute(insert(level_fixes), [{**key, "fix": fix} for fix in sorted(manifest.fix_digests)])
    if manifest.cves:
        connection.execute(
            insert(level_cves),
            [{**key, "cve": cve, "objects": json.dumps(manifest.objects_of(cve))} for cve in manifest.cves],
        )


def _finish(
    connection: Connection, timestamp: RepositoryTimestamp, stated: Recalls, files: list[agent.AgentFile], now: int
) -> bool:
    agent.write_files(connection, agent.AgentFiles(tuple(sorted(files, key=lambda file: file.name))))
    added, withdrawn = _keep_recalls(connection, stated, now)
    write_timestamp(connection, timestamp)
    for recall in added:
        notices.post(connection, Event.RECALL_PUBLISHED, f"recall {recall.number}", _told(recall), now)
    if added or withdrawn:
        # Hosts that wait are told at once: they look at the repository, where the signed recall is.
        news.bump(connection, news.ALL)
    return bool(added or withdrawn)


def _keep_recalls(connection: Connection, stated: Recalls, now: int) -> tuple[list[Recall], list[int]]:
    rows = connection.execute(select(recalls.c.number, recalls.c.withdrawn_at)).all()
    standing = {row.number for row in rows if row.withdrawn_at is None}
    known = {row.number for row in rows}
    added = [recall for recall in stated.recalls if recall.number not in known]
    withdrawn = sorted(standing - {recall.number for recall in stated.recalls})
    for recall in added:
        values: dict[str, Any] = {
            "number": recall.number,
            "extent": recall.extent.value,
            "reason": recall.reason,
            "at": recall.at,
            "fix": recall.fix,
            "build_id": recall.build_id,
            "level": recall.level,
        }
        connection.execute(insert(recalls).values(**values))
    if withdrawn:
        connection.execute(update(recalls).where(recalls.c.number.in_(withdrawn)).values(withdrawn_at=now))
    return added, withdrawn


def _told(recall: Recall) -> str:
    what = f"fix {recall.fix}" if recall.fix else f"level {recall.level} of kernel build {recall.build_id}"
    return f"{what} is recalled ({recall.extent.value}): {recall.reason}"
