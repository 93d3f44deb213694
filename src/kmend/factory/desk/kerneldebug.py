"""The distro's own debug files of a prepared kernel: vmlinux and modules, taken out of its debug package when first needed."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kmend.core.cache import locked
from kmend.core.kernel import KernelRef
from kmend.core.scratch import scratch_folder
from kmend.factory.elf import read_object
from kmend.factory.elf.constants import STT_FUNC
from kmend.factory.kernels.packages import fetch_package, kernel_packages, unpack
from kmend.factory.kernels.prepared import Kernel


@dataclass(frozen=True, slots=True)
class Place:
    """Where a function is: in a file with debug information, by address, or by offset in a section of it."""

    file: Path
    section: str | None
    address: int


@dataclass(frozen=True)
class KernelDebug:
    """Finds functions of one kernel.

    Attributes:
        wanted: names of the modules whose functions will be asked for.
    """

    kernel: Kernel
    wanted: frozenset[str]
    progress: Callable[[str], None]

    @property
    def _folder(self) -> Path:
        return self.kernel.folder / "debug"

    @property
    def vmlinux(self) -> Path:
        """vmlinux with debug information.

        Raises:
            PackageGoneError: the debug package is no longer to be had.
        """
        self._take_out()
        return self._folder / "vmlinux"

    def functions(self, name: str, size: int, module: str | None) -> list[Place]:
        """Every function of that name that may be meant.

        Args:
            size: as the kernel counts it, to the next symbol; tells equal names apart in vmlinux.
        """
        return self._of_module(name, module) if module is not None else self._of_vmlinux(name, size)

    def _of_vmlinux(self, name: str, size: int) -> list[Place]:
        addresses = [symbol.address for symbol in self.kernel.kallsyms.named(name)]
        fitting = [address for address in addresses if self._size(address) == size]
        return [Place(self.vmlinux, None, address) for address in fitting]

    def _size(self, address: int) -> int:
        """Bytes to the next symbol that is elsewhere (`kallsyms.c:get_symbol_pos`)."""
        place = bisect.bisect_right(self._addresses, address)
        return self._addresses[place] - address if place < len(self._addresses) else 0

    @cached_property
    def _addresses(self) -> list[int]:
        return sorted({symbol.address for symbol in self.kernel.kallsyms.symbols})

    def _of_module(self, name: str, module: str) -> list[Place]:
        self._take_out()
        path = self._folder / f"{module}.ko"
        if not path.exists():
            return []
        image = read_object(path.read_bytes())
        return [
            Place(path, symbol.section.name, symbol.value)
            for symbol in image.symbols
            if symbol.name == name and symbol.section is not None and symbol.type == STT_FUNC
        ]

    def _take_out(self) -> None:
        shipped = {module.name for module in self.kernel.modules}
        missing = [name for name in sorted(self.wanted & shipped) if not (self._folder / f"{name}.ko").exists()]
        if not missing and (self._folder / "vmlinux").exists():
            return
        with locked(self.kernel.folder / "debug.lock"):
            self._unpack(missing)

    def _unpack(self, modules: Iterable[str]) -> None:
        ref = KernelRef.parse(self.kernel.identity.ref)
        self.progress(f"taking the debug information of {ref} out of its package (once; 0.6 GB)")
        package = fetch_package(kernel_packages(ref).debug, self.kernel.package)
        release = self.kernel.identity.release
        vmlinux = f"usr/lib/debug/boot/vmlinux-{release}"
        have = (self._folder / "vmlinux").exists()
        names = frozenset(modules)

        def wanted(path: str) -> bool:
            plain = path.removeprefix("./")
            module = Path(plain).name.removesuffix(".ko").replace("-", "_")
            return (plain == vmlinux and not have) or (plain.endswith(".ko") and module in names)

        self._folder.mkdir(exist_ok=True)
        with scratch_folder("debug", self.kernel.folder) as fresh:
            unpack(package, fresh, wanted)
            for path in sorted(fresh.rglob("*")):
                if path.is_file():
                    base = path.name.replace("-", "_") if path.suffix == ".ko" else "vmlinux"
                    path.replace(self._folder / base)
