"""A kernel build, prepared: its identity, its source tree and its index, made once and kept in the cache."""

from __future__ import annotations

import json
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kmend.core import document
from kmend.core.cache import cache_root, locked
from kmend.core.durable import sync_folder, write_durably
from kmend.core.errors import KmendError, SystemProblemError
from kmend.core.kernel import KernelIdentity, KernelRef
from kmend.factory.kernels.exports import Exports
from kmend.factory.kernels.indexing import KernelError, ModuleRecordOfKernel, make_index
from kmend.factory.kernels.kallsyms import Kallsyms
from kmend.factory.kernels.packages import (
    available_versions,
    fetch_package,
    kernel_packages,
    unpack,
)
from kmend.factory.kernels.sources import not_needed, unpack_sources
from kmend.factory.kernels.tree import SourceTree, check_toolchain, included_sources, prepare_tree, read_config
from kmend.factory.kernels.vmlinux import Vmlinux

INDEX_VERSION = 2
"""Raised whenever what is kept in a prepared kernel's folder changes; older ones are then made anew."""


_BUILD_FOLDER = re.compile(r"/.+/linux-[^/]+/")


def source_of(unit: str) -> str:
    """The source file, relative to the tree, of a compilation unit's name: assembly has the build folder in front."""
    return posixpath.normpath(_BUILD_FOLDER.sub("", unit, count=1) if unit.startswith("/") else unit)


@dataclass(frozen=True, slots=True)
class PreparedRecord:
    """What was prepared, kept as `prepared.json`.

    Attributes:
        compiler: its own version line.
        make_variables: what `make` in the tree needs.
        inputs: file name of each package -> its SHA-256.
        vermagic: of the modules that the distro ships.
        module_struct_size: bytes of `struct module` in them.
    """

    index_version: int
    identity: KernelIdentity
    package: str
    compiler: str
    make_variables: tuple[str, ...]
    inputs: dict[str, str]
    vermagic: str
    module_struct_size: int


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """What others need to know of a kernel build; a versioned document that the server imports.

    Attributes:
        sources: source file -> the objects that hold it: `vmlinux` or module names. A file that is absent was not compiled.
        modules: every module that the distro ships.
        config: option -> value.
    """

    kernel: KernelIdentity
    sources: dict[str, tuple[str, ...]]
    modules: tuple[ModuleRecordOfKernel, ...]
    config: dict[str, str]
    format: str = "kmend-kernel-facts/1"


@dataclass(frozen=True, slots=True)
class IndexedRecord:
    """What was indexed without a tree, kept as `indexed.json`; see `PreparedRecord`."""

    index_version: int
    identity: KernelIdentity
    package: str
    inputs: dict[str, str]


class KernelIndex:
    """What the binaries of a kernel build say of it; its parts are read when they are first asked for.

    `package` is the package version.
    """

    def __init__(self, folder: Path, identity: KernelIdentity, package: str) -> None:
        self.folder = folder
        self.identity = identity
        self.package = package

    @cached_property
    def vmlinux(self) -> Vmlinux:
        """The shipped vmlinux."""
        return Vmlinux(self.folder / "index")

    @cached_property
    def kallsyms(self) -> Kallsyms:
        """Its symbols in the kernel's order."""
        return Kallsyms.from_system_map(self.folder / "index" / "System.map")

    @cached_property
    def units(self) -> dict[str, tuple[str, ...]]:
        """Source file -> objects that hold it."""
        found: dict[str, tuple[str, ...]] = {}
        for name, objects in self._unit_names.items():
            source = source_of(name)
            found[source] = tuple(dict.fromkeys((*found.get(source, ()), *objects)))
        return found

    @cached_property
    def _unit_names(self) -> dict[str, list[str]]:
        loaded: dict[str, list[str]] = json.loads((self.folder / "index" / "units.json").read_text())
        return loaded

    @cached_property
    def built_as(self) -> dict[str, str]:
        """Source file -> the path by which kbuild compiled it, where that is another (`arch/x86/kvm/../../../virt/kvm/x.c`)."""
        return {source: name for name in self._unit_names if (source := source_of(name)) != name}

    @cached_property
    def modules(self) -> tuple[ModuleRecordOfKernel, ...]:
        """The modules that the distro ships."""
        loaded = json.loads((self.folder / "index" / "modules.json").read_text())
        return tuple(document.from_plain(ModuleRecordOfKernel, entry) for entry in loaded)


