"""What hosts have said of their modules and of their next kernel, as verdicts take it."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, func, select

from kmend.core.errors import MalformedError
from kmend.intel.verdicts import HostKernel
from kmend.intel.versions import KernelVersion
from kmend.server.hosts import modulesets
from kmend.server.store.tables import distro_fixes

COLUMNS = ("loaded", "barred", "absent", "sealed", "unpatched", "installed")
"""Of `hosts`: what a verdict may turn on."""


class Surroundings:
    """Makes what verdicts want of rows of `hosts`; lists that many hosts share are read once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lists: dict[str, frozenset[str] | None] = {}
        self._places: dict[str, int] | None = None

    def of(self, host: Any, level: int, transition: bool, *, modules: bool) -> HostKernel:
        """A host, or many that are alike.

        Args:
            host: a row of `hosts` with `COLUMNS`.
            modules: whether anything turns on which modules there are; else they are not asked for.
        """
        # A level in force may lie in wait for a module, too, whatever the facts say of where the code is.
        if not host.loaded or not (modules or level):
            return HostKernel(
                level, transition, unpatched=frozenset(json.loads(host.unpatched)), installed=host.installed
            )
        return HostKernel(
            level,
            transition,
            self._list(host.loaded),
            self._list(host.barred) or frozenset(),
            self._list(host.absent) or frozenset(),
            host.sealed,
            frozenset(json.loads(host.unpatched)),
            host.installed,
        )

    def is_in(self, fixed_in: str, installed: str) -> bool:
        """Whether an installed package version has what came with another one; False if that is not known."""
        if not installed:
            return False
        places = self._of_packages()
        if fixed_in in places and installed in places:
            return places[installed] >= places[fixed_in]
        try:
            other, mine = KernelVersion.of_package(fixed_in), KernelVersion.of_package(installed)
        except MalformedError:
            return False
        return other.branch == mine.branch and mine.update > other.update

    def _list(self, digest: str) -> frozenset[str] | None:
        if not digest:
            return None
        if digest not in self._lists:
            self._lists[digest] = modulesets.names(self._connection, digest)
        return self._lists[digest]

    def _of_packages(self) -> dict[str, int]:
        if self._places is None:
            table = distro_fixes.c
            query = select(table.package, func.max(table.place).label("place")).group_by(table.package)
            self._places = {row.package: row.place for row in self._connection.execute(query)}
        return self._places
