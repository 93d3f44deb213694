"""What a reference to something outside the livepatch becomes: an ordinary import, or a relocation that livepatch applies.

Symbols that vmlinux exports are imported with their CRC, as any module does. Everything else is reached by a *klp relocation*: a
symbol `.klp.sym.<object>.<name>,<sympos>` that the kernel looks up in that object's symbols, where sympos picks among equal names
(`klp_resolve_symbols`, kernel/livepatch/core.c). Relocations against a module's symbols are applied when the module that is being
patched is there, so they stand in that module's section, `.klp.rela.<module>.*`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kmend.factory.build.moduleview import ModulePlacement, ShippedModule
from kmend.factory.build.refusal import Refusal, RefusalCode
from kmend.factory.build.special import INIT_CODE
from kmend.factory.build.unit import Element, External, Unit
from kmend.factory.build.verify import Placement
from kmend.factory.elf.constants import STB_LOCAL
from kmend.factory.kernels.prepared import Kernel

VMLINUX = "vmlinux"
KLP_PREFIX = ".klp.sym."
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
        object: where the symbol is; owner: the object in whose klp section the relocation stands.
    """

    way: Way
    name: str
    sympos: int = 0
    crc: int = 0
    namespace: str = ""
    object: str = VMLINUX
    owner: str = VMLINUX

    @property
    def symbol(self) -> str:
        """The symbol's name until the link step: for a klp relocation with `@<owner>` behind its final name."""
        if self.way is Way.EXPORT:
            return self.name
        return f"{KLP_PREFIX}{self.object}.{self.name},{self.sympos}@{self.owner}"


class Modules:
    """The shipped modules of a kernel, each read once, and which ones need which."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._read: dict[str, ShippedModule] = {}

    def shipped(self, name: str) -> ShippedModule:
        """The module of that name."""
        if name not in self._read:
            self._read[name] = ShippedModule(self._kernel, name)
        return self._read[name]

    def depends(self, name: str) -> frozenset[str]:
        """Every module that must be loaded before that one."""
        direct = {module.name: module.depends for module in self._kernel.modules}
        found: set[str] = set()
        todo = list(direct.get(name, ()))
        while todo:
            other = todo.pop()
            if other not in found:
                found.add(other)
                todo += direct.get(other, ())
        return frozenset(found)

    def build_id(self, name: str) -> str | None:
        """GNU build ID of the shipped module."""
        return next((module.build_id for module in self._kernel.modules if module.name == name), None)


def used_when_running(original: Unit) -> frozenset[str]:
    """What an original's code refers to that stays after the boot: `__init` things too, if they are told to be safe (`__ref`)."""
    running = (element for element in original.functions if not INIT_CODE.match(element.section.name))
    return frozenset(reference.target.name for function in running for reference in function.references)


class Resolver:
    """Resolves references of one unit against the running kernel."""

    def __init__(
        self, kernel: Kernel, original: Unit, placement: Placement | ModulePlacement, modules: Modules
    ) -> None:
        self._kernel = kernel
        self._used = used_when_running(original)
        self._source = original.source
        self._placement = placement
        self._modules = modules

    def resolve(self, target: Element | External) -> Resolution | Refusal:
        """The way to `target`, an original element of the unit or a symbol of another one."""
        name = target.name
        outside = isinstance(target, External) or target.is_global
        export = self._kernel.exports.get(name) if outside else None
        if export is not None and export.owner == VMLINUX:
            return Resolution(Way.EXPORT, name, crc=export.crc, namespace=export.namespace)
        if isinstance(target, Element):
            return self._own(target)
        home = self._placement.object
        if isinstance(self._placement, ModulePlacement):
            position = self._placement.external_sympos(name)
            if position is not None:
                return self._klp(name, position, home)
            if export is not None and export.owner in self._modules.depends(home):
                return self._exported_by(export.owner, name)
        return self._vmlinux(target, export.owner if export else "")

    def sympos(self, element: Element) -> int | Refusal:
        """The position among equal names of an original function that is to be replaced."""
        found = self._own(element)
        return found if isinstance(found, Refusal) else found.sympos

    def _own(self, element: Element) -> Resolution | Refusal:
        """An element of this very unit."""
        if isinstance(self._placement, Placement):
            return self._by_address(element.name, self._placement.addresses(element))
        position = self._placement.sympos(element)
        return self._klp(element.name, position, self._placement.object)

    def _exported_by(self, module: str, name: str) -> Resolution | Refusal:
        shipped = self._modules.shipped(module)
        place = shipped.exported_place(name)
        return self._klp(name, shipped.sympos(name, place) if place else None, module)

    def _vmlinux(self, target: External, exporter: str) -> Resolution | Refusal:
        """A symbol of vmlinux that it does not export; ordinary modules cannot reach it, a livepatch can."""
        found = tuple(s.address for s in self._kernel.vmlinux.named(target.name) if s.bind != STB_LOCAL)
        return self._by_address(target.name, found) if found else self._missing(target, exporter)

    def _by_address(self, name: str, addresses: tuple[int, ...]) -> Resolution | Refusal:
        if len(addresses) != 1:
            return self._refusal(
                RefusalCode.AMBIGUOUS_SYMBOL,
                f"the kernel has {len(addresses)} symbols {name} that this file may mean",
                name,
            )
        if name not in self._used and self._freed(addresses[0]):
            return self._refusal(
                RefusalCode.UNRESOLVED,
                f"{name} is __init code or data, whose memory was given back when the kernel had booted",
                name,
                hint="use what is still there, or keep a copy of your own",
            )
        return self._klp(name, self._kernel.kallsyms.sympos(name, addresses[0]), VMLINUX)

    def _freed(self, address: int) -> bool:
        """Whether the kernel gives an address back at the end of its boot (`free_initmem`)."""
        edges = [self._kernel.kallsyms.named(name) for name in ("__init_begin", "__init_end")]
        return all(edges) and edges[0][0].address <= address < edges[1][0].address

    def _klp(self, name: str, position: int | None, home: str) -> Resolution | Refusal:
        if position is None or len(name) > MAX_KLP_NAME:
            return self._refusal(
                RefusalCode.UNRESOLVED,
                f"{name} is not in the symbol table of {home}, or not always at the same place, so a livepatch cannot reach it",
                name,
            )
        owner = VMLINUX if home == VMLINUX else self._placement.object
        return Resolution(Way.KLP, name, position, object=home, owner=owner)

    def _missing(self, target: External, exporter: str) -> Refusal:
        if exporter:
            return self._refusal(
                RefusalCode.MODULE_EXPORT,
                f"{target.name} is exported by the module {exporter}, which need not be there when {self._placement.object} is",
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
