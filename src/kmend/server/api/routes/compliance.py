"""Policies and exceptions; what is overdue or will be; the open CVEs of the fleet in their order."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Collection
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Response, Router, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter
from sqlalchemy import Connection

from kmend.core.errors import MalformedError
from kmend.core.manifest import sha256_hex
from kmend.intel.deadlines import Assumptions, Row
from kmend.intel.forecast import Due
from kmend.intel.frameworks import FRAMEWORKS, rows_of
from kmend.intel.ranking import RULES, Ranked
from kmend.intel.rows import rows_from
from kmend.server.access.permissions import Caller, Permission, may
from kmend.server.api import bodies, paging
from kmend.server.api.guarding import needs
from kmend.server.api.once import Key, act
from kmend.server.api.paging import Cursor, Limit, Page
from kmend.server.api.routes.rings import RingName
from kmend.server.api.services import Services
from kmend.server.compliance import NotThereError, answers, exceptions, policies
from kmend.server.compliance.exceptions import Accepted, Extent, State
from kmend.server.compliance.policies import Kept
from kmend.server.hosts.listing import show as show_host
from kmend.server.hosts.rings import show as show_ring

T = TypeVar("T")
PolicyName = Annotated[str, PathParameter(max_length=40)]
ExceptionId = Annotated[str, PathParameter(max_length=64)]


class RowView(msgspec.Struct, frozen=True):
    """A deadline.

    Attributes:
        hours: null: with the next upgrade of the system.
        clock: from when they are counted.
        condition: which CVEs it is for, in words.
        forensic: traces are to be secured first.
        valid_from, valid_to: days, the second one not any more.
        second_hand: nobody here has read the text itself.
    """

    name: str
    hours: int | None
    clock: str
    condition: str
    forensic: bool
    valid_from: str
    valid_to: str
    source: str
    second_hand: bool


class PolicyView(msgspec.Struct, frozen=True):
    """What a ring stands under.

    Attributes:
        assumed: what counts where nobody knows.
        removed_at: since when it counts no more; null while it does.
    """

    id: str
    ring: str
    name: str
    framework: str
    title: str
    note: str
    rows: tuple[RowView, ...]
    assumed: bodies.Assumed
    valid_from: str
    valid_to: str
    approved_by: str
    created_at: int
    created_by: str
    removed_at: int | None


class FrameworkView(msgspec.Struct, frozen=True):
    """A framework that comes with the server; `rows` is empty where it names no number, and `note` says why."""

    name: str
    title: str
    note: str
    rows: tuple[RowView, ...]


class DueView(msgspec.Struct, frozen=True):
    """Hosts of a ring on which a CVE is to be closed.

    Attributes:
        due, latest: the first and the last time, in seconds since 1970-01-01 UTC.
        forensic: traces are to be secured first.
    """

    row: str
    cve: str
    ring: str
    hosts: int
    due: int
    latest: int
    forensic: bool


class ForecastView(msgspec.Struct, frozen=True):
    """What is overdue, and what will be.

    Attributes:
        overdue, due: the first of each, at most `limit`; `overdue_count` and `due_count` are how many there are.
        overdue_hosts, due_hosts: hosts times CVEs, once for each policy; `later` and `upgrade` likewise.
        buckets: row -> days overdue -> hosts times CVEs.
        unbound: under no deadline; accepted: over which an exception lies.
        unknown: hosts whose kernel nobody has looked into.
        at: when the hosts were looked at, in seconds since 1970-01-01 UTC; a large fleet is not looked at each time.
    """

    days: int
    overdue: tuple[DueView, ...]
    overdue_count: int
    overdue_hosts: int
    due: tuple[DueView, ...]
    due_count: int
    due_hosts: int
    buckets: dict[str, dict[str, int]]
    later: int
    upgrade: int
    unbound: int
    accepted: int
    hosts: int
    unknown: int
    rings_without: tuple[str, ...]
    at: int


class RankedView(msgspec.Struct, frozen=True):
    """An open CVE in its place.

    Attributes:
        reasons: why it stands there, a line for each question.
        easiest: the verdict on some host that takes the least to close.
        due: the earliest deadline; null if there is none.
        overdue: hosts on which one is missed.
    """

    place: int
    cve: str
    hosts: int
    reach: str
    easiest: str
    due: int | None
    overdue: int
    kev_added: int | None
    percentile: float | None
    severity: float | None
    reasons: tuple[str, ...]
    rules: str = RULES


@get("/frameworks", opt=needs(Permission.READ), sync_to_thread=False)
def list_frameworks() -> tuple[FrameworkView, ...]:
    """Frameworks that a policy can be made of."""
    return tuple(
        FrameworkView(name, item.title, item.note, tuple(_row(row) for row in item.rows))
        for name, item in FRAMEWORKS.items()
    )


@get("/policies", opt=needs(Permission.READ), sync_to_thread=True)
def list_policies(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    ring: Annotated[str, QueryParameter(max_length=100)] = "",
    past: Annotated[bool, QueryParameter()] = False,
) -> tuple[PolicyView, ...]:
    """What rings stand under; with `past` also what they stood under before."""
    with services.store.read() as connection:
        found = policies.listing(connection, caller.rings, past=past)
    return tuple(_policy(item) for item in found if not ring or item.policy.ring == ring)


@put("/policies/{ring:str}/{policy:str}", opt=needs(Permission.POLICIES), sync_to_thread=True)
def put_policy(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    ring: RingName,
    policy: PolicyName,
    data: JSONBody[bodies.PolicyBody],
    key: Key = "",
) -> Response[Any]:
    """Have a ring stand under a policy; another of that name ends."""
    rows = (
        rows_from(list(data.rows))
        if data.rows
        else rows_of(data.framework, certification=data.certification, impact=data.impact)
    )
    begin, end = _day(data.valid_from, datetime.date.min), _day(data.valid_to, datetime.date.max)
    assumed = Assumptions(data.assumed.automatable, data.assumed.total, data.assumed.likely, data.assumed.earlier)

    def work(connection: Connection, now: int) -> PolicyView:
        return _policy(
            policies.put(
                connection, ring, policy, framework=data.framework, rows=rows, assumed=assumed, valid_from=begin,
                valid_to=end, approved_by=data.approved_by, actor=caller.actor, now=now,
            )
        )  # fmt: skip

    return act(services, caller, key, ["policy", ring, policy, data], work)


@delete("/policies/{ring:str}/{policy:str}", opt=needs(Permission.POLICIES), sync_to_thread=True)
def remove_policy(
    services: NamedDependency[Services], caller: NamedDependency[Caller], ring: RingName, policy: PolicyName
) -> None:
    """Have a ring no more stand under a policy; nothing happens if it does not."""
    now = services.clock()
    services.store.transact(
        lambda connection: policies.remove(connection, ring, policy, actor=caller.actor, now=now)
    )  # fmt: skip


@get("/exceptions", opt=needs(Permission.READ), sync_to_thread=True)
def list_exceptions(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    cve: Annotated[str, QueryParameter(max_length=40)] = "",
    wanted_state: Annotated[State | None, QueryParameter(name="state")] = None,
    limit: Limit = 100,
    cursor: Cursor = "",
) -> Page[Accepted]:
    """Exceptions, the newest first."""
    after = paging.read_timed(cursor)
    with services.store.read() as connection:
        found = exceptions.listing(
            connection, services.clock(), cve=cve, state=wanted_state, rings_seen=caller.rings, after=after, limit=limit
        )
    end = paging.write_cursor(found[-1].created_at, found[-1].id) if len(found) == limit else ""
    return Page(found, end)


@post("/exceptions", opt=needs(Permission.EXCEPTIONS), sync_to_thread=True, status_code=201)
def ask_exception(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    data: JSONBody[bodies.NewException],
    key: Key = "",
) -> Response[Any]:
    """Ask for an exception; it counts when somebody with the role approver has approved it."""

    def work(connection: Connection, now: int) -> Accepted:
        _own(connection, caller, data.extent, data.subject)
        return exceptions.ask(
            connection, cve=data.cve, extent=data.extent, subject=data.subject, reason=data.reason, control=data.control,
            expires_at=now + data.expires_in, actor=caller.actor, now=now,
        )  # fmt: skip

    return act(services, caller, key, ["exception", data], work, status=201)


@post("/exceptions/{exception:str}/approve", opt=needs(Permission.APPROVE), sync_to_thread=True, status_code=200)
def approve_exception(
    services: NamedDependency[Services], caller: NamedDependency[Caller], exception: ExceptionId, key: Key = ""
) -> Response[Any]:
    """Put an exception in force."""

    def work(connection: Connection, now: int) -> Accepted:
        _mine(connection, caller, exception, now)
        return exceptions.approve(connection, exception, actor=caller.actor, now=now)

    return act(services, caller, key, ["exception-approve", exception], work)


@delete("/exceptions/{exception:str}", opt=needs(Permission.EXCEPTIONS), sync_to_thread=True)
def withdraw_exception(
    services: NamedDependency[Services], caller: NamedDependency[Caller], exception: ExceptionId
) -> None:
    """Let an exception count no more; nothing happens if it does not anyway."""
    now = services.clock()

    def work(connection: Connection) -> None:
        _mine(connection, caller, exception, now)
        exceptions.withdraw(connection, exception, actor=caller.actor, now=now)

    services.store.transact(work)


@get("/forecast", opt=needs(Permission.READ), sync_to_thread=True)
def show_forecast(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    days: Annotated[int, QueryParameter(ge=0, le=366, description="Due within so many days.")] = 14,
    ring: Annotated[str, QueryParameter(max_length=100)] = "",
    limit: Annotated[int, QueryParameter(ge=1, le=10_000, description="How many lines at most of each list.")] = 500,
) -> ForecastView:
    """What is overdue, and what will be within some days."""
    found = _kept(services, caller, ring, f"forecast {days}", functools.partial(answers.forecast_of, days=days))
    told = found.forecast
    return ForecastView(
        days, tuple(_due(item) for item in told.overdue[:limit]), len(told.overdue),
        sum(item.hosts for item in told.overdue), tuple(_due(item) for item in told.due[:limit]), len(told.due),
        sum(item.hosts for item in told.due), {row: dict(ages) for row, ages in told.buckets.items()}, told.later,
        told.upgrade, told.unbound, told.accepted, found.hosts, found.unknown, found.rings_without, found.at,
    )  # fmt: skip


@get("/cves", opt=needs(Permission.READ), sync_to_thread=True)
def list_cves(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    sort: Annotated[str, QueryParameter(pattern="^rank$", description="The one order that there is.")] = "rank",
    ring: Annotated[str, QueryParameter(max_length=100)] = "",
    limit: Limit = 100,
    cursor: Cursor = "",
) -> Page[RankedView]:
    """CVEs that stand open on some host, the most pressing first, each with its reasons."""
    after = paging.read_timed(cursor)
    found = _kept(services, caller, ring, "ranked", answers.ranked)
    begin = after[0] if after is not None else 0
    shown = found[begin : begin + limit]
    end = paging.write_cursor(begin + len(shown), "rank") if begin + len(shown) < len(found) else ""
    return Page(tuple(_ranked(item) for item in shown), end)


def _kept(
    services: Services, caller: Caller, ring: str, question: str, find: Callable[[Connection, int, Collection[str]], T]
) -> T:
    """An answer about the fleet that may have been found out before. Whoever waits for one holds no connection meanwhile.

    Policies and exceptions that have changed make another question of it: what somebody has just decided is always seen.
    """
    now = services.clock()
    with services.store.read() as connection:
        rings = _rings(connection, caller, ring)
        decided = repr((policies.by_ring(connection, rings), exceptions.listing(connection, now, state=State.IN_FORCE)))

    def anew() -> T:
        with services.store.read() as connection:
            return find(connection, now, rings)

    return services.answers.get((question, rings, sha256_hex(decided.encode())), anew)


def _rings(connection: Connection, caller: Caller, ring: str) -> tuple[str, ...]:
    if not ring:
        return caller.rings
    if not caller.sees(ring):
        raise NotThereError(f"there is no ring {ring[:60]!r}", hint="kmend-server rings list")
    show_ring(connection, ring)
    return (ring,)


def _own(connection: Connection, caller: Caller, extent: Extent, subject: str) -> None:
    """Whether that is the caller's to except."""
    if not caller.rings:
        return
    if extent is Extent.RING:
        may(caller, Permission.EXCEPTIONS, subject)
    elif extent is Extent.HOST:
        if not caller.sees(show_host(connection, subject).ring):
            raise NotThereError(f"there is no host {subject[:64]!r}", hint="kmend-server hosts list")
    else:
        # What is for hosts of any ring is nobody's who is bound to some.
        may(caller, Permission.EXCEPTIONS, "")


