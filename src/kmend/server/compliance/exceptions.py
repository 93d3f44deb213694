"""Exceptions: a CVE that is accepted on some hosts for a time, with a reason, what is done instead, and who has approved it.

An exception changes no verdict and no clock; it lies over them. When it has expired, the CVE is as overdue as if there had never
been one.
"""

from __future__ import annotations

import enum
import json
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, insert, or_, select, update

from kmend.intel.feeds.aside import is_cve
from kmend.server.access import audit
from kmend.server.access.permissions import Role
from kmend.server.compliance.errors import ComplianceError, NotThereError, StandsOtherwiseError
from kmend.server.store.tables import exceptions, host_tags, hosts, rings, tokens

DAY = 86_400
MAX_DAYS = 400
MAX_TEXT = 1000
MAX_SUBJECT = 200


class Extent(str, enum.Enum):
    """For which hosts."""

    HOST = "host"
    RING = "ring"
    TAG = "tag"
    EVERYTHING = "everything"


class State(str, enum.Enum):
    """How it stands."""

    REQUESTED = "requested"
    IN_FORCE = "in force"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Accepted:
    """An exception.

    Attributes:
        subject: ID of a host, name of a ring, `name=value` or `name` of a tag; empty for everything.
        control: what is done instead.
        approved_at, withdrawn_at: None while nobody has.
        expires_at: it counts until then.
    """

    id: str
    cve: str
    extent: Extent
    subject: str
    reason: str
    control: str
    created_at: int
    created_by: str
    approved_at: int | None
    approved_by: str
    expires_at: int
    withdrawn_at: int | None
    withdrawn_by: str
    state: State

    def was_in_force(self, at: int) -> bool:
        """Whether it counted at some time."""
        begun = self.approved_at is not None and self.approved_at <= at < self.expires_at
        return begun and (self.withdrawn_at is None or at < self.withdrawn_at)


def ask(
    connection: Connection,
    *,
    cve: str,
    extent: Extent,
    subject: str,
    reason: str,
    control: str,
    expires_at: int,
    actor: str,
    now: int,
) -> Accepted:
    """Ask for one; it counts when somebody has approved it.

    Raises:
        ComplianceError: it has no end, no reason, nothing that is done instead, or is of no CVE.
        NotThereError: there is no such host or ring.
    """
    if not is_cve(cve):
        raise ComplianceError(f"{cve[:40]!r} is not the ID of a CVE")
    for name, text in (("a reason", reason), ("something that is done instead", control)):
        if not text.strip() or len(text) > MAX_TEXT or "\0" in text:
            raise ComplianceError(f"an exception has {name}, of at most {MAX_TEXT} characters")
    if not now < expires_at <= now + MAX_DAYS * DAY:
        raise ComplianceError(
            f"an exception must end, within {MAX_DAYS} days from now", hint="ask again before it does"
        )
    _check_subject(connection, extent, subject)
    made = secrets.token_hex(8)
    values = {
        "cve": cve, "extent": extent.value, "subject": subject, "reason": reason, "control": control, "expires_at": expires_at,
    }  # fmt: skip
    connection.execute(
        insert(exceptions).values(
            id=made, created_at=now, created_by=actor, approved_by="", withdrawn_by="", **values
        )
    )  # fmt: skip
    audit.append(connection, at=now, actor=actor, action="exception.ask", subject=made, detail=values)
    return show(connection, made, now)


def approve(connection: Connection, wanted: str, *, actor: str, now: int) -> Accepted:
    """Put one in force.

    Raises:
        NotThereError: there is none of that ID.
        StandsOtherwiseError: nothing waits for an approval; or who asked would approve, and somebody else could.
    """
    found = show(connection, wanted, now, lock=True)
    if found.state is not State.REQUESTED:
        raise StandsOtherwiseError(f"the exception {wanted} is {found.state.value}: nothing waits for an approval")
    alone = found.created_by == actor
    if alone and _others_approve(connection, actor, now):
        raise StandsOtherwiseError(
            "whoever asks for an exception cannot approve it", hint="ask somebody else with the role approver"
        )
    connection.execute(
        update(exceptions).where(exceptions.c.id == found.id).values(approved_at=now, approved_by=actor)
    )  # fmt: skip
    detail = {"cve": found.cve, "extent": found.extent.value, "subject": found.subject, "alone": alone}
    audit.append(connection, at=now, actor=actor, action="exception.approve", subject=found.id, detail=detail)
    return show(connection, found.id, now)


