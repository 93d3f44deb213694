"""What hosts say of their modules, as the database keeps it: a list of names once, however many hosts have it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sqlalchemy import Connection, delete, select, text, union, update

from kmend.core.manifest import sha256_hex
from kmend.core.wire import ModuleReport
from kmend.server.store.tables import host_periods, hosts, module_sets

FRESH_SECONDS = 12 * 3600
"""A list that was named so lately is not written again: otherwise all hosts of a kind would wait for one row."""
KEEP_SECONDS = 7 * 86_400
MAX_AT_ONCE = 1000

NONE: Mapping[str, object] = {
    "modules": "", "loaded": "", "barred": "", "absent": "", "sealed": False, "unpatched": "[]", "installed": "",
}  # fmt: skip
"""The columns of a host that has said nothing of them, or of whom it is not known whether it still holds."""

_PUT = text(
    "INSERT INTO module_sets (digest, names, used_at) VALUES (:digest, :names, :now) "
    "ON CONFLICT (digest) DO UPDATE SET used_at = excluded.used_at"
)


def columns(tag: str, report: ModuleReport) -> tuple[dict[str, object], dict[str, str]]:
    """The columns of `hosts` that a module report fills, and the lists that they name: digest -> JSON."""
    lists = {name: json.dumps(sorted(set(getattr(report, name)))) for name in ("loaded", "barred", "absent")}
    # That nothing is loaded is something else than that it is not known.
    named = {
        name: sha256_hex(content.encode()) for name, content in lists.items() if name == "loaded" or content != "[]"
    }
    values: dict[str, object] = {
        **NONE,
        **named,
        "modules": tag,
        "sealed": report.sealed,
        "unpatched": json.dumps(sorted(report.unpatched)),
        "installed": report.installed,
    }
    return values, {digest: lists[name] for name, digest in named.items()}


def keep(connection: Connection, lists: Mapping[str, str], now: int) -> None:
    """Keep lists that hosts have named; digest -> JSON."""
    if not lists:
        return
    table = module_sets.c
    fresh = select(table.digest).where(table.digest.in_(sorted(lists)), table.used_at > now - FRESH_SECONDS)
    known = set(connection.execute(fresh).scalars())
    for digest in sorted(lists.keys() - known):
        connection.execute(_PUT, {"digest": digest, "names": lists[digest], "now": now})


def names(connection: Connection, digest: str) -> frozenset[str] | None:
    """The names of a list; None if it is not there."""
    found = connection.execute(select(module_sets.c.names).where(module_sets.c.digest == digest)).scalar()
    return frozenset(json.loads(found)) if found is not None else None


def prune(connection: Connection, now: int) -> int:
    """Forget lists that no host has any more, and the history neither; looks at a thousand at most, and returns at how many.

    One that is still named is looked at again after a week.
    """
    table = module_sets.c
    old = select(table.digest).where(table.used_at < now - KEEP_SECONDS).order_by(table.digest).limit(MAX_AT_ONCE)
    found = list(connection.execute(old).scalars())
    if not found:
        return 0
    named = [
        select(where.c[name]).where(where.c[name].in_(found))
        for where in (hosts, host_periods)
        for name in ("loaded", "barred", "absent")
    ]
    used = set(connection.execute(union(*named)).scalars())
    if used:
        connection.execute(update(module_sets).where(table.digest.in_(sorted(used))).values(used_at=now))
    # Asked again of the row itself: a host may have named it meanwhile.
    gone = delete(module_sets).where(table.digest.in_(sorted(set(found) - used)), table.used_at < now - KEEP_SECONDS)
    connection.execute(gone)
    return len(found)
