"""Check-ins: judged and answered, many in one transaction, which is on disk before anybody is answered.

What is decided of one check-in is `judge`, which is pure: the host's row, the message and the time in, an outcome out. Around it
`check_in` reads and locks the rows, lets rollouts have their say, and writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update

from kmend.core.document import encode
from kmend.core.manifest import sha256_hex
from kmend.core.wire import Answer, CheckIn, Offer, Purpose, StateReport
from kmend.server.access import audit
from kmend.server.hosts import modulesets, periods, refusals, slots
from kmend.server.hosts.directions import Directions
from kmend.server.hosts.refusals import Refused
from kmend.server.hosts.seen import Direction, Seen
from kmend.server.hosts.signatures import signed
from kmend.server.notices import Event, post
from kmend.server.store import tables
from kmend.server.store.tables import hosts, reports, ring_levels

KEPT_BOOTS = 8
TELL_CLONES_SECONDS = 3600
"""Of a host whose identity two machines use, people are told so often at most, and the audit log as often."""
MAX_REPORTS_AN_HOUR = 60
"""So many reports of a host are kept as evidence; one more takes the place of the newest, so that a host fills no disk."""
MAX_RESYNCS = 3
"""So often on one boot a counter may lie behind; after that two machines share the identity, whose boot IDs are the same too."""
TAG_LENGTH = 16
ENROLLED, EXPIRED, DECOMMISSIONED = "enrolled", "expired", "decommissioned"


@dataclass(frozen=True, slots=True)
class Received:
    """A check-in as it came; nobody has looked at its signature yet.

    Attributes:
        body: byte for byte as it was signed.
        address: where it came from.
    """

    body: bytes
    signature: str
    address: str
    message: CheckIn


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What an answer depends on besides host and message.

    Attributes:
        timestamp: the repository's current timestamp metadata.
        interval: seconds between two check-ins of a host.
    """

    server: str
    timestamp: str
    interval: int
    now: int


@dataclass(frozen=True, slots=True)
class Known:
    """What the server knows of a host, as far as a check-in is concerned; a row of `hosts`."""

    id: str
    public_key: str
    name: str
    ring: str
    state: str
    counter: int
    boot_id: str
    boots: str
    resyncs: int
    report: str
    machine: str
    build_id: str
    level: int
    trying: int
    phase: str
    accepts_return: bool
    hardware: str
    role: str
    distro: str
    answer: str
    refuses: str
    cloned_at: int
    modules: str = ""
    loaded: str = ""
    barred: str = ""
    absent: str = ""
    sealed: bool = False
    unpatched: str = "[]"


