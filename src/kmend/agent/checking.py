"""`check`: refresh the repository, find out which level this host should run, and remember the answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kmend.agent import choice, handover, offers, policy, recalled, statefile
from kmend.agent.config import Config
from kmend.agent.errors import AgentError, BlockedError, ConfigError, NotPossibleError, NotSupportedError
from kmend.agent.livekernel import View
from kmend.agent.policy import Publication
from kmend.agent.session import Session
from kmend.core import durable
from kmend.core.document import encode
from kmend.core.errors import KmendError, SystemProblemError
from kmend.core.manifest import LevelRecord, Levels, Manifest
from kmend.core.recall import Recalls
from kmend.trust.network import Network

if TYPE_CHECKING:
    # Importing tuf takes 0.1 s and 15 MB, which commands that need no repository are spared.
    from kmend.trust.client import Repository
    from kmend.trust.transport import Transport

MAX_CANDIDATES = 16
MAX_PUBLICATIONS = 200


@dataclass(frozen=True, slots=True)
class LevelSummary:
    """A level, for reports."""

    level: int
    module: str
    cves: tuple[str, ...]
    titles: tuple[str, ...]

    @classmethod
    def of(cls, manifest: Manifest) -> LevelSummary:
        """Summarise a manifest."""
        return cls(manifest.level, manifest.module.name, manifest.cves, tuple(fix.title for fix in manifest.fixes))


@dataclass(frozen=True, slots=True)
class LastCheck:
    """`last_check.json`: what the last check found.

    Attributes:
        at: when, in seconds since 1970-01-01 UTC.
        good_at: when the last successful one was, 0 if there was none.
        kind: of the error, empty if it succeeded.
        supported: whether the repository has levels for this kernel build; None if that is not known.
        published: every level published for it, in rising order.
        newer: manifests that were looked at, so that `outlook` can judge anew when quarantine or kernel have changed.
        expires: when the repository's statement expires.
        publications: of the newest levels, newest first, as signed.
    """

    build_id: str
    at: int
    good_at: int
    kind: str
    message: str
    supported: bool | None
    published: tuple[int, ...]
    newer: tuple[Manifest, ...]
    expires: int
    publications: tuple[Publication, ...] = ()
    format: str = "kmend-last-check/1"


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at the repository found.

    Attributes:
        records: by level.
        looked_at: manifests that were needed to choose.
        publications: of the newest levels, newest first.
        recalls: what the publisher has recalled.
    """

    choice: choice.Choice
    records: dict[int, LevelRecord]
    looked_at: tuple[Manifest, ...]
    publications: tuple[Publication, ...]
    recalls: Recalls


def recorded_check(session: Session) -> LastCheck | None:
    """What the last check with privilege on this kernel build found; None if there was none."""
    found = statefile.load(_path(session), LastCheck)
    return found if found is not None and found.build_id == session.running.build_id else None


def last_check(session: Session) -> LastCheck | None:
    """What the last check on this kernel build found; None if there was none.

    The service looks more often than the loader, and says when it found nothing new, or failed. It is believed as long as the
    repository's statement lasts that was verified with privilege.
    """
    found = recorded_check(session)
    said = handover.read_fetch(session.paths)
    now = session.clock.now()
    if said is None or said.build_id != session.running.build_id or not 0 <= said.at <= now + 60:
        return found
    if found is None:
        if not said.kind:
            return None  # the loader has not looked at it yet
        return LastCheck(said.build_id, said.at, 0, said.kind, said.message, None, (), (), 0)
    if said.at <= found.at <= now + 60:  # else the clock was set back since
        return found
    good = max(found.good_at, min(said.good_at, said.at, found.expires))
    return dataclasses.replace(found, at=said.at, good_at=good, kind=said.kind, message=said.message)