class Kernel(KernelIndex):
    """A prepared kernel build: its index, and a tree that compiles its sources as the distro did."""

    def __init__(self, folder: Path) -> None:
        self.record = document.decode(PreparedRecord, (folder / "prepared.json").read_bytes())
        super().__init__(folder, self.record.identity, self.record.package)

    @cached_property
    def tree(self) -> SourceTree:
        """The configured source tree."""
        return SourceTree(self.folder / "tree", self.record.make_variables, self.record.compiler)

    @cached_property
    def exports(self) -> Exports:
        """What modules may link against."""
        return Exports.from_symvers(self.folder / "tree" / "Module.symvers")

    @cached_property
    def config(self) -> dict[str, str]:
        """The distro's configuration."""
        return read_config((self.folder / "tree" / ".config").read_text())

    def facts(self) -> KernelFacts:
        """The facts document."""
        return KernelFacts(self.identity, dict(sorted(self.units.items())), self.modules, self.config)

    @cached_property
    def included_in(self) -> dict[str, tuple[str, ...]]:
        """Source file -> the files that `#include` it although it is a `.c` file (`kernel/sched/build_utility.c` and others)."""
        kept = self.folder / "included.json"
        if not kept.exists():
            write_durably(kept, json.dumps(included_sources(self.folder / "tree")).encode())
        loaded: dict[str, list[str]] = json.loads(kept.read_text())
        return {source: tuple(files) for source, files in loaded.items()}

    @property
    def originals(self) -> Path:
        """Where compiled originals are kept."""
        return self.folder / "originals"


def resolve(ref: KernelRef) -> KernelRef:
    """`ref` with its package version filled in.

    Raises:
        KernelError: no version was named and not exactly one is offered.
    """
    if ref.package is not None:
        return ref
    versions = available_versions(kernel_packages(ref).image)
    prepared = [kernel.record.package for kernel in prepared_kernels() if kernel.identity.release == ref.release]
    candidates = sorted({*versions, *prepared})
    if len(candidates) != 1:
        found = (
            f"{len(candidates)} versions are offered: {', '.join(candidates)}"
            if candidates
            else "the archive offers none"
        )
        raise KernelError(f"{ref} is not unique: {found}", hint="name the version: distro:release@package-version")
    return KernelRef(ref.distro, ref.release, candidates[0])


def kernel_folder(ref: KernelRef) -> Path:
    """Where a prepared kernel is kept."""
    return cache_root() / "kernels" / f"{ref.distro}-{ref.release}@{ref.package}"


def prepared_kernels() -> tuple[Kernel, ...]:
    """Every kernel that is prepared in this cache."""
    folder = cache_root() / "kernels"
    found = []
    for path in sorted(folder.glob("*/prepared.json")):
        kernel = _opened(path.parent)
        if kernel is not None:
            found.append(kernel)
    return tuple(found)


def _opened(folder: Path) -> Kernel | None:
    try:
        kernel = Kernel(folder)
    except (OSError, KmendError):
        return None
    return kernel if kernel.record.index_version == INDEX_VERSION else None


def prepare(ref: KernelRef) -> Kernel:
    """The kernel that `ref` names, prepared now unless it already is.

    Raises:
        PackageGoneError: the archive no longer offers a package that is needed.
        EnvironmentDiffersError: this machine cannot compile that kernel as its distro did.
        KmendError: packages that contradict each other, a full disk.
    """
    ref = resolve(ref)
    folder = kernel_folder(ref)
    kernel = _opened(folder)
    if kernel is not None:
        return kernel
    with locked(folder.parent / f".{folder.name}.lock"):
        kernel = _opened(folder)
        if kernel is None:
            _prepare(ref, folder)
            kernel = Kernel(folder)
    return kernel


