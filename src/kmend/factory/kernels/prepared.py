"""A kernel build, prepared: its identity, its source tree and its index, made once and kept in the cache."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import posixpath
import re
import shutil
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kmend.core import document
from kmend.core.cache import cache_root, locked
from kmend.core.durable import sync_folder, write_durably
from kmend.core.errors import KmendError, MalformedError, SystemProblemError
from kmend.core.facts import KernelFacts, KernelModule
from kmend.core.kernel import KernelIdentity, KernelRef
from kmend.core.process import ProgramFailedError
from kmend.core.scratch import abandoned_folders, is_scratch, scratch_folder
from kmend.factory.kernels.environment import known_packages, require_packages
from kmend.factory.kernels.exports import Exports
from kmend.factory.kernels.included import compiled, is_elsewhere
from kmend.factory.kernels.indexing import KernelError, make_index
from kmend.factory.kernels.kallsyms import Kallsyms
from kmend.factory.kernels.makefiles import Told, evaluate
from kmend.factory.kernels.packages import available_versions, fetch_package, unpack
from kmend.factory.kernels.sources import not_needed, unpack_sources
from kmend.factory.kernels.tree import SourceTree, check_toolchain, included_sources, prepare_tree, read_config
from kmend.factory.kernels.vmlinux import Vmlinux

INDEX_VERSION = 2
"""Raised whenever what is kept in a prepared kernel's folder changes; older ones are then made anew."""


_RECORD = "prepared.json"
_USE = "use.lock"
"""Locked, shared, by every process that works with the kernel."""
_logger = logging.getLogger(__name__)
_BUILD_FOLDER = re.compile(r"/.+/linux-[^/]+/")


def source_of(unit: str) -> str:
    """The source file, relative to the tree, of a compilation unit's name: assembly has the build folder in front."""
    return posixpath.normpath(_BUILD_FOLDER.sub("", unit, count=1) if unit.startswith("/") else unit)


class AmbiguousRefError(KernelError):
    """A kernel ref without a version, and not exactly one to choose."""

    kind = "kernel-ref"
    exit_status = 2


class DamagedKernelError(KernelError):
    """What is kept of a prepared kernel cannot be read: the disk was full, or somebody changed it."""

    kind = "kernel-damaged"

    def __init__(self, folder: Path, problem: str) -> None:
        ref = folder.name.removesuffix(".index").replace("-", ":", 1)
        super().__init__(
            f"the prepared kernel in {folder} is damaged: {problem}",
            hint=f"make it anew: kmend-factory kernel prepare {ref}",
        )


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

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Whatever is wrong with our own files is damage."""
        try:
            yield
        except OSError as problem:
            raise DamagedKernelError(self.folder, f"{what}: {problem.strerror}") from problem
        except (ValueError, TypeError, KeyError, AttributeError, EOFError, KmendError) as problem:
            raise DamagedKernelError(self.folder, f"{what}: {problem}") from problem

    def check(self) -> None:
        """Read everything that is kept, but for the sources.

        Raises:
            DamagedKernelError: something is not there or not whole.
        """
        _ = self.vmlinux, self.kallsyms, self.units, self.modules
        with self._reading("vmlinux"):
            self.vmlinux.check()

    @cached_property
    def vmlinux(self) -> Vmlinux:
        """The shipped vmlinux."""
        with self._reading("vmlinux"):
            return Vmlinux(self.folder / "index")

    @cached_property
    def kallsyms(self) -> Kallsyms:
        """Its symbols in the kernel's order."""
        with self._reading("System.map"):
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
        with self._reading("units.json"):
            loaded = json.loads((self.folder / "index" / "units.json").read_text())
            return {str(source): [str(name) for name in objects] for source, objects in loaded.items()}

    @cached_property
    def built_as(self) -> dict[str, str]:
        """Source file -> the path by which kbuild compiled it, where that is another (`arch/x86/kvm/../../../virt/kvm/x.c`)."""
        return {source: name for name in self._unit_names if (source := source_of(name)) != name}

    @cached_property
    def modules(self) -> tuple[KernelModule, ...]:
        """The modules that the distro ships."""
        with self._reading("modules.json"):
            loaded = json.loads((self.folder / "index" / "modules.json").read_text())
            return tuple(document.from_plain(KernelModule, entry) for entry in loaded)


