"""The audit log in a pack: its chain, and what other files of the pack are held against."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kmend.core.document import decode, from_plain
from kmend.core.errors import MalformedError
from kmend.server.access import audit
from kmend.server.access.audit import MAX_LINE, Head, Record
from kmend.server.evidence import documents, inventory
from kmend.server.evidence.documents import About, Approval, ExceptionRow, PolicyRow, RolloutRow
from kmend.server.evidence.errors import EvidenceError
from kmend.server.evidence.reading import Reader

KEY_NOTED, MADE = "evidence.key", "evidence.pack"
_ENROL, _SPLIT, _MOVE, _TAG, _GONE = "host.enrol", "host.split", "host.move", "host.tag", "host.decommission"
_APPROVE, _CREATE = "rollout.approve", "rollout.create"
_SET, _REMOVE = "policy.set", "policy.remove"
_ASK, _ACCEPT, _WITHDRAW = "exception.ask", "exception.approve", "exception.withdraw"


@dataclass(slots=True)
class PolicyAct:
    """A policy, as it was set.

    Attributes:
        said: its members, by name.
    """

    ring: str
    name: str
    at: int
    actor: str
    said: dict[str, Any]
    removed_at: int | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """A rollout, as it was made.

    Attributes:
        said: its name, whether it is an emergency, and kernel build -> level.
    """

    at: int
    actor: str
    said: tuple[object, ...]


@dataclass(slots=True)
class Enrolled:
    """A host, as the audit log has it.

    Attributes:
        public_key: empty where the record is from before keys were written into it.
        name: as the host called itself then.
        parent: the host of which it is a copy; empty if it is none.
        tags: as they were set last; None if nobody has set any since the enrolment.
    """

    at: int
    public_key: str
    ring: str
    name: str = ""
    parent: str = ""
    tags: dict[str, str] | None = None
    decommissioned: bool = False


@dataclass(slots=True)
class Log:
    """What was found in the log.

    Attributes:
        keys: that have signed packs as the server's.
        packs: that were made: when, for whom, since when and until when, of which ring.
        rollouts: as they were made.
        approvals: rollout, stage and actor -> when and why, the first time.
        known: of the records that were looked for those that are there: number -> digest.
        inventories: digests of the lists of machines, the newest last.
        policies: as they were set and removed, in that order.
        exceptions: as they were asked for, approved and withdrawn.
    """

    head: Head = field(default_factory=lambda: Head(0, audit.FIRST))
    known: dict[int, str] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    hosts: dict[str, Enrolled] = field(default_factory=dict)
    packs: set[tuple[object, ...]] = field(default_factory=set)
    rollouts: dict[str, Created] = field(default_factory=dict)
    approvals: dict[tuple[str, int, str], tuple[int, str]] = field(default_factory=dict)
    inventories: list[str] = field(default_factory=list)
    policies: list[PolicyAct] = field(default_factory=list)
    exceptions: dict[str, ExceptionRow] = field(default_factory=dict)

    def note(self, record: Record) -> None:
        """Take in one record."""
        detail = _detail(record)
        if record.action in (_ENROL, _SPLIT):
            key, ring, name, parent = (str(detail.get(name, "")) for name in ("public_key", "ring", "name", "copy_of"))
            self.hosts[record.subject] = Enrolled(record.at, key, ring, name, parent)
        elif record.action in (_MOVE, _TAG, _GONE):
            host = self.hosts.get(record.subject)
            if host is None:
                raise EvidenceError(f"record {record.number} is of host {record.subject[:40]}, which never enrolled")
            if record.action == _MOVE:
                host.ring = str(detail.get("to", ""))
            elif record.action == _TAG:
                host.tags = detail.get("to")
            else:
                host.decommissioned = True
        elif record.action == _APPROVE:
            key_ = record.subject, _stage(record, detail), record.actor
            self.approvals.setdefault(key_, (record.at, str(detail.get("reason", ""))))
        elif record.action == _CREATE:
            said = tuple(detail.get(name) for name in ("name", "emergency", "targets"))
            self.rollouts[record.subject] = Created(record.at, record.actor, said)
        elif record.action == MADE:
            said = tuple(detail.get(name) for name in ("since", "until", "ring"))
            self.packs.add((record.at, record.actor, *map(_bare, said)))
        elif record.action == inventory.IMPORTED:
            self.inventories.append(str(detail.get("sha256", "")))
        elif record.action == KEY_NOTED:
            self.keys.add(record.subject)
        elif record.action in (_SET, _REMOVE):
            self._note_policy(record, detail)
        elif record.action in (_ASK, _ACCEPT, _WITHDRAW):
            self._note_exception(record, detail)

    def _note_policy(self, record: Record, detail: dict[str, Any]) -> None:
        name = str(detail.get("policy", ""))
        for act in self.policies:
            if (act.ring, act.name) == (record.subject, name) and act.removed_at is None:
                act.removed_at = record.at  # also if another takes its place
        if record.action == _SET:
            said = {key: value for key, value in detail.items() if key != "policy"}
            self.policies.append(PolicyAct(record.subject, name, record.at, record.actor, said))

    def _note_exception(self, record: Record, detail: dict[str, Any]) -> None:
        if record.action == _ASK:
            tree = {
                **detail, "id": record.subject, "created_at": record.at, "created_by": record.actor, "approved_at": None,
                "approved_by": "", "withdrawn_at": None, "withdrawn_by": "",
            }  # fmt: skip
            self.exceptions[record.subject] = from_plain(ExceptionRow, tree)
        elif (found := self.exceptions.get(record.subject)) is None:
            raise EvidenceError(f"record {record.number} is of an exception that nobody has asked for")
        elif record.action == _ACCEPT:
            self.exceptions[found.id] = replace(found, approved_at=record.at, approved_by=record.actor)
        else:
            self.exceptions[found.id] = replace(found, withdrawn_at=record.at, withdrawn_by=record.actor)


def read(reader: Reader, heads: Sequence[Head]) -> Log:
    """Verify the log.

    Args:
        heads: records that are looked for, as they were kept elsewhere.

    Raises:
        AuditError: it is not whole, or was changed.
    """
    log = Log()
    wanted = {head.number for head in heads}

    def lines() -> Iterator[bytes]:
        for line in reader.pack.lines(documents.AUDIT):
            yield line
            # The generator goes on when the record has been verified.
            record = _record(line)
            log.note(record)
            if record.number in wanted:
                log.known[record.number] = record.digest

    log.head = audit.verify(lines())
    return log


def check_heads(log: Log, heads: Sequence[Head]) -> None:
    """See that records that were kept elsewhere are in the log.

    Raises:
        EvidenceError: one is not.
    """
    for head in heads:
        if head.number not in log.known:
            raise EvidenceError(f"record {head.number} was known, and the audit log ends with record {log.head.number}")
        if log.known[head.number] != head.digest:
            raise EvidenceError(f"record {head.number} is not the one that was known: the audit log was written anew")


def check_made(log: Log, about: About) -> None:
    """See that the pack is one that the log says was made.

    Raises:
        EvidenceError: it is not.
    """
    if (about.made_at, about.made_by, about.since, about.until, about.ring) not in log.packs:
        raise EvidenceError("the audit log does not know that this pack was made, for whom, and of which period")


def check_approvals(reader: Reader, about: About, log: Log) -> str:
    """Hold the approvals against the log.

    Raises:
        EvidenceError: one is only in one of the two.
    """
    rows = list(reader.rows(Approval, documents.APPROVALS))
    there = {(row.rollout, row.stage, row.actor): (row.at, row.reason) for row in rows}
    expected = {key: said for key, said in log.approvals.items() if about.since <= said[0] < about.until}
    for key in sorted(there.keys() | expected.keys()):
        if there.get(key) != expected.get(key) or len(rows) != len(there):
            raise EvidenceError(
                f"the approval of rollout {key[0][:40]}, stage {key[1]}, by {key[2][:40]} is not as the audit log has it"
            )
    return f"{_check_rollouts(reader, about, log)} rollouts and {len(rows)} approvals, as the audit log has them"


def _check_rollouts(reader: Reader, about: About, log: Log) -> int:
    """How many there are; each as it was made, and those of the period all there."""
    rows = list(reader.rows(RolloutRow, documents.ROLLOUTS))
    there = {row.id: Created(row.created_at, row.created_by, (row.name, row.emergency, row.targets)) for row in rows}
    for name, found in there.items():
        if found != log.rollouts.get(name) or len(rows) != len(there):
            raise EvidenceError(f"rollout {name[:40]} is not as the audit log has it")
    made = {name for name, item in log.rollouts.items() if about.since <= item.at < about.until}
    if missing := sorted(made - there.keys()):
        raise EvidenceError(f"rollout {missing[0][:40]} was made in the period, and is not there")
    return len(rows)


def check_ruling(reader: Reader, about: About, log: Log) -> str:
    """Hold policies and exceptions against the log.

    Raises:
        EvidenceError: one is not as it was set or approved, is missing, or is one too many.
    """
    policies = sorted(map(_as_act, reader.rows(PolicyRow, documents.POLICIES)), key=_place)
    set_there = [act for act in log.policies if act.at < about.until and not _over(act.removed_at, about.since)]
    if policies != sorted(set_there, key=_place):
        odd = next(act for act in (*policies, *set_there) if policies.count(act) != set_there.count(act))
        raise EvidenceError(f"policy {odd.name[:40]} of ring {odd.ring[:40]} is not as the audit log has it")
    rows = list(reader.rows(ExceptionRow, documents.EXCEPTIONS))
    exceptions = {row.id: row for row in rows}
    if len(rows) != len(exceptions):
        raise EvidenceError("an exception is there twice")
    asked = {
        row.id: row
        for row in log.exceptions.values()
        if row.created_at < about.until and row.expires_at >= about.since and not _over(row.withdrawn_at, about.since)
    }
    for wanted in sorted(exceptions.keys() | asked.keys()):
        if exceptions.get(wanted) != asked.get(wanted):
            raise EvidenceError(f"exception {wanted[:40]} is not as the audit log has it")
    return f"{len(policies)} policies and {len(exceptions)} exceptions, as the audit log has them"


def _place(act: PolicyAct) -> tuple[str, str, int, int]:
    return act.ring, act.name, act.at, act.removed_at if act.removed_at is not None else act.at - 1


def _over(at: int | None, since: int) -> bool:
    return at is not None and at < since


def _as_act(row: PolicyRow) -> PolicyAct:
    try:
        rows, assumed = json.loads(row.rows), json.loads(row.assumed)
    except (ValueError, RecursionError):
        raise EvidenceError(f"policy {row.name[:40]} of ring {row.ring[:40]} cannot be read") from None
    said = {
        "framework": row.framework, "rows": rows, "assumed": assumed, "valid_from": row.valid_from,
        "valid_to": row.valid_to, "approved_by": row.approved_by,
    }  # fmt: skip
    return PolicyAct(row.ring, row.name, row.created_at, row.created_by, said, row.removed_at)


def _record(line: bytes) -> Record:
    try:
        return decode(Record, line, max_bytes=MAX_LINE)
    except MalformedError as problem:
        raise EvidenceError(f"the audit log cannot be read: {problem.message}") from None


def _detail(record: Record) -> dict[str, Any]:
    try:
        tree = json.loads(record.detail)
        json.dumps(tree, ensure_ascii=False).encode()  # what has no UTF-8 can neither be compared nor shown
    except (ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        raise EvidenceError(f"record {record.number} of the audit log has a detail that cannot be read")
    return tree


def _stage(record: Record, detail: dict[str, Any]) -> int:
    stage = detail.get("stage", 0)
    if type(stage) is not int:
        raise EvidenceError(f"record {record.number} approves no stage")
    return stage


def _bare(value: object) -> object:
    """What can be a member of a set."""
    return value if isinstance(value, (int, str)) else None