@contextmanager
def opened(session: Session, *, state: Path | None = None, transport: Transport | None = None) -> Iterator[Repository]:
    """The configured repository, refreshed.

    Args:
        state: for what was verified; None takes this host's own.
        transport: stays open; None makes one for this time.

    Raises:
        ConfigError: none is configured.
        TrustError: it is not reachable or not trustworthy.
    """
    from kmend.trust.client import open_repository
    from kmend.trust.transport import Transport

    config = session.config
    if not config.repository.url:
        raise ConfigError("no repository is configured", hint="set repository.url and repository.root in agent.toml")
    root = session.paths.root / Path(config.repository.root).relative_to("/")
    try:
        bootstrap = durable.read_bounded(root, max_bytes=512_000)
    except SystemProblemError as problem:
        raise ConfigError(problem.message, hint="install the publisher's root.json there") from None
    state = state or session.paths.state / "repository"
    url = session.host.source or config.repository.url
    with ExitStack() as stack:
        if transport is None:
            # What the service has fetched lies where its account may put anything.
            beneath = session.paths.fetched if session.host.source else None
            transport = stack.enter_context(closing(Transport(network(config), beneath=beneath)))
        yield stack.enter_context(open_repository(url, bootstrap=bootstrap, state=state, transport=transport))


def network(config: Config) -> Network:
    """What the transport is to obey."""
    members = {item.name: getattr(config.network, item.name) for item in dataclasses.fields(config.network)}
    return Network(connect=max(1, config.timing.connect), read=max(1, config.timing.read), **members)


def levels_of(session: Session, repository: Repository) -> Levels:
    """The levels of the running kernel build.

    Raises:
        NotSupportedError: the repository has none.
    """
    levels = repository.levels(session.running.build_id)
    if levels is None:
        raise NotSupportedError(
            f"the repository has no livepatch for this kernel build: {session.running.release} "
            f"({session.running.version}), build ID {session.running.build_id}"
        )
    return levels


@contextmanager
def recorded(session: Session) -> Iterator[None]:
    """Record a failing check before its error goes on; what this host itself refuses is not the repository's failure."""
    try:
        yield
    except KmendError as problem:
        if isinstance(problem, AgentError) and not isinstance(problem, (NotSupportedError, ConfigError)):
            raise
        before = recorded_check(session)
        unsupported = isinstance(problem, NotSupportedError)
        now = session.clock.now()
        _save(
            session,
            LastCheck(
                build_id=session.running.build_id,
                at=now,
                good_at=now if unsupported else (before.good_at if before is not None else 0),
                kind="" if unsupported else problem.kind,
                message=problem.message,
                supported=False if unsupported else (before.supported if before is not None else None),
                published=() if unsupported or before is None else before.published,
                newer=() if unsupported or before is None else before.newer,
                expires=before.expires if before is not None else 0,
                # Kept although nothing is supported now: at boot a pin holds by them.
                publications=before.publications if before is not None else (),
            ),
        )
        raise


def find(session: Session, repository: Repository) -> tuple[choice.Choice, dict[int, LevelRecord]]:
    """Choose the level to load and record the answer; also returns the level records by number."""
    found = look(session, repository)
    recalled.remember(session, found.recalls)
    now = session.clock.now()
    _save(
        session,
        LastCheck(
            build_id=session.running.build_id,
            at=now,
            good_at=now,
            kind="",
            message="",
            supported=True,
            published=tuple(sorted(found.records)),
            newer=_bounded(found.looked_at),
            expires=repository.freshness.expires,
            publications=found.publications,
        ),
    )
    return found.choice, found.records


def look(session: Session, repository: Repository) -> Look:
    """Choose the level to load.

    Raises:
        NotSupportedError: the repository has nothing for this kernel build.
        TrustError: it is not trustworthy.
    """
    records = {record.level: record for record in levels_of(session, repository).levels}
    view = session.kernel.view()
    loaded = known_loaded(session, repository, records)
    floor = loaded.level if loaded is not None else 0
    newest = sorted(records, reverse=True)
    fetch = _fetcher(session, repository, records)
    looked_at: list[Manifest] = []

    def candidates() -> Iterator[Manifest]:
        for level in [level for level in newest if level > floor][:MAX_CANDIDATES]:
            manifest = fetch(level)
            looked_at.append(manifest)
            yield manifest

    publications = tuple(
        Publication(level, records[level].published, records[level].channel) for level in newest[:MAX_PUBLICATIONS]
    )
    recalls = repository.recalls()
    answer = _choose(session, view, loaded, candidates(), publications, recalls)
    return Look(answer, records, tuple(looked_at), publications, recalls)


