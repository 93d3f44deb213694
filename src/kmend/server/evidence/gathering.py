"""What goes into a pack, from the database and the repository, member by member: nothing holds all of it.

One snapshot of the database, in the order in which files are written; what is written of hosts while their reports go by waits
in a temporary file.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import IO, Any

from sqlalchemy import Connection, func, select

from kmend import __version__
from kmend.core.document import decode, encode
from kmend.core.errors import MalformedError
from kmend.core.manifest import Manifest
from kmend.core.wire import MAX_REQUEST_BYTES, CheckIn
from kmend.intel.verdicts import RULES
from kmend.server.access import audit
from kmend.server.evidence import documents, inventory, ruling, timelines
from kmend.server.evidence.container import Entry
from kmend.server.evidence.documents import (
    About,
    Approval,
    CveRow,
    FeedRow,
    HostRow,
    Meaning,
    ReportRow,
    RolloutRow,
    State,
    Stay,
    Surroundings,
)
from kmend.server.evidence.errors import EvidenceError
from kmend.server.evidence.published import Fetched
from kmend.server.evidence.timelines import Said
from kmend.server.knowledge.answering import meaning
from kmend.server.knowledge.fixes import Fixes, package_of
from kmend.server.store import tables
from kmend.trust import layout

PART = 2 * 1024 * 1024
"""A list is cut into parts of about so many bytes."""
_ROWS = 500
Add = Callable[[str, bytes], Entry]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a pack is to be of.

    Attributes:
        since, until: seconds since 1970-01-01 UTC; the second is not part of the period.
        ring: empty for the whole fleet.
        actor: who asks.
        keep_days: the server forgets reports after so many days.
    """

    server: str
    since: int
    until: int
    ring: str
    actor: str
    now: int
    keep_days: int


def gather(connection: Connection, wanted: Wanted, fetched: Fetched | None, add: Add) -> None:
    """Add everything that a pack holds before its manifest."""
    head = audit.head(connection)
    if head is None:
        raise EvidenceError("the audit log is empty")
    _add_lines(add, documents.AUDIT, (audit.exported(item).encode() for item in audit.records(connection)))
    states = States(connection, fetched)
    with _Later() as population, _Later() as ways:
        fleet = _Fleet(connection, wanted, states, population, ways)
        _add_lines(add, documents.REPORTS, fleet.reports())
        _add_lines(add, documents.POPULATION, population.lines())
        _add_lines(add, documents.TIMELINES, ways.lines())
    machines = list(inventory.matched(connection, inventory.Finder(fleet.known)))
    _add_lines(add, documents.INVENTORY, (encode(item) for item in machines))
    states.add_to(add)
    if fetched is not None:
        for path, content in fetched.published.files():
            add(_place(path), content)
    _add_lines(add, documents.ROLLOUTS, _rollouts(connection, wanted))
    _add_lines(add, documents.APPROVALS, _approvals(connection, wanted))
    _add_lines(add, documents.POLICIES, ruling.policies(connection, wanted.since, wanted.until))
    _add_lines(add, documents.EXCEPTIONS, ruling.exceptions(connection, wanted.since, wanted.until))
    _add_lines(add, documents.DUE, ruling.due(connection, wanted.now, wanted.ring))
    add(documents.FEEDS, encode(_feeds(connection, wanted.now)))
    about = About(
        server=wanted.server, made_at=wanted.now, made_by=wanted.actor, since=wanted.since, until=wanted.until,
        ring=wanted.ring, hosts=fleet.hosts, reports=fleet.count, inventory=len(machines),
        covered=sum(item.host in fleet.reporting for item in machines),
        audit=head, rules=RULES, kmend=__version__, keep_days=wanted.keep_days,
    )  # fmt: skip
    add(documents.ABOUT, encode(about))


def _place(path: str) -> str:
    """Where a file of the repository lies in a pack; the digest in the name of a list of levels would be too long there."""
    parts = path.split("/")
    return f"{documents.LEVELS}/{parts[2]}.json" if parts[0] == layout.TARGETS else path


