"""The distro's modules as files, with their symbol tables whole: taken out of the debug package, without debug information.

A shipped module has lost its STT_FILE symbols; the debug package's file has them, and is otherwise the same: sections, symbol
order and relocations. Debug sections are left as holes, so a module takes on disk what it takes in the image package.
"""

from __future__ import annotations

from pathlib import Path

from kmend.core.cache import locked
from kmend.core.errors import KmendError
from kmend.core.kernel import KernelRef
from kmend.factory.elf.headers import read_headers
from kmend.factory.kernels.packages import fetch_package, kernel_packages, members
from kmend.factory.kernels.prepared import KernelIndex

_STAMP = "complete"


class ModuleFileError(KmendError):
    """The debug package lacks a module of the kernel."""

    kind = "module-file"


def module_image(kernel: KernelIndex, name: str) -> bytes:
    """The module's file; its debug sections read as zeros.

    Args:
        name: as the kernel has it, with `_`.

    Raises:
        PackageGoneError: the debug package is no longer to be had.
        ModuleFileError: the kernel has no such module.
    """
    folder = kernel.folder / "modules"
    if not (folder / _STAMP).exists():
        with locked(kernel.folder / "modules.lock"):
            if not (folder / _STAMP).exists():
                _take_out(kernel, folder)
    path = folder / f"{name}.ko"
    if not path.is_file():
        raise ModuleFileError(f"{kernel.identity.ref} has no module {name}")
    return path.read_bytes()


def _take_out(kernel: KernelIndex, folder: Path) -> None:
    ref = KernelRef.parse(kernel.identity.ref)
    package = fetch_package(kernel_packages(ref).debug, kernel.package)
    folder.mkdir(exist_ok=True)
    for member, content in members(package, lambda name: name.endswith(".ko")):
        _write_without_debug(folder / Path(member).name.replace("-", "_"), content)
    (folder / _STAMP).write_text("")


def _write_without_debug(path: Path, content: bytes) -> None:
    _, headers = read_headers(content)
    holes = sorted(
        (header.offset, header.offset + header.size)
        for header in headers
        if header.name.startswith((".debug", ".rela.debug", ".BTF"))
    )
    with path.open("wb") as out:
        position = 0
        for start, end in [*holes, (len(content), len(content))]:
            out.seek(position)
            out.write(content[position:start])
            position = max(position, end)
        out.truncate(len(content))
