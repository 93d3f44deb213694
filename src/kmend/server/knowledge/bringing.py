"""Bringing a feed in, from its source to the notice: claim it, fetch it, import what has changed, judge, tell.

Each step may be the last one before the process dies. What was imported stays; that it was not judged and told of yet is written
down before the first row is, and whoever comes next does that.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, select

from kmend.core import durable
from kmend.core.cache import locked
from kmend.core.errors import KmendError
from kmend.core.interruption import Interrupted
from kmend.core.scratch import scratch_folder
from kmend.intel.feeds import (
    Cna,
    Ssvc,
    cna,
    read_archive,
    read_bod,
    read_changelog,
    read_epss,
    read_folder,
    read_kev,
    read_place,
    read_records,
    read_tree,
    ssvc,
    unpacked,
)
from kmend.intel.uploads import branch_of
from kmend.server import notices
from kmend.server.feeds import (
    CHANGELOG,
    FeedError,
    Place,
    Repository,
    changelog,
    fetch,
    is_changelog,
    kind_of,
    place_of,
)
from kmend.server.feeds.fetching import LIMITS
from kmend.server.feeds.places import Kind
from kmend.server.knowledge import changelogs, importing, sources, telling
from kmend.server.knowledge.errors import NotKnownError
from kmend.server.knowledge.importing import Imported
from kmend.server.knowledge.judging import judge_builds
from kmend.server.notices import Event
from kmend.server.store import Store
from kmend.server.store.tables import cves, feeds

MAX_UNPACKED = 256 * 1024 * 1024
_random = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Ways:
    """How feeds are fetched.

    Attributes:
        folder: of the server's own, for copies of repositories and what is being fetched.
        every: seconds between two looks at a source.
        seconds: limit for one fetch.
        ca_file: certificates to trust besides the system's; empty for none.
        draw: uniform random numbers in [0, 1): servers that began together ask apart.
    """

    folder: Path
    every: int
    seconds: float
    ca_file: str = ""
    draw: Callable[[], float] = _random.random


@dataclass(frozen=True, slots=True)
class Brought:
    """What came of it.

    Attributes:
        imported: None if the source has nothing new.
        judged: answers that were written.
        told: notices that were made.
    """

    feed: str
    imported: Imported | None
    judged: int = 0
    told: int = 0


@dataclass(frozen=True, slots=True)
class _Had:
    """What was found at the source.

    Attributes:
        take: imports it; None if it is there already.
    """

    take: Callable[[Store, int], Imported] | None
    etag: str = ""
    modified: str = ""


def bring(store: Store, ways: Ways, feed: str, source: str, now: int, *, force: bool = False) -> Brought | None:
    """Fetch a feed as it is configured; None if it is not due, or somebody else does it.

    Args:
        force: although it is not due.

    Raises:
        KmendError: it cannot be had, or cannot be read. That is written down, what was there stays, and it is tried again.
    """
    claim = store.transact(lambda connection: sources.claim(connection, feed, source, now, force=force))
    if claim is None:
        return None
    try:
        place = place_of(feed, source)
        durable.make_folder(ways.folder, mode=0o700)
        with locked(ways.folder / f"{feed}.lock"), scratch_folder("feed", ways.folder) as scratch:
            had = _look(store, ways, feed, place, claim, scratch)
            brought = _take(store, feed, had, now, claim.unfinished)
    except Interrupted:
        store.transact(lambda connection: sources.released(connection, feed, now))
        raise
    except KmendError as problem:
        told = problem
        after = told.retry_after if isinstance(told, FeedError) else None
        store.transact(
            lambda connection: sources.failed(
                connection, feed, now, longest=ways.every, error=told.message, hint=told.hint, after=after
            )
        )
        raise
    next_at = now + int(ways.every * (0.9 + 0.2 * ways.draw()))
    store.transact(
        lambda connection: sources.succeeded(
            connection, feed, now, next_at=next_at, etag=had.etag, modified=had.modified
        )
    )
    return brought


def bring_file(store: Store, feed: str, path: Path | None, now: int) -> Brought:
    """Import what somebody has brought: a file, a folder, a checkout; None for Debian's changelog by the package client.

    Everything is judged anew, whether it has changed or not.

    Raises:
        KmendError: it cannot be read.
    """
    if path is None:
        found = changelog(now=now)
        had = _of_changelog(store, feed, found.text, found.asked_at, by_hand=True)
    elif feed in ("cna", "ssvc"):
        had = _of_tree(store, feed, path, by_hand=True)
    else:
        content = durable.read_bounded(path, max_bytes=MAX_UNPACKED)
        had = _of_content(store, feed, content, int(path.stat().st_mtime), by_hand=True)
    unfinished = store.transact(lambda connection: sources.begun(connection, feed, now, by_hand=True))
    imported = had.take(store, now) if had.take is not None else None
    return _finish(store, feed, imported, now, unfinished, everything=True)


def forget(store: Store, name: str, now: int) -> None:
    """Take out a changelog of a release that no host runs any more. If it is stopped, the next import judges what is left.

    Raises:
        NotKnownError: there is none of that name.
    """
    if name not in _versions(store):
        raise NotKnownError(f"there is no changelog {name[:40]!r}", hint="kmend-server feeds list")
    store.transact(lambda connection: sources.begun(connection, CHANGELOG, now, by_hand=True))
    importing.forget_changelog(store, name)
    judge_builds(store)
    store.transact(lambda connection: sources.finished(connection, CHANGELOG))


def _versions(store: Store) -> dict[str, str]:
    with store.read() as connection:
        return changelogs.versions(connection)


def _take(store: Store, feed: str, had: _Had, now: int, unfinished: int | None) -> Brought:
    if had.take is None and unfinished is None:
        return Brought(feed, None)
    store.transact(lambda connection: sources.begun(connection, feed, now))
    imported = had.take(store, now) if had.take is not None else None
    return _finish(store, feed, imported, now, unfinished)


def _finish(
    store: Store, feed: str, imported: Imported | None, now: int, unfinished: int | None, *, everything: bool = False
) -> Brought:
    """Judge what has changed, and tell of it."""
    judged = 0
    changed = imported.changed if imported is not None else ()
    moved = imported is not None and imported.moved
    if everything or unfinished is not None or (is_changelog(feed) and (changed or moved)):
        judged = judge_builds(store) if feed == "cna" or is_changelog(feed) else 0
    elif feed == "cna" and changed:
        judged = judge_builds(store, only=set(changed))
    told = 0
    if feed == "cna":
        change = _change(store, imported, unfinished)
        with store.read() as connection:
            digest = telling.of_change(connection, change)
            listed = telling.of_listed(connection, telling.exploited(connection, change.added))
        found = ((Event.CVES_IMPORTED, digest), (Event.CVE_EXPLOITED, listed))
        news = [(event, notice) for event, notice in found if notice is not None]
        told = len(news)

        def tell(connection: Connection) -> None:
            for event, notice in news:
                notices.post(connection, event, notice.subject, notice.body, now)
            sources.finished(connection, feed)

        store.transact(tell)
    else:
        store.transact(lambda connection: sources.finished(connection, feed))
    return Brought(imported.feed if imported is not None else feed, imported, judged, told)


def _change(store: Store, imported: Imported | None, unfinished: int | None) -> telling.Change:
    empty: frozenset[str] = frozenset()
    change = telling.Change(empty, empty, empty)
    if imported is not None:
        added, rejected = frozenset(imported.added), frozenset(imported.rejected)
        change = telling.Change(added, frozenset(imported.changed) - added - rejected, rejected)
    if unfinished is None:
        return change
    with store.read() as connection:
        before = telling.since(connection, unfinished)
    added, rejected = change.added | before.added, change.rejected | before.rejected
    return telling.Change(added - rejected, (change.changed | before.changed) - added - rejected, rejected)


def _look(store: Store, ways: Ways, feed: str, place: Place, claim: sources.Claim, scratch: Path) -> _Had:
    if place.kind is Kind.PACKAGES:
        found = changelog(strict=True)
        return _of_changelog(store, feed, found.text, found.asked_at)
    if place.kind is Kind.REPOSITORY:
        copy = Repository.copied(ways.folder / f"{feed}.git", place.where, seconds=ways.seconds, ca_file=ways.ca_file)
        return _of_repository(store, feed, copy)
    if place.kind is Kind.PATH:
        return _of_path(store, ways, feed, place.path)
    fetched = fetch(
        place.where, feed, etag=claim.etag, modified=claim.modified, seconds=ways.seconds, ca_file=ways.ca_file
    )
    if fetched.content is None:
        return _Had(None, fetched.etag, fetched.modified)
    if feed in ("cna", "ssvc"):
        path = scratch / "archive"
        path.write_bytes(fetched.content)
        had = _of_tree(store, feed, path, changed_at=fetched.changed_at)
    else:
        had = _of_content(store, feed, fetched.content, fetched.changed_at)
    return _Had(had.take, fetched.etag, fetched.modified)


def _of_path(store: Store, ways: Ways, feed: str, path: Path) -> _Had:
    if not path.exists():
        raise FeedError(f"there is no {path}", hint=f"look at [feeds] {feed} in the server's configuration")
    if feed not in ("cna", "ssvc"):
        content = durable.read_bounded(path, max_bytes=LIMITS[kind_of(feed)])
        return _of_content(store, feed, content, int(path.stat().st_mtime))
    repository = Repository.at(path)
    if repository is not None:
        repository.pull(seconds=ways.seconds, ca_file=ways.ca_file)
    return _of_tree(store, feed, path)


def _of_tree(store: Store, feed: str, path: Path, *, changed_at: int | None = None, by_hand: bool = False) -> _Had:
    """The CNA's tree, or CISA's: a repository, a folder, an archive."""
    repository = Repository.at(path) if path.is_dir() else None
    if repository is not None:
        return _of_repository(store, feed, repository, by_hand=by_hand)
    as_of = int(path.stat().st_mtime) if changed_at is None else changed_at
    version = path.name if path.is_dir() else f"sha256:{_digest_of(path)}"
    if not path.is_dir() and not by_hand and _version(store, feed) == version:
        return _Had(None)
    if feed == "ssvc":
        return _of_assessments(store, read_place(path), version, as_of, None)
    return _of_records(store, read_folder(path) if path.is_dir() else read_archive(path), version, as_of, None)


def _of_repository(store: Store, feed: str, repository: Repository, *, by_hand: bool = False) -> _Had:
    """By the difference to the commit that was imported last, if it is there; else the whole."""
    commit, at = repository.commit()
    last = _version(store, feed)
    if commit == last and not by_hand:
        return _Had(None)
    cve_of, wants = (cna.cve_of, cna.wants) if feed == "cna" else (ssvc.cve_of, ssvc.wants)
    touched: frozenset[str] | None = None
    if repository.has(last):
        names = (cve_of(name) for name in repository.changed(last, commit))
        touched = frozenset(name for name in names if name is not None) | _without(store, feed)
    chosen = touched
    files = repository.files(commit, wants if chosen is None else (lambda name: wants(name) and cve_of(name) in chosen))
    where = str(repository.path)
    if feed == "ssvc":
        return _of_assessments(store, read_records(files, where, part=chosen is not None), commit, at, chosen)
    return _of_records(store, read_tree(files, where, part=chosen is not None), commit, at, chosen)


def _of_records(store: Store, tree: Cna, version: str, as_of: int, touched: frozenset[str] | None) -> _Had:
    return _Had(
        lambda store, now: importing.import_cna(store, tree, version=version, as_of=as_of, now=now, touched=touched)
    )


def _of_assessments(store: Store, found: Ssvc, version: str, as_of: int, touched: frozenset[str] | None) -> _Had:
    if touched is None:
        _check_whole(store, "ssvc", found.read)
    return _Had(
        lambda store, now: importing.import_ssvc(store, found, version=version, as_of=as_of, now=now, touched=touched)
    )


def _of_changelog(store: Store, feed: str, text: str, as_of: int | None, *, by_hand: bool = False) -> _Had:
    releases = read_changelog(text)
    branch = branch_of(releases[0].version)
    if feed not in (CHANGELOG, f"{CHANGELOG}-{branch}"):
        raise FeedError(
            f"the changelog's newest upload is {releases[0].version[:60]}, of {branch or 'no branch'}: it is not {feed}",
            hint="a changelog is configured under the branch of its newest upload",
        )
    other = branch_of(_versions(store).get(feed, "")) != branch
    if not by_hand and not other:
        _check_whole(store, feed, len({(release.version, fix.cve) for release in releases for fix in release.fixes}))
    return _Had(
        lambda store, now: importing.import_changelog(
            store, releases, as_of=now if as_of is None else as_of, now=now, name="" if by_hand else feed
        )
    )


def _of_content(store: Store, feed: str, content: bytes, changed_at: int | None, *, by_hand: bool = False) -> _Had:
    content = unpacked(content, f"the feed {feed}", MAX_UNPACKED)
    text = "" if feed == "kev" else content.decode("utf-8", errors="replace")
    if is_changelog(feed):
        return _of_changelog(store, feed, text, changed_at, by_hand=by_hand)
    if feed == "kev":
        catalogue = read_kev(content)
        if not by_hand:
            _check_whole(store, feed, len(catalogue.entries))
        return _Had(lambda store, now: importing.import_kev(store, catalogue, now=now))
    if feed == "epss":
        scores = read_epss(text)
        as_of = scores.at or changed_at
        if not by_hand and not scores.scores:
            raise FeedError("FIRST's scores hold none that can be read", hint="what was there is kept")
        return _Had(
            lambda store, now: importing.import_epss(store, scores, as_of=now if as_of is None else as_of, now=now)
        )
    rows = read_bod(text)
    version = f"sha256:{hashlib.sha256(content).hexdigest()[:16]}"
    return _Had(lambda store, now: importing.import_bod(store, rows, version=version, now=now))


def _check_whole(store: Store, feed: str, records: int) -> None:
    """Refuse what has less than half of what was there: it was cut short, or is something else."""
    with store.read() as connection:
        before = connection.execute(select(feeds.c.records).where(feeds.c.name == feed)).scalar() or 0
    if records * 2 < before:
        raise FeedError(
            f"the feed {feed} has {records} records, and had {before}: what was there is kept",
            hint=f"if that is right, import it by hand: kmend-server feeds import {feed} FILE",
        )


def _without(store: Store, feed: str) -> frozenset[str]:
    """CVEs that have come since the assessments were read last."""
    if feed != "ssvc":
        return frozenset()
    with store.read() as connection:
        last = connection.execute(select(feeds.c.imported_at).where(feeds.c.name == feed)).scalar() or 0
        return frozenset(connection.execute(select(cves.c.cve).where(cves.c.first_seen_at >= last)).scalars())


def _version(store: Store, feed: str) -> str:
    with store.read() as connection:
        return connection.execute(select(feeds.c.version).where(feeds.c.name == feed)).scalar() or ""


def _digest_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
