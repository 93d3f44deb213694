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
from kmend.server.evidence.documents import About, Approval, ExceptionRow, PolicyRow
from kmend.server.evidence.errors import EvidenceError
from kmend.server.evidence.reading import Reader

KEY_NOTED = "evidence.key"
_ENROL, _SPLIT, _MOVE, _TAG, _GONE = "host.enrol", "host.split", "host.move", "host.tag", "host.decommission"
_APPROVE = "rollout.approve"
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


@dataclass(slots=True)
class Enrolled:
    """A host, as the audit log has it.

    Attributes:
        public_key: empty where the record is from before keys were written into it.
        tags: as they were set last; None if nobody has set any since the enrolment.
    """

    at: int
    public_key: str
    ring: str
    tags: dict[str, str] | None = None
    decommissioned: bool = False


@dataclass(slots=True)
class Log:
    """What was found in the log.

    Attributes:
        keys: that have signed packs as the server's.
        approvals: rollout, stage and actor -> when, the first time.
        inventories: digests of the lists of machines, the newest last.
        policies: as they were set and removed, in that order.
        exceptions: as they were asked for, approved and withdrawn.
    """

    head: Head = field(default_factory=lambda: Head(0, audit.FIRST))
    keys: set[str] = field(default_factory=set)
    hosts: dict[str, Enrolled] = field(default_factory=dict)
    approvals: dict[tuple[str, int, str], int] = field(default_factory=dict)
    inventories: list[str] = field(default_factory=list)
    policies: list[PolicyAct] = field(default_factory=list)
    exceptions: dict[str, ExceptionRow] = field(default_factory=dict)

    def note(self, record: Record) -> None:
        """Take in one record."""
        detail = _detail(record)
        if record.action in (_ENROL, _SPLIT):
            key, ring = str(detail.get("public_key", "")), str(detail.get("ring", ""))
            self.hosts[record.subject] = Enrolled(record.at, key, ring)
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
            self.approvals.setdefault((record.subject, int(detail.get("stage", 0)), record.actor), record.at)
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
        heads: records that must be in it, as they were kept elsewhere.

    Raises:
        AuditError: it is not whole, or was changed.
        EvidenceError: a head is not in it.
    """
    log = Log()
    found: dict[int, str] = {}
    wanted = {head.number for head in heads}

    def lines() -> Iterator[bytes]:
        for line in reader.pack.lines(documents.AUDIT):
            yield line
            # The generator goes on when the record has been verified.
            record = _record(line)
            log.note(record)
            if record.number in wanted:
                found[record.number] = record.digest

    log.head = audit.verify(lines())
    for head in heads:
        if found.get(head.number) != head.digest:
            raise EvidenceError(f"record {head.number} is not the one that was known: the audit log was written anew")
    return log


def check_approvals(reader: Reader, about: About, log: Log) -> str:
    """Hold the approvals against the log.

    Raises:
        EvidenceError: one is only in one of the two.
    """
    rows = list(reader.rows(Approval, documents.APPROVALS))
    there = {(row.rollout, row.stage, row.actor): row.at for row in rows}
    expected = {key: at for key, at in log.approvals.items() if about.since <= at < about.until}
    for key in sorted(there.keys() | expected.keys()):
        if there.get(key) != expected.get(key) or len(rows) != len(there):
            raise EvidenceError(
                f"the approval of rollout {key[0][:40]}, stage {key[1]}, by {key[2][:40]} is not as the audit log has it"
            )
    return f"{len(rows)} approvals, as the audit log has them"


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
    exceptions = {row.id: row for row in reader.rows(ExceptionRow, documents.EXCEPTIONS)}
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
    except (ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        raise EvidenceError(f"record {record.number} of the audit log has a detail that cannot be read")
    return tree
