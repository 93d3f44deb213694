"""The organisation's own list of its machines: what the fleet is held against, so that one without an agent is not forgotten."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from kmend.core.document import encode
from kmend.server.access import audit
from kmend.server.evidence.documents import Machine
from kmend.server.evidence.errors import InventoryError
from kmend.server.store.tables import hosts, inventory

MAX_BYTES = 64 * 1024 * 1024
MAX_MACHINES = 500_000
MAX_FIELD = 300
MEMBERS = ("name", "machine", "address", "owner", "scope")
IMPORTED = "inventory.import"
_PORTION = 1000
_HOST_ID = re.compile(r"[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Listed:
    """A machine, as the list has it.

    Attributes:
        machine: digest of the machine as its host gives it, or the host's ID; empty if only the name is known.
    """

    name: str
    machine: str = ""
    address: str = ""
    owner: str = ""
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What is needed of a host to find it in the list."""

    id: str
    name: str
    machine: str


class Finder:
    """Finds the host that a machine of the list is: by its ID, by the machine's digest, or else by its name.

    A name that two hosts have finds the one whose ID is the lower; letters large or small are the same.
    """

    def __init__(self, known: Iterable[Known]) -> None:
        self._by: dict[str, str] = {}
        for host in sorted(known, key=lambda item: item.id, reverse=True):
            self._by[f"name {host.name.casefold()}"] = host.id
            if host.machine:
                self._by[f"machine {host.machine}"] = host.id
            self._by[f"machine {host.id}"] = host.id

    def host(self, listed: Listed | Machine) -> str:
        """Its ID; empty if the machine has no agent."""
        if listed.machine:
            return self._by.get(f"machine {listed.machine}", "")
        return self._by.get(f"name {listed.name.casefold()}", "")


def read(content: bytes) -> tuple[Listed, ...]:
    """A list of machines: CSV with a line of column names, or JSON (a list of objects).

    Columns that are not known are left out; `name` is needed, or `machine`.

    Raises:
        InventoryError: it is neither, or a line cannot be used; the message says which.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InventoryError("the list is not UTF-8 text") from None
    rows = _of_json(text) if text.lstrip()[:1] == "[" else _of_csv(text)
    found: list[Listed] = []
    seen: set[tuple[str, str]] = set()
    for place, row in rows:
        listed = _listed(place, row)
        if (listed.name.casefold(), listed.machine) in seen:
            raise InventoryError(f"{place}: {listed.name or listed.machine} is listed twice")
        seen.add((listed.name.casefold(), listed.machine))
        found.append(listed)
        if len(found) > MAX_MACHINES:
            raise InventoryError(f"there are more than {MAX_MACHINES} machines in the list")
    if not found:
        raise InventoryError("the list is empty")
    return tuple(sorted(found, key=lambda item: (item.name, item.machine)))


def keep(connection: Connection, machines: Sequence[Listed], *, actor: str, now: int) -> None:
    """Take a list in, in place of the one before; the audit log keeps its digest."""
    connection.execute(delete(inventory))
    for first in range(0, len(machines), _PORTION):
        rows = [
            {"position": first + offset, **{name: getattr(item, name) for name in MEMBERS}}
            for offset, item in enumerate(machines[first : first + _PORTION])
        ]
        connection.execute(insert(inventory), rows)
    detail = {"machines": len(machines), "sha256": digest(machines)}
    audit.append(connection, at=now, actor=actor, action=IMPORTED, subject="inventory", detail=detail)


def digest(machines: Iterable[Listed | Machine]) -> str:
    """Of a list, as the audit log keeps it: SHA-256 of what each machine's line says, in their order."""
    found = hashlib.sha256()
    for item in machines:
        found.update(encode(Listed(*(getattr(item, name) for name in MEMBERS))) + b"\n")
    return found.hexdigest()


def listing(connection: Connection) -> Iterator[Machine]:
    """Every machine, with the enrolled host that it is now."""
    table = hosts.c
    rows = connection.execute(select(table.id, table.name, table.machine).where(table.state == "enrolled"))
    yield from matched(connection, Finder(Known(row.id, row.name, row.machine) for row in rows))


def matched(connection: Connection, finder: Finder) -> Iterator[Machine]:
    """Every machine, with the host that is found for it."""
    query = select(inventory).order_by(inventory.c.position)
    for row in connection.execute(query.execution_options(yield_per=_PORTION)):
        listed = Listed(*(getattr(row, name) for name in MEMBERS))
        yield Machine(listed.name, listed.machine, listed.address, listed.owner, listed.scope, finder.host(listed))


def _of_json(text: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise InventoryError(f"the list is no JSON document: {problem}") from None
    for number, row in enumerate(tree, start=1):
        if not isinstance(row, dict):
            raise InventoryError(f"machine {number} is no object")
        yield f"machine {number}", row


def _of_csv(text: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = {(name or "").strip().casefold() for name in reader.fieldnames or ()}
        if not columns & {"name", "machine"}:
            raise InventoryError("the first line names no column `name` or `machine`")
        for row in reader:
            yield f"line {reader.line_num}", {(name or "").strip().casefold(): value for name, value in row.items()}
    except csv.Error as problem:
        raise InventoryError(f"line {reader.line_num} is no CSV: {problem}") from None


def _listed(place: str, row: Mapping[str, object]) -> Listed:
    values = {}
    for name in MEMBERS:
        value = row.get(name)
        text = "" if value is None else value.strip() if isinstance(value, str) else None
        if text is None or len(text) > MAX_FIELD or not text.isprintable():
            raise InventoryError(f"{place}: {name} must be one line of at most {MAX_FIELD} characters")
        values[name] = text
    machine = values["machine"] = values["machine"].lower()
    if machine and not _DIGEST.fullmatch(machine) and not _HOST_ID.fullmatch(machine):
        raise InventoryError(
            f"{place}: {machine[:70]!r} is neither the ID of a host nor the digest of a machine",
            hint="kmend-server hosts list --json has the IDs; without one a machine is found by its name",
        )
    if not values["name"] and not machine:
        raise InventoryError(f"{place}: a machine has a name")
    return Listed(**values)
