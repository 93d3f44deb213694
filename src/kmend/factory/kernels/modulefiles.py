"""The distro's modules as files, with their symbol tables whole: taken out of the debug package, without debug information.

A shipped module has lost its STT_FILE symbols; the debug package's file has them, and is otherwise the same: sections, symbol
order and relocations. Debug sections are left as holes, so a module takes on disk what it takes in the image package.
"""

from __future__ import annotations

from pathlib import Path

from kmend.core.cache import locked
from kmend.core.errors import KmendError
from kmend.core.kernel import KernelRef
from kmend.factory.elf.headers import headers_by
from kmend.factory.kernels.contents import Contents, Member, contents
from kmend.factory.kernels.indexing import module_places
from kmend.factory.kernels.packages import fetch_package, kernel_packages
from kmend.factory.kernels.prepared import KernelIndex


class ModuleFileError(KmendError):
    """The debug package lacks a module of the kernel."""

    kind = "module-file"
    default_hint = "see 'kmend-factory kernel facts' for the modules that it has"


def module_image(kernel: KernelIndex, name: str) -> bytes:
    """The module's file; its debug sections read as zeros.

    Args:
        name: as the kernel has it, with `_`.

    Raises:
        PackageGoneError: the debug package is no longer to be had.
        ModuleFileError: the kernel has no such module.
    """
    path = kernel.folder / "modules" / f"{name}.ko"
    if not path.is_file():
        with locked(kernel.folder / "modules.lock"):
            if not path.is_file():
                _take_out(kernel, name, path)
    return path.read_bytes()


def _take_out(kernel: KernelIndex, name: str, path: Path) -> None:
    ref = KernelRef.parse(kernel.identity.ref)
    package = fetch_package(kernel_packages(ref).debug, kernel.package)
    path.parent.mkdir(exist_ok=True)
    with contents(package) as inside:
        member = module_places(inside, kernel.folder / "index", kernel.identity.release).get(name)
        if member is None:
            raise ModuleFileError(f"{kernel.identity.ref} has no module {name}")
        _write_without_debug(path, inside, member)


def _write_without_debug(path: Path, inside: Contents, member: Member) -> None:
    _, headers = headers_by(lambda offset, size: inside.read(member, offset, size), member.size)
    holes = sorted(
        (header.offset, header.offset + header.size)
        for header in headers
        if header.name.startswith((".debug", ".rela.debug", ".BTF"))
    )
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as out:
        position = 0
        for start, end in [*holes, (member.size, member.size)]:
            out.seek(position)
            out.write(inside.read(member, position, max(0, start - position)))
            position = max(position, end)
        out.truncate(member.size)
    temporary.replace(path)
