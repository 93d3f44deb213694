"""What fuzzing starts from: the samples, and real objects and real patches, derived on the spot from a prepared kernel."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tests.fuzz.samples import samples
from tests.fuzz.targets import TARGETS

from kmend.core.errors import KmendError
from kmend.core.kernel import KernelRef
from kmend.factory.build.compile import compile_original
from kmend.factory.elf import read_object, write_object
from kmend.factory.kernels.modulefiles import module_image
from kmend.factory.kernels.packages import same_flavour
from kmend.factory.kernels.prepared import Kernel
from kmend.factory.survey.changes import changed_files, fix_of

NEWER = ("6.1.187-1", "6.1.192-2", "6.1.190-1")
"""Package versions to take patches from, in the order of preference."""
_OBJECTS, _MODULES, _PATCHES = 120, 30, 200


def write_seeds(kernel: Kernel, folder: Path) -> dict[str, int]:
    """Fill `folder/<target>` with inputs; returns how many each target has."""
    real = {
        "patch": islice(_patches(kernel), _PATCHES),
        "object": (*islice(_objects(kernel), _OBJECTS), *islice(_modules(kernel), _MODULES)),
        "image": islice(_objects(kernel), _OBJECTS // 6),
        "package": (),
        "lists": _lists(kernel),
    }
    counts = {}
    for target, own in samples().items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        inputs = [content for content in (*own, *real[target]) if len(content) <= TARGETS[target].max_bytes]
        for number, content in enumerate(inputs):
            (folder / target / f"seed-{number:04}").write_bytes(content)
        counts[target] = len(inputs)
    return counts


def _objects(kernel: Kernel) -> Iterator[bytes]:
    """Originals that were compiled before, without their debug sections, which would be most of them."""
    kept = sorted(kernel.originals.rglob("*.o"))
    random.Random(0).shuffle(kept)
    for path in kept or [kernel.originals / "fs/proc/version.o"]:
        source = str(path.relative_to(kernel.originals).with_suffix(".c"))
        content = write_object(read_object(compile_original(kernel, source).content))
        if len(content) <= TARGETS["object"].max_bytes:
            yield content


def _modules(kernel: Kernel) -> Iterator[bytes]:
    """Shipped modules."""
    names = [module.name for module in kernel.modules]
    random.Random(0).shuffle(names)
    for name in names:
        content = write_object(read_object(module_image(kernel, name)))
        if len(content) <= TARGETS["object"].max_bytes:
            yield content


def _patches(kernel: Kernel) -> Iterator[bytes]:
    """The difference of each file that the distro changed since."""
    for version in NEWER:
        try:
            same_flavour(KernelRef.parse(kernel.identity.ref), version)
            changes = changed_files(kernel, version, ())
        except KmendError:
            continue
        yield from (fix_of(change, (kernel.package, version)).content for change in changes)
        return


def _lists(kernel: Kernel) -> tuple[bytes, ...]:
    parts = (kernel.folder / "index" / "System.map", kernel.tree.path / "Module.symvers", kernel.tree.path / ".config")
    return tuple(b"".join(path.read_bytes().splitlines(keepends=True)[:100]) for path in parts)
