"""The index of a kernel build: what the factory asks of its binaries, read out of the debug and the image package once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kmend.core import document
from kmend.core.durable import write_durably
from kmend.core.errors import KmendError
from kmend.core.facts import KernelModule
from kmend.core.kernel import KernelRef
from kmend.factory.elf.headers import Reader
from kmend.factory.kernels.contents import Contents, Member, contents
from kmend.factory.kernels.packages import Package
from kmend.factory.kernels.units import ModuleDetails, module_details, units_by
from kmend.factory.kernels.vmlinux import Vmlinux, VmlinuxError, extract

_PLACES = "debug-modules.json"
_BANNER = re.compile(rb"Linux version (\S+) \([^\n]*\) (#\d+ [^\n]+)\n\0")
_GENERATED_OUTSIDE = re.compile(r"debian/build/[^/]+/")
"""Where Debian's build keeps what it generates; the compiler's folder for those files alone."""


class KernelError(KmendError):
    """A kernel build cannot be prepared or is not prepared."""

    kind = "kernel"


@dataclass(frozen=True, slots=True)
class Indexed:
    """What indexing found out beside the files that it wrote."""

    build_id: str
    uname_version: str
    vermagic: str
    module_struct_size: int


def make_index(debug: Package, image: Package, ref: KernelRef, folder: Path) -> Indexed:
    """Make the index from the debug and the image package in `folder`.

    Raises:
        PackageProblemError: a package cannot be read.
        KmendError: the packages are not those of that kernel.
    """
    release = ref.release
    boot = "usr/lib/debug/boot/"
    units: dict[str, list[str]] = {}
    build_id = ""
    places: dict[str, Member] = {}
    with contents(debug) as inside:
        # Modules come after vmlinux and are read as they come: going back would decompress blocks again.
        for member in inside.members():
            read = _reader(inside, member)
            if member.path == f"{boot}System.map-{release}":
                (folder / "System.map").write_bytes(inside.read(member))
            elif member.path == f"{boot}vmlinux-{release}":
                _note(units, units_by(read, member.size), "vmlinux")
                build_id = extract(read, member.size, folder)
            elif (name := _debug_module(member, release)) is not None:
                _note(units, units_by(read, member.size), name)
                places[name] = member
    if not build_id or not (folder / "System.map").exists():
        raise VmlinuxError(
            f"{debug.path.name} holds no vmlinux and System.map of {release}", hint="it is of another kernel"
        )
    write_places(folder, places)
    (folder / "units.json").write_text(json.dumps(units, sort_keys=True))
    shipped: list[KernelModule] = []
    builds: set[tuple[str, int]] = set()
    with contents(image) as inside:
        for member in inside.members():
            if member.path.endswith(".ko"):
                details = module_details(_reader(inside, member), member.size)
                shipped.append(module_record(member.path, details))
                builds.add((details.info.get("vermagic", [""])[0], details.struct_size))
    if len(builds) != 1:
        raise KernelError(f"the modules of {image.path.name} are not of one build: {sorted(builds)}", hint="report it")
    vermagic, struct_size = builds.pop()
    (folder / "modules.json").write_text(json.dumps([document.plain(record) for record in shipped]))
    return Indexed(build_id, _uname_version(Vmlinux(folder), release), vermagic, struct_size)


def module_places(inside: Contents, folder: Path, release: str) -> dict[str, Member]:
    """The modules' files in the debug package, by the modules' names, noted in the index in `folder` or found now.

    Raises:
        PackageProblemError: the package cannot be read.
    """
    noted = folder / _PLACES
    if not noted.is_file():
        found = ((_debug_module(member, release), member) for member in inside.members())
        write_places(folder, {name: member for name, member in found if name is not None})
    return {name: Member(*place) for name, place in json.loads(noted.read_text()).items()}


def write_places(folder: Path, places: Mapping[str, Member]) -> None:
    """Note in the index in `folder` where the debug package has the modules' files."""
    plain = {name: (member.path, member.offset, member.size) for name, member in places.items()}
    write_durably(folder / _PLACES, json.dumps(plain).encode())


def _reader(inside: Contents, member: Member) -> Reader:
    return lambda offset, size: inside.read(member, offset, size)


def _debug_module(member: Member, release: str) -> str | None:
    """The name of the module whose debug file this is, as the kernel has it."""
    if member.path.startswith(f"usr/lib/debug/lib/modules/{release}/") and member.path.endswith(".ko"):
        return module_of(member.path)
    return None


def module_of(path: str) -> str:
    """`kernel/net/8021q/xt-a.ko` -> `xt_a`."""
    return Path(path).name.removesuffix(".ko").replace("-", "_")


def _note(units: dict[str, list[str]], sources: Iterable[str], where: str) -> None:
    for source in sources:
        units.setdefault(_GENERATED_OUTSIDE.sub("", source, count=1), []).append(where)


def module_record(path: str, details: ModuleDetails) -> KernelModule:
    """A module that the distro ships, by its path in the image package and by what it says of itself."""
    info = details.info
    depends = info.get("depends", [""])[0]
    return KernelModule(
        name=module_of(path),
        path=path,
        build_id=details.build_id,
        aliases=tuple(info.get("alias", ())),
        depends=tuple(part.replace("-", "_") for part in depends.split(",") if part),
    )


def _uname_version(vmlinux: Vmlinux, release: str) -> str:
    """`uname -v` as it stands in the kernel's own banner (`linux_banner`, `init/version.c`)."""
    banners = vmlinux.named("linux_banner")
    content = vmlinux.content(banners[0].address, 512) if banners else None
    match = _BANNER.match(content or b"")
    if match is None or match[1].decode() != release:
        raise VmlinuxError(
            f"the banner of vmlinux does not name {release}", hint="the debug package is of another kernel"
        )
    return match[2].decode()