def withdraw(connection: Connection, wanted: str, *, actor: str, now: int) -> None:
    """Let one count no more; nothing happens if it does not anyway.

    Raises:
        NotThereError: there is none of that ID.
    """
    found = show(connection, wanted, now, lock=True)
    if found.state in (State.WITHDRAWN, State.EXPIRED):
        return
    connection.execute(
        update(exceptions).where(exceptions.c.id == found.id).values(withdrawn_at=now, withdrawn_by=actor)
    )  # fmt: skip
    audit.append(
        connection, at=now, actor=actor, action="exception.withdraw", subject=found.id, detail={"cve": found.cve}
    )


def show(connection: Connection, wanted: str, now: int, *, lock: bool = False) -> Accepted:
    """One of them.

    Raises:
        NotThereError: there is none of that ID.
    """
    query = select(exceptions).where(exceptions.c.id == wanted)
    row = connection.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise NotThereError(f"there is no exception {wanted[:40]!r}", hint="kmend-server exception list")
    return _read(row, now)


def listing(
    connection: Connection,
    now: int,
    *,
    cve: str = "",
    state: State | None = None,
    rings_seen: Collection[str] = (),
    after: tuple[int, str] | None = None,
    limit: int | None = None,
) -> tuple[Accepted, ...]:
    """Exceptions, the newest first.

    Args:
        rings_seen: only what concerns hosts of these; empty for all. What is for a tag or everything concerns everybody.
        after: `created_at` and ID of the last one of the page before.
    """
    table = exceptions.c
    query = select(exceptions).order_by(table.created_at.desc(), table.id)
    if cve:
        query = query.where(table.cve == cve)
    if state is not None:
        query = query.where(_is(state, now))
    if rings_seen:
        names = sorted(rings_seen)
        own = select(hosts.c.id).where(hosts.c.ring.in_(names))
        query = query.where(
            or_(
                table.extent.in_((Extent.TAG.value, Extent.EVERYTHING.value)),
                and_(table.extent == Extent.RING.value, table.subject.in_(names)),
                and_(table.extent == Extent.HOST.value, table.subject.in_(own)),
            )
        )
    if after is not None:
        query = query.where(or_(table.created_at < after[0], and_(table.created_at == after[0], table.id > after[1])))
    return tuple(_read(row, now) for row in connection.execute(query.limit(limit)))


def ring_of(connection: Connection, found: Accepted) -> str | None:
    """The ring that it concerns alone; None if it concerns more than one."""
    if found.extent is Extent.RING:
        return found.subject
    if found.extent is Extent.HOST:
        return connection.execute(select(hosts.c.ring).where(hosts.c.id == found.subject)).scalar()
    return None


@dataclass(frozen=True, slots=True)
class Lying:
    """Exceptions in force over one CVE.

    Attributes:
        everything: one is for every host. The sets are of rings, and of IDs of hosts.
    """

    everything: bool
    rings: frozenset[str]
    hosts: frozenset[str]

    def covers(self, host: str, ring: str) -> bool:
        """Whether one lies over that host."""
        return self.everything or ring in self.rings or host in self.hosts

    def covers_ring(self, ring: str) -> bool:
        """Whether one lies over all of a ring."""
        return self.everything or ring in self.rings