def _mine(connection: Connection, caller: Caller, wanted: str, now: int) -> None:
    """Whether an exception is the caller's to decide on."""
    if not caller.rings:
        return
    found = exceptions.show(connection, wanted, now)
    ring = exceptions.ring_of(connection, found)
    if ring is None:
        may(caller, Permission.READ, "")
    elif not caller.sees(ring):
        raise NotThereError(f"there is no exception {wanted[:40]!r}", hint="kmend-server exception list")


def _day(text: str, other: datetime.date) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text) if text else other
    except ValueError:
        raise MalformedError(f"{text[:20]!r} is not a day", hint="YYYY-MM-DD") from None


def _row(row: Row) -> RowView:
    return RowView(
        row.name, row.hours, row.clock.value, row.condition, row.forensic, row.valid_from.isoformat(),
        row.valid_to.isoformat(), row.source, row.second_hand,
    )  # fmt: skip


def _policy(kept: Kept) -> PolicyView:
    item = kept.policy
    framework = FRAMEWORKS.get(item.framework)
    assumed = item.assumed
    return PolicyView(
        item.id, item.ring, kept.name, item.framework, framework.title if framework is not None else "own rows",
        framework.note if framework is not None else "", tuple(_row(row) for row in item.rows),
        bodies.Assumed(
            automatable=assumed.automatable, total=assumed.total, likely=assumed.likely, earlier=assumed.earlier
        ),
        item.valid_from.isoformat(), item.valid_to.isoformat(), item.approved_by, item.at, kept.created_by, kept.removed_at,
    )  # fmt: skip


def _due(item: Due) -> DueView:
    return DueView(item.row, item.cve, item.ring, item.hosts, item.due, item.latest, item.forensic)


def _ranked(item: Ranked) -> RankedView:
    found = item.candidate
    return RankedView(
        item.place, found.cve, found.hosts, found.reach.value, found.easiest.value, found.due, found.overdue,
        found.signals.kev_added, found.signals.percentile, found.signals.severity, item.reasons,
    )  # fmt: skip


router = Router(
    "/",
    tags=["compliance"],
    route_handlers=[
        list_frameworks, list_policies, put_policy, remove_policy, list_exceptions, ask_exception, approve_exception,
        withdraw_exception, show_forecast, list_cves,
    ],
)  # fmt: skip