_COLUMNS = [hosts.c[name] for name in Known.__slots__]
_UPDATE = (
    update(hosts)
    .where(hosts.c.id == bindparam("host"))
    .values({name: bindparam(f"new_{name}") for name in ("counter", "last_seen", "next_due", "answer", "address")})
)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A check-in that counts.

    Attributes:
        changes: columns of the host's row that change besides its counter.
        report: to be kept as evidence; None if none came.
        lists: of modules' names, that the changes name: digest -> JSON.
    """

    seen: Seen
    changes: Mapping[str, object]
    report: StateReport | None
    send_state: bool
    send_modules: bool = False
    lists: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resync:
    """A counter that lies behind: refused, and remembered."""

    refused: Refused
    resyncs: int


Outcome = Accepted | Resync | Refused


def judge(known: Known | None, received: Received, server: str) -> Outcome:
    """What is to be made of one check-in, rollouts aside."""
    message = received.message
    if known is None:
        return refusals.UNKNOWN_HOST
    if not signed(known.public_key, received.signature, Purpose.CHECK_IN, server, received.body):
        return refusals.BAD_SIGNATURE
    if known.state != ENROLLED:
        return refusals.EXPIRED if known.state == EXPIRED else refusals.DECOMMISSIONED
    former: list[str] = json.loads(known.boots)
    report = message.state
    if report is not None and known.machine and report.facts.machine != known.machine:
        return refusals.CLONED
    if message.counter <= known.counter:
        if message.boot_id in former:
            return refusals.counter_behind(known.counter)  # mostly an old message that comes a second time
        if known.resyncs >= MAX_RESYNCS:
            return refusals.CLONED
        return Resync(refusals.counter_behind(known.counter), known.resyncs + 1)
    if message.boot_id in former:
        return refusals.CLONED  # a boot ID never comes back
    if report is not None:
        if sha256_hex(encode(report)) != message.report:
            return refusals.malformed("the state report is not the one whose digest is named")
        if report.boot_id != message.boot_id:
            return refusals.malformed("the state report is of another boot")
    rebooted = known.boot_id not in ("", message.boot_id)
    changes: dict[str, object] = {}
    if message.boot_id != known.boot_id:
        boots = [known.boot_id, *former][:KEPT_BOOTS] if known.boot_id else former
        changes |= {"boot_id": message.boot_id, "boots": json.dumps(boots), "resyncs": 0}
    if report is not None and message.report != known.report:
        changes |= columns(message.report, report)
    lists: dict[str, str] = {}
    news = message.modules != known.modules
    if message.module_report is not None and news:
        values, lists = modulesets.columns(message.modules, message.module_report)
        changes |= values
    elif known.modules and (not message.modules or (news and message.boot_id != known.boot_id)):
        # What was said before holds no more; on the same boot it does until the host has sent the new one.
        changes |= modulesets.NONE
    return Accepted(
        _seen(known, message, report, rebooted=rebooted),
        changes,
        report if message.report != known.report or lists else None,
        send_state=report is None and message.report != known.report,
        send_modules=bool(message.modules) and news and message.module_report is None,
        lists=lists,
    )


def columns(digest: str, report: StateReport) -> dict[str, object]:
    """The columns of `hosts` that a state report fills."""
    loaded, trying = report.loaded, report.trying
    return {
        "report": digest,
        "name": report.facts.name,
        "machine": report.facts.machine,
        "build_id": report.kernel.build_id,
        "release": report.kernel.release,
        "version": report.kernel.version,
        "architecture": report.kernel.architecture,
        "level": loaded.level if loaded is not None else 0,
        "module": loaded.module if loaded is not None else "",
        "trying": trying.level if trying is not None else 0,
        "phase": report.state,
        "accepts_return": report.accepts_return,
        "supported": report.supported,
        "hardware": report.facts.hardware,
        "role": report.facts.role,
        "distro": report.facts.distro,
        "agent": report.facts.agent,
        "trouble": report.remarks[0].kind if report.remarks else "",
        "refuses": json.dumps(refused_levels(report)),
    }


def refused_levels(report: StateReport) -> tuple[int, ...]:
    """Levels that a host does not load by itself: in quarantine, or kept from it by its own policy, the server's rule aside."""
    own = [item.level for item in report.withheld if set(item.rules) - {"server"}]
    return tuple(sorted({*own, *(failure.level for failure in report.failures)}))


def _seen(known: Known, message: CheckIn, report: StateReport | None, *, rebooted: bool) -> Seen:
    if report is None:
        return Seen(
            known.id, known.ring, known.build_id, known.level, known.trying, known.phase, message.boot_id,
            stale=message.report != known.report,
            rebooted=rebooted, accepts_return=known.accepts_return, refuses=tuple(json.loads(known.refuses)),
            hardware=known.hardware, role=known.role, distro=known.distro,
        )  # fmt: skip
    return Seen(
        host=known.id,
        ring=known.ring,
        build_id=report.kernel.build_id,
        level=report.loaded.level if report.loaded is not None else 0,
        trying=report.trying.level if report.trying is not None else 0,
        phase=report.state,
        boot_id=message.boot_id,
        rebooted=rebooted,
        clean_boot=report.clean_boot,
        failures=report.failures,
        withheld=report.withheld,
        refuses=refused_levels(report),
        accepts_return=report.accepts_return,
        reported=True,
        hardware=report.facts.hardware,
        role=report.facts.role,
        distro=report.facts.distro,
    )


def check_in(
    connection: Connection, batch: Sequence[Received], circumstances: Circumstances, directions: Directions
) -> list[Answer | Refused]:
    """Judge and answer check-ins, in their order, in the caller's transaction; the answers count once that is committed.

    Several of one host in a batch are judged one after the other.
    """
    several = len({received.message.host for received in batch}) < len(batch)
    answers = _strangers(connection, batch, circumstances.server) if several else {}
    rounds = _rounds(batch, answers)
    live = directions.lock(connection)
    for places in rounds:
        found = _round(connection, [batch[place] for place in places], circumstances, directions, live)
        answers.update(zip(places, found, strict=True))
    return [answers[place] for place in range(len(batch))]


