"""The hosts in a pack: their reports by their own signatures, and all that has to follow from these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kmend.core.document import decode, encode
from kmend.core.errors import MalformedError
from kmend.core.manifest import sha256_hex
from kmend.core.wire import MAX_REQUEST_BYTES, CheckIn, Purpose, StateReport
from kmend.server.evidence import chains, documents, inventory, timelines
from kmend.server.evidence.auditlog import Log
from kmend.server.evidence.chains import Chain, Chains, Gap
from kmend.server.evidence.documents import About, Around, HostRow, Machine, ReportRow, Stay, Surroundings, Timeline
from kmend.server.evidence.errors import EvidenceError
from kmend.server.evidence.gathering import is_reporting
from kmend.server.evidence.reading import Reader
from kmend.server.evidence.timelines import Said
from kmend.server.evidence.times import minute
from kmend.server.hosts.signatures import signed

_NAMED = 5
"""So many gaps are named in one sentence."""


@dataclass(slots=True)
class Host:
    """A host, and what it has said itself.

    Attributes:
        stays: what it ran, one after the other.
        reports: how many there are.
        counter: of the last of them; 0 without one.
        last: what it says.
        said: what it has said of its modules.
    """

    row: HostRow
    stays: list[Stay] = field(default_factory=list)
    reports: int = 0
    counter: int = 0
    last: StateReport | None = None
    said: Said = field(default_factory=Said)


@dataclass(slots=True)
class Fleet:
    """All of them, by their IDs in order.

    Attributes:
        unpinned: hosts whose key the audit log does not have.
        chains: whether their reports follow on each other.
        around: their surroundings, by name.
    """

    hosts: dict[str, Host]
    reports: int = 0
    unpinned: int = 0
    chains: Chains = field(default_factory=Chains)
    around: dict[str, Around] = field(default_factory=dict)


def read(reader: Reader, about: About, log: Log) -> Fleet:
    """Verify the hosts' reports.

    Raises:
        EvidenceError: one was changed, is of somebody else, or out of its order; the message says which.
    """
    fleet = Fleet({})
    before = ""
    for row in reader.rows(HostRow, documents.POPULATION):
        if row.id <= before:
            raise EvidenceError(f"host {row.id[:40]} is not in its place in the population")
        before = row.id
        fleet.hosts[row.id] = Host(row)
        known = log.hosts.get(row.id)
        if known is None or not known.public_key:
            fleet.unpinned += 1
        elif known.public_key != row.public_key:
            raise EvidenceError(f"the key of host {row.id} is not the one that it enrolled with")
    modules = {build_id: timelines.watched(found) for build_id, found in reader.meanings().items()}
    last = ""
    chain = Chain("", about.since)
    for report in reader.rows(ReportRow, documents.REPORTS):
        host = fleet.hosts.get(report.host)
        where = f"report {report.counter} of host {report.host[:40]}"
        if host is None:
            raise EvidenceError(f"{where}: there is no such host in the population")
        if report.host < last or report.counter <= host.counter:
            raise EvidenceError(f"{where} is not in its place")
        if report.received_at >= about.until or (host.counter and report.received_at < about.since):
            raise EvidenceError(f"{where} is not of the period")
        if report.host != last:
            _close(fleet, chain)
            last, chain = report.host, Chain(report.host, about.since)
        message, state = _take(host, report, about.server, where)
        _stay(fleet, host, message, state, modules)
        chain.take(message, state.at, report.received_at)
        fleet.reports += 1
    _close(fleet, chain)
    return fleet


def check_chains(fleet: Fleet, *, gaps: bool) -> str:
    """See that no report was left out.

    Args:
        gaps: what is missing is named, and no fault.

    Raises:
        EvidenceError: one was, or more.
    """
    if not fleet.chains.missing:
        return chains.told(fleet.chains)
    first = [_place_of(gap, fleet.hosts[gap.host].row.name) for gap in fleet.chains.gaps[:_NAMED]]
    if gaps:
        return f"{chains.told(fleet.chains)}; {chains.complaint(fleet.chains, first)}"
    raise EvidenceError(chains.complaint(fleet.chains, first))


def check_population(fleet: Fleet, about: About, log: Log) -> str:
    """Hold the population against the audit log, and each host against its last report.

    Raises:
        EvidenceError: a host is missing, is one too many, or is not as it says itself.
    """
    wanted = {host for host, item in log.hosts.items() if item.at < about.until and about.ring in ("", item.ring)}
    if missing := sorted(wanted - fleet.hosts.keys()):
        raise EvidenceError(f"{len(missing)} hosts that enrolled are not in the population, the first is {missing[0]}")
    if strange := sorted(fleet.hosts.keys() - wanted):
        raise EvidenceError(f"host {strange[0]} is in the population, and not in the audit log")
    for host in fleet.hosts.values():
        row, known = host.row, log.hosts[host.row.id]
        stated = (row.enrolled_at, row.ring, row.parent, row.state == "decommissioned")
        if stated != (known.at, known.ring, known.parent, known.decommissioned):
            raise EvidenceError(
                f"host {row.id}: when it enrolled, its ring, of what it is a copy, or its state is not as the audit log has it"
            )
        if known.tags is not None and known.tags != row.tags:
            raise EvidenceError(f"host {row.id}: its tags are not as the audit log has them")
        if (row.reports, row.last_report) != (host.reports, host.counter):
            raise EvidenceError(f"host {row.id}: {host.reports} reports are there, the last is {host.counter}")
        if host.last is not None and _said(host.last) != _shown(row):
            raise EvidenceError(f"host {row.id} is not as it says itself in report {host.counter}")
        if host.last is None and (row.build_id or row.release or row.version or row.level):
            raise EvidenceError(f"host {row.id} has no report, and the population says what it runs")
        if host.last is None and known.name not in ("", row.name):
            raise EvidenceError(f"host {row.id} has no report, and has not the name that it enrolled with")
    if (about.hosts, about.reports) != (len(fleet.hosts), fleet.reports):
        raise EvidenceError("about.json counts other hosts or reports than there are")
    return f"{len(fleet.hosts)} hosts: every one that enrolled, each as it says itself"


def check_inventory(reader: Reader, fleet: Fleet, about: About, log: Log) -> str:
    """Hold the organisation's list against the log, and against the population.

    Raises:
        EvidenceError: it is another list, or finds other hosts.
    """
    machines = list(reader.rows(Machine, documents.INVENTORY))
    expected = log.inventories[-1] if log.inventories else inventory.digest(())
    if inventory.digest(machines) != expected:
        raise EvidenceError("the inventory is not the one whose digest the audit log has")
    enrolled = (host.row for host in fleet.hosts.values() if host.row.state == "enrolled")
    finder = inventory.Finder(inventory.Known(row.id, row.name, row.machine) for row in enrolled)
    for machine in machines:
        if machine.host != finder.host(machine):
            name = (machine.name or machine.machine)[:80]
            raise EvidenceError(
                f"machine {name!r} of the inventory is {finder.host(machine) or 'no host'} of this pack"
            )
    covered = sum(
        bool(machine.host) and is_reporting(fleet.hosts[machine.host].row, about.since) for machine in machines
    )
    if (about.inventory, about.covered) != (len(machines), covered):
        raise EvidenceError(f"about.json does not say that {covered} of {len(machines)} machines are covered")
    return f"{covered} of {len(machines)} machines have an agent that reports"


def check_timelines(reader: Reader, fleet: Fleet) -> str:
    """Make every timeline again.

    Raises:
        EvidenceError: one does not follow from the host's reports, or is missing.
    """
    states, around = reader.states(), reader.surroundings()

    def open_in(build_id: str, level: int) -> tuple[str, ...]:
        if (build_id, level) not in states:
            raise EvidenceError(f"what is open with level {level} on kernel build {build_id} is not in the pack")
        return states[build_id, level].open

    def changed(name: str) -> Surroundings:
        if name not in around:
            raise EvidenceError(f"the surroundings {name} are not in the pack")
        return around[name]

    counts = timelines.counting(timelines.opened(open_in, changed))
    rows = reader.rows(Timeline, documents.TIMELINES)
    turns = 0
    for host in fleet.hosts.values():
        found = next(rows, None)
        if found is None or found != timelines.timeline(host.row.id, host.stays, counts):
            raise EvidenceError(f"the timeline of host {host.row.id} does not follow from its signed reports")
        turns += len(found.turns)
    if (more := next(rows, None)) is not None:
        raise EvidenceError(f"there is a timeline of host {more.host[:40]}, which is not in the population")
    return f"{len(fleet.hosts)} timelines with {turns} turns, each as its host's reports have it"


def _close(fleet: Fleet, chain: Chain) -> None:
    if chain.host:
        fleet.chains.add(chain, fleet.hosts[chain.host].reports)


def _place_of(gap: Gap, name: str) -> str:
    begin = f"between {minute(gap.since)} and" if gap.since is not None else "before"
    return f"{name[:64]} ({gap.host}) {begin} {minute(gap.until)}"


def _take(host: Host, report: ReportRow, server: str, where: str) -> tuple[CheckIn, StateReport]:
    body = report.body.encode()
    if not signed(host.row.public_key, report.signature, Purpose.CHECK_IN, server, body):
        raise EvidenceError(f"{where} is not signed by the host")
    try:
        message = decode(CheckIn, body, max_bytes=MAX_REQUEST_BYTES)
    except MalformedError as problem:
        raise EvidenceError(f"{where} cannot be read: {problem.message}") from None
    state = message.state
    if state is None or (message.host, message.counter) != (report.host, report.counter):
        raise EvidenceError(f"{where} is a report of another host, or of another time")
    if sha256_hex(encode(state)) != message.report:
        raise EvidenceError(f"{where} does not hold the state whose digest it names")
    host.reports += 1
    host.counter, host.last = report.counter, state
    return message, state


def _stay(
    fleet: Fleet, host: Host, message: CheckIn, state: StateReport, modules: Mapping[str, frozenset[str]]
) -> None:
    host.said = timelines.said_after(host.said, message)

    def around(build_id: str, level: int) -> str:
        found = timelines.around_of(host.said, build_id, level, modules.get(build_id, frozenset()))
        name = timelines.name_of(found)
        if found is not None:
            fleet.around[name] = found
        return name

    host.stays += _new(host, timelines.stay_of(message, state, around))


def _new(host: Host, stay: Stay) -> Iterator[Stay]:
    """The stay, if it is another than the last one."""
    found = timelines.changes([*host.stays[-1:], stay])
    if host.stays:
        next(found)
    return found


def _said(report: StateReport) -> tuple[object, ...]:
    kernel, held = report.kernel, report.loaded
    level = held.level if held is not None else 0
    return report.facts.name, report.facts.machine, kernel.build_id, kernel.release, kernel.version, level


def _shown(row: HostRow) -> tuple[object, ...]:
    return row.name, row.machine, row.build_id, row.release, row.version, row.level