def prepare_index(ref: KernelRef) -> KernelIndex:
    """The index of the kernel that `ref` names, without a source tree: enough to compare code with, and twenty times smaller.

    Raises:
        PackageGoneError: the archive no longer offers a package that is needed.
        KmendError: packages that contradict each other, a full disk.
    """
    ref = resolve(ref)
    kernel = _opened(kernel_folder(ref))
    if kernel is not None:
        return kernel
    folder = kernel_folder(ref).with_name(f"{kernel_folder(ref).name}.index")
    index = _opened_index(folder)
    if index is not None:
        return index
    with locked(folder.parent / f".{folder.name}.lock"):
        index = _opened_index(folder)
        if index is None:
            _prepare_index(ref, folder)
            index = _opened_index(folder)
    if index is None:
        raise KernelError(f"the index of {ref} cannot be read back", hint="prune the prepared kernels and try again")
    return index


def _opened_index(folder: Path) -> KernelIndex | None:
    try:
        record = document.decode(IndexedRecord, (folder / "indexed.json").read_bytes())
    except (OSError, KmendError):
        return None
    return KernelIndex(folder, record.identity, record.package) if record.index_version == INDEX_VERSION else None


def _prepare_index(ref: KernelRef, folder: Path) -> None:
    version = ref.package or ""
    names = kernel_packages(ref)
    debug, image = (fetch_package(name, version) for name in (names.debug, names.image))
    shutil.rmtree(folder, ignore_errors=True)
    with _building(folder) as temporary:
        index = temporary / "index"
        index.mkdir()
        found = make_index(debug, image, ref, index)
        record = IndexedRecord(
            index_version=INDEX_VERSION,
            identity=KernelIdentity(found.build_id, ref.release, found.uname_version, str(ref)),
            package=version,
            inputs={package.path.name: package.sha256 for package in (debug, image)},
        )
        write_durably(temporary / "indexed.json", document.encode(record))


def _prepare(ref: KernelRef, folder: Path) -> None:
    version = ref.package or ""
    names = kernel_packages(ref)
    packages = {name: fetch_package(name, version) for name in names.names}
    shutil.rmtree(folder, ignore_errors=True)
    with _building(folder) as temporary:
        tree, index, headers = (temporary / name for name in ("tree", "index", "headers"))
        for path in (tree, index, headers):
            path.mkdir()
        with ThreadPoolExecutor(1) as pool:
            # The debug package is read while the compiler's tools are built: two cores, two jobs.
            indexed = pool.submit(make_index, packages[names.debug], packages[names.image], ref, index)
            unpack(packages[names.headers], headers, lambda name: True)
            flavour = headers / "usr/src" / names.headers
            config = read_config((flavour / ".config").read_text())
            check_toolchain(config)
            unpack_sources(version, tree, not_needed(config))
            prepared = prepare_tree(tree, flavour, ref.release, version)
            found = indexed.result()
        shutil.rmtree(headers)
        record = PreparedRecord(
            index_version=INDEX_VERSION,
            identity=KernelIdentity(found.build_id, ref.release, found.uname_version, str(ref)),
            package=version,
            compiler=prepared.compiler,
            make_variables=prepared.make_variables,
            inputs={package.path.name: package.sha256 for package in packages.values()},
            vermagic=found.vermagic,
            module_struct_size=found.module_struct_size,
        )
        write_durably(temporary / "prepared.json", document.encode(record))


@contextmanager
def _building(folder: Path) -> Iterator[Path]:
    """A folder that appears under its name only when all of it is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".preparing-", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except OSError as problem:
        raise SystemProblemError(
            f"cannot prepare a kernel in {folder.parent}: {problem.strerror}",
            hint="a prepared kernel takes about 1.5 GB; 'kmend-factory kernel prune' frees space",
        ) from problem
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def prune(keep: KernelRef | None = None) -> int:
    """Remove prepared kernels, all but `keep`, and what broken preparations left; returns the bytes freed."""
    kept = kernel_folder(resolve(keep)) if keep else None
    freed = 0
    folder = cache_root() / "kernels"
    for path in folder.glob("*") if folder.exists() else ():
        if path.is_dir() and path != kept:
            freed += sum(
                entry.stat().st_blocks * 512 for entry in path.rglob("*") if entry.is_file() and not entry.is_symlink()
            )
            shutil.rmtree(path, ignore_errors=True)
    return freed
