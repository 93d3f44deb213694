"""A cache of a benchmark's own: empty but for the packages, which are hard links to those of the machine's cache."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kmend.core.cache import cache_root
from kmend.core.kernel import KernelRef
from kmend.core.scratch import scratch_folder
from kmend.factory.kernels.packages import Package, fetch_package, kernel_packages


def packages_of(refs: Sequence[KernelRef]) -> list[Package]:
    """Every package of these kernels, downloaded now unless it was before."""
    return [fetch_package(name, ref.package or "") for ref in refs for name in kernel_packages(ref).names]


@contextmanager
def cold_cache(packages: Sequence[Package]) -> Iterator[Path]:
    """A cache that holds these packages and nothing else; it is removed afterwards."""
    with scratch_folder("bench", cache_root()) as root:
        folder = root / "packages"
        folder.mkdir()
        for package in packages:
            for path in (package.path, package.path.with_name(f"{package.path.name}.verified")):
                if not (folder / path.name).exists():
                    os.link(path, folder / path.name)
        yield root


def disk_use(folder: Path) -> int:
    """Bytes that a folder takes on disk."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if not path.is_dir())