def named(session: Session, repository: Repository, level: int) -> Manifest:
    """The manifest of a level that a person asked for; quarantine does not hold it back, a regression does.

    Raises:
        BlockedError: it would take away fixes, or is not newer than what is loaded.
        NotPossibleError: there is no such level.
    """
    records = {record.level: record for record in levels_of(session, repository).levels}
    if level not in records:
        known = ", ".join(str(number) for number in sorted(records)) or "none"
        raise NotPossibleError(f"the repository has no level {level} for this kernel build; it has {known}")
    loaded = known_loaded(session, repository, records)
    manifest = _fetcher(session, repository, records)(level)
    if loaded is not None and manifest.level < loaded.level:
        raise BlockedError(
            f"level {level} is older than level {loaded.level}, which is in force", hint=f"kmend rollback --to {level}"
        )
    recalls = repository.recalls()
    if why := recalled.reason(recalls, manifest):
        raise BlockedError(
            f"level {level}: {why}", hint="its publisher takes a recall back, or publishes a level that clears it"
        )
    lost = choice.regression(manifest, loaded, recalls)
    if lost:
        raise BlockedError(f"level {level} {lost}")
    return manifest


def known_loaded(session: Session, repository: Repository, records: dict[int, LevelRecord]) -> Manifest | None:
    """The manifest of what is loaded: from this host, else from the repository if it knows the very module."""
    loaded = session.loaded(view := session.kernel.view())
    if loaded is not None or view.current is None:
        return loaded
    fetch = _fetcher(session, repository, records)
    for manifest in (fetch(level) for level in sorted(records, reverse=True)[:MAX_CANDIDATES]):
        if manifest.module.name == view.current.name:
            return manifest
    return None


def outlook(session: Session, view: View, last: LastCheck | None) -> choice.Choice:
    """What an update would do, from what the last check saw and from what is true now; asks no network."""
    if last is None:
        return choice.Choice(None)
    loaded = session.loaded(view)
    floor = loaded.level if loaded is not None else 0
    known = {manifest.level: manifest for manifest in (*session.store.manifests(session.running.build_id), *last.newer)}
    newer = (known[level] for level in sorted(known, reverse=True) if level > floor and level in last.published)
    return _choose(session, view, loaded, newer, last.publications, recalled.known(session))


def _choose(
    session: Session,
    view: View,
    loaded: Manifest | None,
    newer: Iterable[Manifest],
    publications: tuple[Publication, ...],
    recalls: Recalls,
) -> choice.Choice:
    if view.current is not None and loaded is None:
        reason = f"{view.current.name} is loaded and neither this host nor the repository knows it"
        return choice.Choice(None, tuple(choice.Obstacle(manifest.level, reason) for manifest in newer))
    known = {publication.level: publication for publication in publications}
    now = session.clock.now()

    led = bool(session.config.server.url)
    offer = offers.read(session.paths) if led else None

    def withheld(manifest: Manifest) -> tuple[policy.Withheld, ...]:
        publication = known.get(manifest.level, Publication(manifest.level, 0))
        rules = policy.withholding(session.config.apply, publication, now)
        rule = offers.rule(offer, session.running.build_id, manifest.level) if led else None
        return (*rules, rule) if rule is not None else rules

    return choice.choose(newer, loaded, session.quarantine.entries(), withheld, recalls)


def _bounded(manifests: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """As many as fit into a state file with room to spare; the choice is made again at the next check anyway."""
    kept: list[Manifest] = []
    size = 0
    for manifest in manifests:
        size += len(encode(manifest))
        if size > statefile.MAX_STATE_BYTES // 2:
            break
        kept.append(manifest)
    return tuple(kept)


def _fetcher(session: Session, repository: Repository, records: dict[int, LevelRecord]) -> Callable[[int], Manifest]:
    return lambda level: repository.manifest(session.running.build_id, records[level])


def _path(session: Session) -> Path:
    return session.paths.state / "last_check.json"


def _save(session: Session, document: LastCheck) -> None:
    statefile.save(_path(session), document)