def _strangers(connection: Connection, batch: Sequence[Received], server: str) -> dict[int, Answer | Refused]:
    """Who is not whom he says, before anything is locked: or many that give one name would be judged one after the other.

    Keys of hosts never change.
    """
    names = sorted({received.message.host for received in batch})
    rows = connection.execute(select(hosts.c.id, hosts.c.public_key).where(hosts.c.id.in_(names)))
    keys: dict[str, str] = {row.id: row.public_key for row in rows}
    found: dict[int, Answer | Refused] = {}
    for place, received in enumerate(batch):
        key = keys.get(received.message.host)
        if key is None:
            found[place] = refusals.UNKNOWN_HOST
        elif not signed(key, received.signature, Purpose.CHECK_IN, server, received.body):
            found[place] = refusals.BAD_SIGNATURE
    return found


def _rounds(batch: Sequence[Received], answered: Mapping[int, object]) -> list[list[int]]:
    """Places in the batch, so that no host is twice in a round; mostly there is just one."""
    rounds: list[list[int]] = []
    times: dict[str, int] = {}
    for place, received in enumerate(batch):
        if place in answered:
            continue
        number = times.get(received.message.host, 0)
        times[received.message.host] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(place)
    return rounds


def _round(
    connection: Connection,
    batch: Sequence[Received],
    circumstances: Circumstances,
    directions: Directions,
    live: object | None,
) -> list[Answer | Refused]:
    known = _lock(connection, {received.message.host for received in batch})
    outcomes = [judge(known.get(received.message.host), received, circumstances.server) for received in batch]
    accepted = [outcome for outcome in outcomes if isinstance(outcome, Accepted)]
    told: dict[str, Direction] = {}
    if live is not None and accepted:
        seen = _tagged(connection, accepted)
        directions.observe(connection, live, seen, circumstances.now)
        told = directions.directions(connection, live, seen, circumstances.now)
    released = _released(connection, {(item.seen.ring, item.seen.build_id) for item in accepted})
    worse = _regressions(connection, accepted, released)
    answers: list[Answer | Refused] = []
    rows: list[dict[str, object]] = []
    for received, outcome in zip(batch, outcomes, strict=True):
        if isinstance(outcome, Accepted):
            offer = _offer(outcome.seen, told.get(outcome.seen.host, Direction()), released, worse)
            answer = _answer(received, outcome, offer, told.get(outcome.seen.host, Direction()), circumstances)
            answers.append(answer)
            rows.append(_row(received, answer, circumstances.now))
        else:
            answers.append(outcome.refused if isinstance(outcome, Resync) else outcome)
    _write(connection, batch, outcomes, rows, known, circumstances.now)
    return answers


def _lock(connection: Connection, ids: set[str]) -> dict[str, Known]:
    query = select(*_COLUMNS).where(hosts.c.id.in_(sorted(ids))).order_by(hosts.c.id).with_for_update()
    return {row.id: Known(*row) for row in connection.execute(query)}