class States:
    """What is open in each state that a host was in; computed when it is first asked for.

    Levels are those of the signed metadata that goes into the same pack: the database may know one more already, or not yet.

    Attributes:
        builds: kernel builds that were asked for.
    """

    def __init__(self, connection: Connection, fetched: Fetched | None) -> None:
        self._connection = connection
        self._fetched = fetched
        self._affected: dict[str, list[Meaning]] = {}
        self._levels: dict[str, dict[int, dict[str, tuple[str, ...]]]] = {}
        self._watched: dict[str, frozenset[str]] = {}
        self._states: dict[tuple[str, int], State] = {}
        self._around: dict[str, Surroundings] = {}

    @property
    def builds(self) -> tuple[str, ...]:
        """In order."""
        return tuple(sorted(self._levels))

    def open_in(self, build_id: str, level: int) -> tuple[str, ...]:
        """The CVEs that are open in a state."""
        key = build_id, level
        if key not in self._states:
            self._know(build_id)
            self._states[key] = timelines.state(build_id, level, self._affected[build_id], self._levels[build_id])
        return self._states[key].open

    def around(self, said: Said, build_id: str, level: int) -> str:
        """The name of the surroundings of a host that has said this of its modules."""
        if said.report is None:
            return ""
        self._know(build_id)
        found = timelines.around_of(said, build_id, level, self._watched[build_id])
        name = timelines.name_of(found)
        if found is not None and name not in self._around:
            self._around[name] = timelines.surroundings(found, self._affected[build_id], self._levels[build_id])
        return name

    def surroundings(self, name: str) -> Surroundings:
        """What surroundings change that `around` has named."""
        return self._around[name]

    def _know(self, build_id: str) -> None:
        if build_id in self._levels:
            return
        self._levels[build_id] = {
            found.level: {cve: found.objects_of(cve) for cve in found.cves} for _, found in self._manifests(build_id)
        }
        named = {cve for closes in self._levels[build_id].values() for cve in closes}
        self._affected[build_id] = list(_meanings(self._connection, build_id, named))
        self._watched[build_id] = timelines.watched(self._affected[build_id])

    def add_to(self, add: Add) -> None:
        """What the states follow from, and they themselves."""
        fixes = Fixes(self._connection)
        packages = {build_id: package_of(self._connection, build_id) for build_id in self.builds}
        rows = (
            encode(item if fix is None else replace(item, fixed_in=fix.package))
            for build_id in self.builds
            for item in self._affected[build_id]
            for fix in (fixes.of(packages[build_id], item.cve),)
        )
        _add_lines(add, documents.KERNELS, rows)
        _add_lines(add, documents.STATES, (encode(self._states[key]) for key in sorted(self._states)))
        _add_lines(add, documents.SURROUNDINGS, (encode(self._around[name]) for name in sorted(self._around)))
        named = {cve for item in self._states.values() for cve in (*item.open, *item.live_patched)}
        _add_lines(add, documents.CVES, (encode(item) for item in _cves(self._connection, named)))
        for build_id in self.builds:
            for content, manifest in self._manifests(build_id):
                add(f"{documents.MANIFESTS}/{build_id}/{manifest.level:06}.json", content)

    def _manifests(self, build_id: str) -> Iterator[tuple[bytes, Manifest]]:
        if self._fetched is None:
            return
        self._fetched.take_build(build_id)
        table = tables.levels.c
        for number, record in sorted(self._fetched.published.levels(build_id).items()):
            kept = select(table.manifest).where(
                table.build_id == build_id, table.level == number, table.manifest_sha256 == record.manifest.sha256
            )
            content = self._connection.execute(kept).scalar()
            if content is None:
                content = self._fetched.manifest(record)
            yield content, decode(Manifest, content, max_bytes=layout.MAX_MANIFEST_BYTES)


