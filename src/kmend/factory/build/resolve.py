"""What a reference to something outside the livepatch becomes: an ordinary import, or a relocation that livepatch applies.

Exported symbols are imported with their CRC, as any module does. Everything else of the running kernel is reached by a *klp
relocation*: a symbol `.klp.sym.<object>.<name>,<sympos>` that the kernel looks up in kallsyms, where sympos picks among equal
names (`klp_resolve_symbols`, kernel/livepatch/core.c).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kmend.factory.build.refusal import Refusal, RefusalCode
from kmend.factory.build.unit import Element, External
from kmend.factory.build.verify import Placement
from kmend.factory.kernels.exports import Exports
from kmend.factory.kernels.kallsyms import Kallsyms

VMLINUX = "vmlinux"
MAX_KLP_NAME = 511
"""Longest symbol name that `klp_resolve_symbols` reads (`%511[^,]`)."""


class Way(enum.Enum):
    """How a reference is resolved."""

    EXPORT = "export"
    KLP = "klp"


@dataclass(frozen=True, slots=True)
class Resolution:
    """One symbol of the running kernel and how the livepatch reaches it.

    Attributes:
        name: its symbol; sympos: see `Kallsyms.sympos`, meaningful for KLP only.
        crc, namespace: of the export, meaningful for EXPORT only.
    """

    way: Way
    name: str
    sympos: int = 0
    crc: int = 0
    namespace: str = ""

    @property
    def symbol(self) -> str:
        """The symbol's name in the livepatch's own symbol table."""
        return self.name if self.way is Way.EXPORT else f".klp.sym.{VMLINUX}.{self.name},{self.sympos}"


class Resolver:
    """Resolves references of one unit against the running kernel."""

    def __init__(self, source: str, placement: Placement, exports: Exports, kallsyms: Kallsyms) -> None:
        self._source = source
        self._placement = placement
        self._exports = exports
        self._kallsyms = kallsyms

    def resolve(self, target: Element | External) -> Resolution | Refusal:
        """The way to `target`, an original element of the unit or a symbol of another one."""
        name = target.name
        outside = isinstance(target, External) or target.is_global
        export = self._exports.get(name) if outside else None
        if export is not None and export.owner == VMLINUX:
            return Resolution(Way.EXPORT, name, crc=export.crc, namespace=export.namespace)
        if isinstance(target, External):
            addresses = self._placement.external_addresses(name)
            if not addresses:
                return self._missing(target, export.owner if export else "")
        else:
            addresses = self._placement.addresses(target)
        return self._by_position(name, addresses)

    def sympos(self, element: Element) -> int | Refusal:
        """The position among equal names of an original function that is to be replaced."""
        found = self._by_position(element.name, self._placement.addresses(element))
        return found if isinstance(found, Refusal) else found.sympos

    def _by_position(self, name: str, addresses: tuple[int, ...]) -> Resolution | Refusal:
        if len(addresses) != 1:
            return self._refusal(
                RefusalCode.AMBIGUOUS_SYMBOL,
                f"the kernel has {len(addresses)} symbols {name} that this file may mean",
                name,
            )
        position = self._kallsyms.sympos(name, addresses[0])
        if position is None or len(name) > MAX_KLP_NAME:
            return self._refusal(
                RefusalCode.UNRESOLVED,
                f"{name} is not in the running kernel's symbol table, so a livepatch cannot reach it",
                name,
            )
        return Resolution(Way.KLP, name, position)

    def _missing(self, target: External, owner: str) -> Refusal:
        if owner:
            return self._refusal(
                RefusalCode.MODULE_EXPORT,
                f"{target.name} is exported by the module {owner}; built-in code cannot depend on it",
                target.name,
            )
        if target.weak:
            return self._refusal(
                RefusalCode.WEAK_REFERENCE, f"the weak symbol {target.name} is absent from this kernel", target.name
            )
        return self._refusal(
            RefusalCode.UNRESOLVED,
            f"{target.name} is neither defined by the fix nor part of the running kernel",
            target.name,
            hint="take the change that adds it into the fix",
        )

    def _refusal(self, code: RefusalCode, message: str, symbol: str, hint: str = "") -> Refusal:
        return Refusal(code, message, hint, file=self._source, symbol=symbol)