def _released(connection: Connection, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """(ring, kernel build) -> the level that every host there may have."""
    builds = sorted({build for _, build in wanted if build})
    if not builds:
        return {}
    query = select(ring_levels.c.ring, ring_levels.c.build_id, ring_levels.c.level)
    halted = select(tables.rollouts.c.id).where(tables.rollouts.c.override == "halted")
    query = query.where(
        ring_levels.c.build_id.in_(builds), ring_levels.c.rollout.is_(None) | ring_levels.c.rollout.not_in(halted)
    )
    rows: Iterable[Row[Any]] = connection.execute(query)
    return {(row.ring, row.build_id): row.level for row in rows}


def _tagged(connection: Connection, accepted: Sequence[Accepted]) -> list[Seen]:
    """What is seen of these hosts, with their tags, which only rollouts ask for."""
    table = tables.host_tags
    wanted = sorted({item.seen.host for item in accepted})
    query = select(table.c.host, table.c.name, table.c.value).where(table.c.host.in_(wanted))
    tags: dict[str, dict[str, str]] = {}
    for row in connection.execute(query):
        tags.setdefault(row.host, {})[row.name] = row.value
    return [replace(item.seen, tags=tags.get(item.seen.host, {})) for item in accepted]


def _regressions(
    connection: Connection, accepted: Sequence[Accepted], released: Mapping[tuple[str, str], int]
) -> set[tuple[str, int, int]]:
    """(kernel build, level in force, released level) where the second lacks fixes of the first that are not recalled."""
    pairs = {
        (item.seen.build_id, item.seen.level, released.get((item.seen.ring, item.seen.build_id), 0))
        for item in accepted
    }
    table = tables.level_fixes
    bare = select(tables.recalls.c.fix).where(tables.recalls.c.withdrawn_at.is_(None))
    found = set()
    for build, held, level in sorted(pair for pair in pairs if 0 < pair[1] < pair[2]):
        new = select(table.c.fix).where(table.c.build_id == build, table.c.level == level)
        lost = select(table.c.fix).where(
            table.c.build_id == build, table.c.level == held, table.c.fix.not_in(new), table.c.fix.not_in(bare)
        )
        if connection.execute(lost.limit(1)).first() is not None:
            found.add((build, held, level))
    return found


def _offer(
    seen: Seen, direction: Direction, released: Mapping[tuple[str, str], int], worse: set[tuple[str, int, int]]
) -> Offer | None:
    """What the host is offered; None while its kernel build is not known."""
    if not seen.build_id:
        return None
    ring = released.get((seen.ring, seen.build_id), 0)
    if (seen.build_id, seen.level, ring) in worse or ring == direction.back:
        ring = 0
    level = max(ring, direction.level, seen.level)
    return Offer(seen.build_id, level, direction.back, direction.reason)


def _answer(
    received: Received, accepted: Accepted, offer: Offer | None, direction: Direction, circumstances: Circumstances
) -> Answer:
    tag = sha256_hex(encode(offer))[:TAG_LENGTH] if offer is not None else ""
    wait = slots.until_next(accepted.seen.host, circumstances.interval, circumstances.now)
    if direction.within:
        wait = min(wait, direction.within)
    if accepted.send_state or accepted.send_modules:
        wait = 1
    same = tag == received.message.answer
    return Answer(
        tag, wait, circumstances.timestamp, None if same else offer, accepted.send_state, accepted.send_modules
    )


def _row(received: Received, answer: Answer, now: int) -> dict[str, object]:
    return {
        "host": received.message.host,
        "new_counter": received.message.counter,
        "new_last_seen": now,
        "new_next_due": now + answer.next,
        "new_answer": answer.answer,
        "new_address": received.address,
    }


def _write(
    connection: Connection,
    batch: Sequence[Received],
    outcomes: Sequence[Outcome],
    rows: list[dict[str, object]],
    known: Mapping[str, Known],
    now: int,
) -> None:
    if rows:
        connection.execute(_UPDATE, rows)
    lists = [outcome.lists for outcome in outcomes if isinstance(outcome, Accepted)]
    modulesets.keep(connection, {digest: content for item in lists for digest, content in item.items()}, now)
    others: dict[str, periods.Standing] = {}
    for received, outcome in zip(batch, outcomes, strict=True):
        host = received.message.host
        if isinstance(outcome, Resync):
            connection.execute(update(hosts).where(hosts.c.id == host).values(resyncs=outcome.resyncs))
        elif isinstance(outcome, Accepted):
            if outcome.changes:
                connection.execute(update(hosts).where(hosts.c.id == host).values(**outcome.changes))
                stands = periods.standing(known[host], outcome.changes)
                if stands != periods.standing(known[host]):
                    others[host] = stands
            if outcome.report is not None:
                _keep(connection, received, now)
        elif outcome is refusals.CLONED and not now - TELL_CLONES_SECONDS < known[host].cloned_at <= now:
            _note_clone(connection, known[host], received, now)
    if others:
        periods.record(connection, others, now)


def _keep(connection: Connection, received: Received, now: int) -> None:
    """Keep a check-in with its report, in place of the newest if the host has sent too many within an hour."""
    own = reports.c.host == received.message.host
    newest_first = select(reports.c.received_at).where(own).order_by(reports.c.counter.desc())
    at = connection.execute(newest_first.offset(MAX_REPORTS_AN_HOUR - 1).limit(1)).scalar_one_or_none()
    if at is not None and now - 3600 < at <= now:
        newest = select(func.max(reports.c.counter)).where(own).scalar_subquery()
        connection.execute(delete(reports).where(own, reports.c.counter == newest))
    connection.execute(insert(reports).values(**_evidence(received, now)))


def _evidence(received: Received, now: int) -> dict[str, object]:
    return {
        "host": received.message.host,
        "counter": received.message.counter,
        "received_at": now,
        "digest": received.message.report,
        "body": received.body,
        "signature": received.signature,
    }


def _note_clone(connection: Connection, known: Known, received: Received, now: int) -> None:
    connection.execute(update(hosts).where(hosts.c.id == known.id).values(cloned_at=now))
    detail = {"name": known.name, "address": received.address, "boot_id": received.message.boot_id}
    audit.append(connection, at=now, actor=f"host:{known.id}", action="host.cloned", subject=known.id, detail=detail)
    post(
        connection,
        Event.HOST_CLONED,
        f"{known.name} ({known.id})",
        f"two machines use the identity of {known.name}; the second one, at {received.address}, is told to ask for its own",
        now,
    )
