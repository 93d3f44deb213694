"""Under which names a distro's changelogs are kept among the feeds: the first as `debian`, others with their branch."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from kmend.intel.uploads import branch_of
from kmend.server.feeds import CHANGELOG, is_changelog
from kmend.server.store.tables import feeds


def versions(connection: Connection) -> dict[str, str]:
    """Name -> newest upload of each changelog that was imported."""
    found = connection.execute(select(feeds.c.name, feeds.c.version).order_by(feeds.c.name))
    return {row.name: row.version for row in found if is_changelog(row.name)}


def name_for(connection: Connection, branch: str) -> str:
    """The name of the changelog of a branch: the one that it has, or the one that it gets."""
    known = versions(connection)
    for name, version in known.items():
        if branch_of(version) == branch:
            return name
    return f"{CHANGELOG}-{branch}" if known else CHANGELOG


def only(connection: Connection, name: str, branch: str) -> None:
    """Have a branch's changelog stand under one name: under others it would grow old, although it is there."""
    others = [
        other for other, version in versions(connection).items() if branch_of(version) == branch and other != name
    ]
    connection.execute(delete(feeds).where(feeds.c.name.in_(others)))