def in_force(connection: Connection, now: int, *, cve: str = "") -> dict[str, Lying]:
    """CVE -> what lies over it now; tags are looked up as hosts have them now."""
    by_cve: dict[str, list[Accepted]] = {}
    for item in listing(connection, now, cve=cve, state=State.IN_FORCE):
        by_cve.setdefault(item.cve, []).append(item)
    tagged: dict[str, frozenset[str]] = {}
    return {name: _lying(connection, found, tagged) for name, found in by_cve.items()}


def lying_until(connection: Connection, cve: str, host: str, ring: str, now: int) -> int | None:
    """Until when a CVE is accepted on a host; None if it is not."""
    ends = [
        item.expires_at
        for item in listing(connection, now, cve=cve, state=State.IN_FORCE)
        if _lying(connection, [item], {}).covers(host, ring)
    ]
    return max(ends, default=None)


def _lying(connection: Connection, found: Iterable[Accepted], tagged: dict[str, frozenset[str]]) -> Lying:
    named: set[str] = set()
    of_rings: set[str] = set()
    everything = False
    for item in found:
        if item.extent is Extent.EVERYTHING:
            everything = True
        elif item.extent is Extent.RING:
            of_rings.add(item.subject)
        elif item.extent is Extent.HOST:
            named.add(item.subject)
        else:
            if item.subject not in tagged:
                tagged[item.subject] = _tagged(connection, item.subject)
            named |= tagged[item.subject]
    return Lying(everything, frozenset(of_rings), frozenset(named))


def _tagged(connection: Connection, subject: str) -> frozenset[str]:
    name, sign, value = subject.partition("=")
    query = select(host_tags.c.host).where(host_tags.c.name == name)
    return frozenset(connection.execute(query.where(host_tags.c.value == value) if sign else query).scalars())


def _check_subject(connection: Connection, extent: Extent, subject: str) -> None:
    if len(subject) > MAX_SUBJECT or not subject.isprintable():
        raise ComplianceError("what it is for cannot be read")
    if extent is Extent.EVERYTHING:
        if subject:
            raise ComplianceError("an exception for everything names nothing")
        return
    if not subject.partition("=")[0]:
        raise ComplianceError(f"which {extent.value} is it for?")
    if extent is Extent.HOST and connection.execute(select(hosts.c.id).where(hosts.c.id == subject)).first() is None:
        raise NotThereError(f"there is no host {subject[:64]!r}", hint="kmend-server hosts list")
    if (
        extent is Extent.RING
        and connection.execute(select(rings.c.name).where(rings.c.name == subject)).first() is None
    ):
        raise NotThereError(f"there is no ring {subject[:60]!r}", hint="kmend-server rings list")


def _others_approve(connection: Connection, actor: str, now: int) -> bool:
    """Whether somebody else has a token that counts, with the role approver."""
    query = select(tokens.c.id, tokens.c.roles).where(tokens.c.revoked_at.is_(None), tokens.c.expires_at > now)
    return any(
        Role.APPROVER.value in json.loads(row.roles) and f"token:{row.id}" != actor for row in connection.execute(query)
    )


def _is(state: State, now: int) -> Any:
    table = exceptions.c
    if state is State.WITHDRAWN:
        return table.withdrawn_at.is_not(None)
    if state is State.EXPIRED:
        return and_(table.withdrawn_at.is_(None), table.expires_at <= now)
    stands = and_(table.withdrawn_at.is_(None), table.expires_at > now)
    return and_(stands, table.approved_at.is_not(None) if state is State.IN_FORCE else table.approved_at.is_(None))


def _read(row: Any, now: int) -> Accepted:
    if row.withdrawn_at is not None:
        state = State.WITHDRAWN
    elif row.expires_at <= now:
        state = State.EXPIRED
    else:
        state = State.IN_FORCE if row.approved_at is not None else State.REQUESTED
    return Accepted(
        row.id, row.cve, Extent(row.extent), row.subject, row.reason, row.control, row.created_at, row.created_by,
        row.approved_at, row.approved_by, row.expires_at, row.withdrawn_at, row.withdrawn_by, state,
    )  # fmt: skip