class Kernel(KernelIndex):
    """A prepared kernel build: its index, and a tree that compiles its sources as the distro did."""

    def __init__(self, folder: Path) -> None:
        self.record = document.decode(PreparedRecord, (folder / _RECORD).read_bytes())
        super().__init__(folder, self.record.identity, self.record.package)

    @cached_property
    def tree(self) -> SourceTree:
        """The configured source tree."""
        return SourceTree(self.folder / "tree", self.record.make_variables, self.record.compiler)

    @cached_property
    def exports(self) -> Exports:
        """What modules may link against."""
        with self._reading("Module.symvers"):
            return Exports.from_symvers(self.folder / "tree" / "Module.symvers")

    @cached_property
    def config(self) -> dict[str, str]:
        """The distro's configuration."""
        with self._reading(".config"):
            return read_config((self.folder / "tree" / ".config").read_text())

    def check(self) -> None:
        """See `KernelIndex.check`."""
        super().check()
        _ = self.exports, self.config

    def hold(self) -> Kernel:
        """Keep `prune` away from it for as long as this object lives."""
        with suppress(OSError):  # a cache that may only be read is not pruned either
            descriptor = os.open(self.folder / _USE, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            weakref.finalize(self, os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return self

    def facts(self) -> KernelFacts:
        """The facts document."""
        top = self.folder / "tree"
        there = {path.relative_to(top).as_posix() for suffix in (".c", ".S") for path in top.rglob(f"*{suffix}")}
        told = self._told
        # Debug information does not know of assembly without instructions, nor of that whose line tables name another file.
        assembly = {
            f"{name}.S": holders
            for name, holders in (told.objects.items() if told else ())
            if f"{name}.S" in there and f"{name}.c" not in there
        }

        def is_open(file: str) -> bool:
            return is_elsewhere(file) or (file.endswith(".S") and (told is None or file[:-2] in told.apart))

        known = compiled({**assembly, **self.units}, self.included_in, sorted(there), is_open)
        return KernelFacts(self.identity, known.sources, self.modules, self.config, known.left_out)

    @cached_property
    def _told(self) -> Told | None:
        """What the tree's Makefiles ask for."""
        try:
            return evaluate(self.folder / "tree", self.config)
        except (MalformedError, ProgramFailedError) as problem:
            _logger.warning("assembly is left open: %s", problem.message)
            return None

    @cached_property
    def included_in(self) -> dict[str, tuple[str, ...]]:
        """Source file -> the files that `#include` it although it is a `.c` file (`kernel/sched/build_utility.c` and others)."""
        kept = self.folder / "included.json"
        if not kept.exists():
            write_durably(kept, json.dumps(included_sources(self.folder / "tree")).encode())
        with self._reading("included.json"):
            loaded = json.loads(kept.read_text())
            return {str(source): tuple(str(file) for file in files) for source, files in loaded.items()}

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
    versions = available_versions(known_packages(ref).image)
    prepared = [kernel.record.package for kernel in prepared_kernels() if kernel.identity.release == ref.release]
    candidates = sorted({*versions, *prepared})
    if len(candidates) != 1:
        found = (
            f"{len(candidates)} versions are offered: {', '.join(candidates)}"
            if candidates
            else "the archive offers none"
        )
        raise AmbiguousRefError(
            f"{ref} is not unique: {found}", hint="name the version: distro:release@package-version"
        )
    return KernelRef(ref.distro, ref.release, candidates[0])


def kernel_folder(ref: KernelRef) -> Path:
    """Where a prepared kernel is kept."""
    return cache_root() / "kernels" / f"{ref.distro}-{ref.release}@{ref.package}"


def prepared_kernels() -> tuple[Kernel, ...]:
    """Every sound kernel that is prepared in this cache."""
    return tuple(kernel for kernel in _kept_kernels() if isinstance(kernel, Kernel))


def prepared_kernel(ref: KernelRef) -> Kernel | None:
    """The kernel that `ref` names with its version, if it is prepared.

    Raises:
        DamagedKernelError: what is kept of it cannot be read.
    """
    kernel = _opened(kernel_folder(ref))
    return kernel.hold() if kernel is not None else None


def damaged_kernels() -> tuple[DamagedKernelError, ...]:
    """What is wrong with the others."""
    return tuple(kernel for kernel in _kept_kernels() if isinstance(kernel, DamagedKernelError))


def _kept_kernels() -> Iterator[Kernel | DamagedKernelError]:
    folder = cache_root() / "kernels"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and not path.name.startswith(".") and not path.name.endswith(".index"):
            try:
                kernel = _opened(path)
            except DamagedKernelError as problem:
                yield problem
            else:
                if kernel is not None:
                    yield kernel


def _opened(folder: Path) -> Kernel | None:
    """The kernel that is kept there; None if there is none, or one of another version of kmend.

    Raises:
        DamagedKernelError: it cannot be read.
    """
    if not folder.is_dir():
        return None
    try:
        loaded = json.loads((folder / _RECORD).read_bytes())
        version = loaded["index_version"]
        return Kernel(folder) if version == INDEX_VERSION else None
    except OSError as problem:
        raise DamagedKernelError(folder, f"{_RECORD}: {problem.strerror}") from problem
    except (ValueError, TypeError, KeyError, RecursionError, KmendError) as problem:
        raise DamagedKernelError(folder, f"{_RECORD}: {problem}") from problem


def prepare(ref: KernelRef, *, heal: bool = False) -> Kernel:
    """The kernel that `ref` names, prepared now unless it already is.

    Args:
        heal: look at everything that is kept of it, and make it anew if it is damaged.

    Raises:
        DamagedKernelError: what is kept of it cannot be read (without `heal`).
        EnvironmentDiffersError: packages are missing, or this machine cannot compile that kernel as its distro did.
        KmendError: packages that contradict each other, a full disk.
    """
    ref = resolve(ref)
    folder = kernel_folder(ref)
    kernel = _sound(folder, heal=heal)
    if kernel is not None:
        return kernel.hold()
    with locked(folder.parent / f".{folder.name}.lock"):
        kernel = _sound(folder, heal=heal)
        if kernel is None:
            _prepare(ref, folder)
            kernel = Kernel(folder)
        return kernel.hold()


def _sound(folder: Path, *, heal: bool) -> Kernel | None:
    """The kept kernel; with `heal`, None too if it is damaged."""
    try:
        kernel = _opened(folder)
        if heal and kernel is not None:
            kernel.check()
    except DamagedKernelError as problem:
        if not heal:
            raise
        _logger.warning("%s; it is made anew", problem.message)
        return None
    return kernel


def prepare_index(ref: KernelRef) -> KernelIndex:
    """The index of the kernel that `ref` names, without a source tree: enough to compare code with, and twenty times smaller.

    Raises:
        EnvironmentDiffersError: packages are missing.
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
    names = known_packages(ref)
    require_packages(ref, (names.debug, names.image))
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
    names = known_packages(ref)
    require_packages(ref, names.names)
    # The small package that says by what the kernel was compiled comes first: nothing else is downloaded in vain.
    packages = {names.headers: fetch_package(names.headers, version)}
    with _building(folder) as temporary:
        tree, index, headers = (temporary / name for name in ("tree", "index", "headers"))
        for path in (tree, index, headers):
            path.mkdir()
        unpack(packages[names.headers], headers, lambda name: True)
        flavour = headers / "usr/src" / names.headers
        config = read_config((flavour / ".config").read_text())
        check_toolchain(config)
        packages |= {name: fetch_package(name, version) for name in names.names}
        shutil.rmtree(folder, ignore_errors=True)
        with ThreadPoolExecutor(1) as pool:
            # The debug package is read while the compiler's tools are built: two cores, two jobs.
            indexed = pool.submit(make_index, packages[names.debug], packages[names.image], ref, index)
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
        write_durably(temporary / _RECORD, document.encode(record))


@contextmanager
def _building(folder: Path) -> Iterator[Path]:
    """A folder that appears under its name only when all of it is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with scratch_folder("preparing", folder.parent) as temporary:
            yield temporary
            temporary.chmod(0o755)
            temporary.rename(folder)
            sync_folder(folder.parent)
    except OSError as problem:
        raise SystemProblemError(
            f"cannot prepare a kernel in {folder.parent}: {problem.strerror}",
            hint="a prepared kernel takes about 1 GB; 'kmend-factory kernel prune' frees space",
        ) from problem


@dataclass(frozen=True, slots=True)
class Pruned:
    """What pruning did: bytes freed, and the folders that stayed since a process is working with them."""

    freed: int
    in_use: tuple[str, ...]


def prune(keep: KernelRef | None = None) -> Pruned:
    """Remove prepared kernels, all but `keep` and those in use, and what broken preparations left."""
    kept = kernel_folder(resolve(keep)) if keep else None
    freed, in_use = 0, []
    folder = cache_root() / "kernels"
    abandoned = abandoned_folders(folder)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.is_dir() or path == kept:
            continue
        if is_scratch(path) and path not in abandoned:
            in_use.append(path.name)
            continue
        with _unused(path) as unused:
            if not unused:
                in_use.append(path.name)
                continue
            freed += sum(
                entry.stat().st_blocks * 512 for entry in path.rglob("*") if entry.is_file() and not entry.is_symlink()
            )
            shutil.rmtree(path, ignore_errors=True)
    return Pruned(freed, tuple(in_use))


@contextmanager
def _unused(folder: Path) -> Iterator[bool]:
    """Whether nobody works with a kernel; nobody begins to while inside."""
    try:
        stream = (folder / _USE).open("rb")
    except OSError:
        yield True
        return
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