def _meanings(connection: Connection, build_id: str, named: set[str]) -> Iterator[Meaning]:
    """What CVEs mean for a build; those that levels name too, though nothing is kept of them."""
    table = tables.applicability
    query = select(table).where(table.c.build_id == build_id).order_by(table.c.cve)
    for row in connection.execute(query.execution_options(yield_per=_ROWS)):
        objects, evidence = tuple(json.loads(row.objects)), tuple(json.loads(row.evidence))
        named.discard(row.cve)
        yield Meaning(
            build_id, row.cve, row.affected, row.reason, row.presence, objects, evidence, "", complete=row.complete
        )
    for cve in sorted(named):
        found = meaning(connection, cve, build_id)
        yield Meaning(
            build_id, cve, found.affected, found.reason.value, found.presence.value, found.objects, found.evidence, "",
            complete=found.complete,
        )  # fmt: skip


@dataclass(slots=True)
class _Fleet:
    """Goes through hosts and their reports side by side, both in the order of the hosts' IDs."""

    connection: Connection
    wanted: Wanted
    states: States
    population: _Later
    ways: _Later
    hosts: int = 0
    count: int = 0
    known: list[inventory.Known] = field(default_factory=list)
    reporting: set[str] = field(default_factory=set)

    def reports(self) -> Iterator[bytes]:
        """The lines of `reports/`; those of `population/` and `timelines/` go where they wait."""
        found = iter(_reports(self.connection, self.wanted))
        row = next(found, None)
        counts = timelines.counting(timelines.opened(self.states.open_in, self.states.surroundings))
        for host, tags in _hosts(self.connection, self.wanted):
            stays: list[Stay] = []
            last: CheckIn | None = None
            said = Said()
            while row is not None and row.host == host.id:
                message = decode(CheckIn, row.body, max_bytes=MAX_REQUEST_BYTES)
                if message.state is None:
                    raise MalformedError(f"report {row.counter} of host {row.host} holds no state")
                said = timelines.said_after(said, message)
                stays.append(timelines.stay_of(message, message.state, partial(self.states.around, said)))
                last = message
                yield encode(ReportRow(row.host, row.counter, row.received_at, row.signature, row.body.decode()))
                row = next(found, None)
            self.hosts += 1
            self.count += len(stays)
            shown = _host_row(host, tags, len(stays), last)
            if shown.state == "enrolled":
                self.known.append(inventory.Known(shown.id, shown.name, shown.machine))
            if is_reporting(shown, self.wanted.since):
                self.reporting.add(shown.id)
            self.population.put(encode(shown))
            self.ways.put(encode(timelines.timeline(host.id, stays, counts)))


def is_reporting(host: HostRow, since: int) -> bool:
    """Whether a machine counts as covered: its host is enrolled, has reported, and has checked in since the period began."""
    return host.state == "enrolled" and host.last_report > 0 and host.last_seen >= since


def _hosts(connection: Connection, wanted: Wanted) -> Iterator[tuple[Any, dict[str, str]]]:
    """Every host that was ever enrolled before the period's end, with its tags; by their IDs."""
    table = tables.hosts.c
    last = ""
    while True:
        query = select(tables.hosts).where(table.id > last, table.enrolled_at < wanted.until).order_by(table.id)
        if wanted.ring:
            query = query.where(table.ring == wanted.ring)
        rows = connection.execute(query.limit(_ROWS)).all()
        tags: dict[str, dict[str, str]] = {}
        own = select(tables.host_tags).where(tables.host_tags.c.host.in_([row.id for row in rows]))
        for tag in connection.execute(own):
            tags.setdefault(tag.host, {})[tag.name] = tag.value
        for row in rows:
            yield row, tags.get(row.id, {})
        if len(rows) < _ROWS:
            return
        last = rows[-1].id


def _reports(connection: Connection, wanted: Wanted) -> Iterator[Any]:
    """Reports of the period, and of each host the last one before it, with which it came into the period."""
    table, hosts = tables.reports.c, tables.hosts.c
    before = (
        select(table.host, func.max(table.counter).label("counter"))
        .where(table.received_at < wanted.since)
        .group_by(table.host)
        .subquery()
    )
    query = (
        select(table.host, table.counter, table.received_at, table.signature, table.body)
        .join_from(tables.reports, before, table.host == before.c.host, isouter=True)
        .join(tables.hosts, hosts.id == table.host)
        .where(table.received_at < wanted.until, hosts.enrolled_at < wanted.until)
        .where(table.counter >= func.coalesce(before.c.counter, 0))
        .order_by(table.host, table.counter)
    )
    if wanted.ring:
        query = query.where(hosts.ring == wanted.ring)
    yield from connection.execute(query.execution_options(yield_per=_ROWS))


