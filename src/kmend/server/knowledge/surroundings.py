"""What hosts have said of their modules and of their next kernel, as verdicts take it."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection

from kmend.intel.verdicts import HostKernel
from kmend.server.hosts import modulesets

COLUMNS = ("loaded", "barred", "absent", "sealed", "unpatched", "installed")
"""Of `hosts`: what a verdict may turn on."""


class Surroundings:
    """Makes what verdicts want of rows of `hosts`; lists that many hosts share are read once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lists: dict[str, frozenset[str] | None] = {}

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

    def _list(self, digest: str) -> frozenset[str] | None:
        if not digest:
            return None
        if digest not in self._lists:
            self._lists[digest] = modulesets.names(self._connection, digest)
        return self._lists[digest]
