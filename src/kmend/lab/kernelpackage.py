"""A kernel package (`linux-image-*-unsigned`, a .deb file) unpacked into the cache, ready to boot.

`modules.dep` and its kin are not in the package (a host makes them when it installs one), so depmod makes them here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from kmend.core.cache import cache_root, locked
from kmend.core.process import ProgramFailedError, run
from kmend.core.scratch import scratch_folder
from kmend.lab.errors import KernelPackageError
from kmend.lab.programs import program

_LAYOUT = "1"
"""Changes whenever what is kept in the cache changes."""


@dataclass(frozen=True, slots=True)
class UnpackedKernel:
    """A kernel package in the cache.

    Attributes:
        folder: where it was unpacked; `boot/` and `lib/modules/` are in it.
        release: its `uname -r`.
        digest: SHA-256 of the package file.
    """

    folder: Path
    release: str
    digest: str

    @property
    def image(self) -> Path:
        """The bzImage that QEMU boots."""
        return self.folder / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        """`/lib/modules/<release>`, with depmod's files."""
        return self.folder / "lib" / "modules" / self.release


def unpack(package: Path) -> UnpackedKernel:
    """Unpack a kernel package, once; later calls find it in the cache.

    Raises:
        KernelPackageError: not a kernel package, broken, or the disk is full.
    """
    try:
        with package.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as problem:
        raise KernelPackageError(f"cannot read the kernel package {package}: {problem.strerror}") from problem
    folder = cache_root() / "lab" / "kernels" / f"{digest[:24]}-{_LAYOUT}"
    if not folder.is_dir():
        with locked(folder.with_suffix(".lock")):
            if not folder.is_dir():
                _unpack_into(package, folder)
    return UnpackedKernel(folder, _release(folder, package), digest)


def _unpack_into(package: Path, folder: Path) -> None:
    try:
        with scratch_folder("unpack", folder.parent) as temporary:
            temporary.chmod(0o755)
            run([program("dpkg-deb"), "--extract", package, temporary], timeout=300)
            if (temporary / "usr/lib/modules").is_dir() and not (temporary / "lib").exists():
                (temporary / "lib").symlink_to("usr/lib")
            release = _release(temporary, package)
            run([program("depmod"), "--basedir", temporary, release], timeout=120)
            temporary.replace(folder)
    except ProgramFailedError as problem:
        raise KernelPackageError(
            f"cannot unpack the kernel package {package}: {problem.message}",
            hint="if the disk is not full, the file is broken: delete it and fetch it again",
        ) from problem
    except OSError as problem:
        raise KernelPackageError(
            f"cannot unpack the kernel package {package}: {problem.strerror}", hint="free some disk space"
        ) from problem


def _release(folder: Path, package: Path) -> str:
    images = sorted(folder.glob("boot/vmlinuz-*"))
    if len(images) != 1:
        raise KernelPackageError(
            f"{package} holds {len(images) or 'no'} kernel images (boot/vmlinuz-*)",
            hint="give a linux-image-<release>-unsigned package, not a -dbg or meta package",
        )
    release = images[0].name.removeprefix("vmlinuz-")
    if not (folder / "lib" / "modules" / release / "kernel").is_dir():
        raise KernelPackageError(f"{package} holds no modules for {release}")
    return release
