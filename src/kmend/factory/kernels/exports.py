"""`Module.symvers` of the distro: what vmlinux and modules export, with CRC, kind and namespace."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kmend.core.errors import MalformedError

_CRC = re.compile(r"0x[0-9a-f]{1,8}")


@dataclass(frozen=True, slots=True)
class Export:
    """An exported symbol.

    Attributes:
        owner: `vmlinux`, or the exporting module's name with `_`.
        gpl: whether only GPL-compatible modules may use it.
        namespace: the symbol namespace that a user must import; empty for none.
    """

    name: str
    crc: int
    owner: str
    gpl: bool
    namespace: str


class Exports:
    """All exports of a kernel build, by name."""

    def __init__(self, table: dict[str, Export]) -> None:
        self._table = table

    @classmethod
    def from_symvers(cls, path: Path) -> Exports:
        """Read `Module.symvers` (`scripts/mod/modpost.c`, `read_dump`): CRC, name, owner, kind, namespace, tab-separated.

        Raises:
            MalformedError: it is not one.
        """
        table = {}
        for number, line in enumerate(
            path.read_bytes().decode(errors="replace").removesuffix("\n").split("\n"), start=1
        ):
            parts = line.split("\t")
            if len(parts) != 5 or not _CRC.fullmatch(parts[0]):
                raise MalformedError(
                    f"line {number} of {path.name} is not an export", hint="take it from the headers package"
                )
            owner = parts[2].rsplit("/", 1)[-1].replace("-", "_")
            table[parts[1]] = Export(parts[1], int(parts[0], 16), owner, "GPL" in parts[3], parts[4])
        return cls(table)

    def get(self, name: str) -> Export | None:
        """The export of that name, if there is one."""
        return self._table.get(name)