def _host_row(host: Any, tags: dict[str, str], count: int, last: CheckIn | None) -> HostRow:
    report = last.state if last is not None else None
    held = report.loaded if report is not None else None
    return HostRow(
        id=host.id,
        name=report.facts.name if report is not None else host.name,
        ring=host.ring,
        state=host.state,
        tags=tags,
        enrolled_at=host.enrolled_at,
        last_seen=host.last_seen,
        public_key=host.public_key,
        parent=host.parent or "",
        reports=count,
        last_report=last.counter if last is not None else 0,
        machine=report.facts.machine if report is not None else host.machine,
        build_id=report.kernel.build_id if report is not None else "",
        release=report.kernel.release if report is not None else "",
        version=report.kernel.version if report is not None else "",
        level=held.level if held is not None else 0,
    )


def _rollouts(connection: Connection, wanted: Wanted) -> Iterator[bytes]:
    table, targets = tables.rollouts.c, tables.rollout_targets.c
    query = select(tables.rollouts).where(table.created_at < wanted.until, table.changed_at >= wanted.since)
    for row in connection.execute(query.order_by(table.id)).all():
        own = connection.execute(select(targets.build_id, targets.level).where(targets.rollout == row.id))
        state = row.override or row.state  # paused or halted is stronger
        yield encode(
            RolloutRow(
                row.id, row.name, state, row.emergency, row.created_at, row.created_by, row.changed_at, row.reason,
                row.plan, {target.build_id: target.level for target in own},
            )
        )  # fmt: skip


def _approvals(connection: Connection, wanted: Wanted) -> Iterator[bytes]:
    table = tables.approvals.c
    query = select(tables.approvals).where(table.at >= wanted.since, table.at < wanted.until, table.approved)
    for row in connection.execute(query.order_by(table.id)):
        yield encode(Approval(row.rollout, row.stage, row.actor, row.reason, row.at))


def _feeds(connection: Connection, now: int) -> list[FeedRow]:
    rows = connection.execute(select(tables.feeds).order_by(tables.feeds.c.name)).all()
    return [
        FeedRow(row.name, row.version, max(0, now - row.as_of), row.imported_at, row.records, row.aside_count)
        for row in rows
    ]


def _cves(connection: Connection, named: set[str]) -> Iterator[CveRow]:
    told = {row.cve: row for row in connection.execute(select(tables.cves)) if row.cve in named}
    signals = {row.cve: row for row in connection.execute(select(tables.cve_signals)) if row.cve in named}
    for cve in sorted(named):
        record, signal = told.get(cve), signals.get(cve)
        yield CveRow(
            cve,
            record.title if record is not None else "",
            record.cvss if record is not None else "",
            record is not None and record.rejected,
            record.published_at if record is not None else None,
            signal.kev_added if signal is not None else None,
            signal.kev_due if signal is not None else None,
            signal.epss if signal is not None else None,
        )


class _Later:
    """Lines that wait in a temporary file."""

    def __enter__(self) -> _Later:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="kmend-evidence-")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, line: bytes) -> None:
        """One line more."""
        self._file.write(line + b"\n")

    def lines(self) -> Iterator[bytes]:
        """All of them."""
        self._file.seek(0)
        for line in self._file:
            yield line[:-1]


def _add_lines(add: Add, folder: str, lines: Iterable[bytes]) -> None:
    """A list in parts; an empty list is one empty part, so that what is missing is seen to be missing."""
    number, size = 1, 0
    waiting: list[bytes] = []
    for line in lines:
        if size + len(line) > PART and waiting:
            add(f"{folder}/{number:05}.ndjson", b"".join(waiting))
            number, size, waiting = number + 1, 0, []
        waiting.append(line + b"\n")
        size += len(line) + 1
    if waiting or number == 1:
        add(f"{folder}/{number:05}.ndjson", b"".join(waiting))
