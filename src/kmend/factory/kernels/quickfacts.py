"""Kernel facts without preparing the kernel: from its image package and its source's Makefiles, within half a minute.

What the build was told to compile stands in for what the compiler says that it has compiled. The two were found to agree (see
`tests/build/test_quick_facts.py`); where it cannot be told, a file is left open: it stands neither among those compiled nor
among those left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kmend.core import document
from kmend.core.cache import cache_root, locked
from kmend.core.durable import read_bounded, write_durably
from kmend.core.errors import KmendError
from kmend.core.facts import KernelFacts, KernelModule, MadeFrom
from kmend.core.kernel import KernelIdentity, KernelRef
from kmend.core.scratch import scratch_folder
from kmend.factory.kernels.bootimage import BootImage, read_boot_image
from kmend.factory.kernels.contents import Contents, contents
from kmend.factory.kernels.environment import known_packages, require_packages
from kmend.factory.kernels.included import Compiled, compiled, is_elsewhere
from kmend.factory.kernels.indexing import KernelError, module_record
from kmend.factory.kernels.makefiles import Told, evaluate
from kmend.factory.kernels.outline import Outline, outline
from kmend.factory.kernels.packages import Package, fetch_package
from kmend.factory.kernels.prepared import DamagedKernelError, prepared_kernel, resolve
from kmend.factory.kernels.tree import read_config
from kmend.factory.kernels.units import module_details

STORE = "facts"
"""The folder of the cache where facts made here are kept."""
_MADE_BY = 1
"""Raised whenever what is made here changes; older documents are then made anew."""
_MAX_BYTES = 64 * 1024 * 1024
_SUFFIXES = (".c", ".S")
"""In the order in which kbuild looks for an object's source."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Image:
    """What the image package holds."""

    boot: BootImage
    config: dict[str, str]
    modules: tuple[KernelModule, ...]


def quick_facts(ref: KernelRef) -> KernelFacts:
    """The facts of the kernel that `ref` names: those of the debug information if it is prepared, else those of kbuild.

    Downloads the image and the source package unless they are in the cache.

    Raises:
        EnvironmentDiffersError: packages are missing.
        KmendError: packages that contradict each other, a full disk.
    """
    ref = resolve(ref)
    try:
        kernel = prepared_kernel(ref)
    except DamagedKernelError as problem:
        _logger.warning("%s; it is passed over", problem.message)
        kernel = None
    if kernel is not None:
        return kernel.facts()
    folder = cache_root() / STORE
    file = folder / f"{ref.distro}-{ref.release}@{ref.package}.{_MADE_BY}.json"
    found = _kept(file)
    if found is None:
        with locked(folder / f".{ref.distro}-{ref.release}@{ref.package}.lock"):
            found = _kept(file)
            if found is None:
                found = facts_by_kbuild(ref)
                write_durably(file, document.encode(found))
    return found


def _kept(file: Path) -> KernelFacts | None:
    if not file.is_file():
        return None
    try:
        return document.decode(KernelFacts, read_bounded(file, max_bytes=_MAX_BYTES), max_bytes=_MAX_BYTES)
    except KmendError as problem:
        _logger.warning("%s cannot be read and is made anew: %s", file, problem.message)
        return None


def facts_by_kbuild(ref: KernelRef) -> KernelFacts:
    """The facts of a kernel, which `ref` names with its version, made now from its image and its source package.

    Raises:
        EnvironmentDiffersError: one of them is neither in the cache nor offered.
        KmendError: they contradict each other, or cannot be read.
    """
    version = ref.package or ""
    names = known_packages(ref)
    require_packages(ref, (names.image, names.source))
    with scratch_folder("outline") as folder, ThreadPoolExecutor(1) as pool:
        # The source is the larger one: it is decompressed while the image is fetched and read.
        reading = pool.submit(lambda: outline(fetch_package(names.source, version), folder))
        image = _read_image(fetch_package(names.image, version), ref)
        tree = reading.result()
        told = evaluate(folder, image.config)
    found = assemble(told, tree, (module.path for module in image.modules))
    identity = KernelIdentity(image.boot.build_id, ref.release, image.boot.version, str(ref))
    return KernelFacts(identity, found.sources, image.modules, image.config, found.left_out, made_from=MadeFrom.KBUILD)


def assemble(told: Told, tree: Outline, shipped: Iterable[str]) -> Compiled:
    """What was compiled, from what the Makefiles ask for and what files there are.

    Left open, beside what `kmend.factory.kernels.included` leaves open, are files
    - that a folder's own rules make something of, and those beside the source of an object, under its name (`.c` and `.S`);
    - that have the name of an object whose source is not there: it is generated, or a rule finds it elsewhere (6.1: `kernel/bpf`
      compiles `tools/lib/bpf/relo_core.c`);
    - in folders whose Makefile cannot be evaluated, and in those from which a module was shipped that it does not ask for.

    Args:
        shipped: paths of the modules in the image package.
    """
    units: dict[str, tuple[str, ...]] = {}
    lost: set[str] = set()
    for name, holders in told.objects.items():
        source = next((name + suffix for suffix in _SUFFIXES if name + suffix in tree.files), None)
        if source is None:
            lost.add(_stem(name))
        else:
            units[source] = holders
    unread = {f"{folder}/" for folder in told.unread}
    for path in (path.partition("/kernel/")[2] for path in shipped):
        if path not in told.modules:
            _logger.warning("the Makefiles do not ask for the module %s; its folder is left open", path)
            unread.add(f"{path.rpartition('/')[0]}/")

    def is_open(file: str) -> bool:
        name = file.rpartition(".")[0]
        return (
            is_elsewhere(file)
            or name in told.apart
            or name in told.objects
            or _stem(name) in lost
            or any(file.startswith(folder) for folder in unread)
        )

    return compiled(units, tree.included_in, tree.files, is_open)


def _stem(path: str) -> str:
    return path.rpartition("/")[2]


def _read_image(package: Package, ref: KernelRef) -> _Image:
    with contents(package) as inside:
        return _read(inside, package, ref)


def _read(inside: Contents, package: Package, ref: KernelRef) -> _Image:
    boot: BootImage | None = None
    config: Mapping[str, str] = {}
    modules: list[KernelModule] = []
    for member in inside.members():
        if member.path == f"boot/config-{ref.release}":
            config = read_config(inside.read(member).decode(errors="replace"))
        elif member.path == f"boot/vmlinuz-{ref.release}":
            boot = read_boot_image(inside.read(member))
        elif member.path.startswith(f"lib/modules/{ref.release}/") and member.path.endswith(".ko"):
            details = module_details(partial(inside.read, member), member.size)
            modules.append(module_record(member.path, details))
    if boot is None or not config or not modules:
        raise KernelError(
            f"{package.path.name} holds no configuration, boot image and modules of {ref.release}",
            hint="it is of another kernel",
        )
    if boot.release != ref.release or (ref.package and f" {ref.package} " not in f"{boot.version} "):
        raise KernelError(
            f"the boot image of {package.path.name} is that of {boot.release} {boot.version}",
            hint="it is of another kernel",
        )
    return _Image(boot, dict(config), tuple(modules))
