"""What must be to be had before a kernel is prepared: the packages it was published in, all of them in its version."""

from __future__ import annotations

from collections.abc import Sequence

from kmend.core.kernel import KernelRef
from kmend.factory.kernels.packages import (
    KernelPackages,
    PackageProblemError,
    available_versions,
    kernel_packages,
    missing_packages,
)
from kmend.factory.kernels.tree import EnvironmentDiffersError


def known_packages(ref: KernelRef) -> KernelPackages:
    """The names of the kernel's packages.

    Raises:
        EnvironmentDiffersError: it is a kernel of another distro, or of a form that is not known.
    """
    try:
        return kernel_packages(ref)
    except PackageProblemError as problem:
        raise EnvironmentDiffersError(
            f"{problem.message}: its image, debug symbols (a vmlinux linked with --emit-relocs), headers and source are needed",
            hint=problem.hint,
        ) from problem


def require_packages(ref: KernelRef, names: Sequence[str]) -> None:
    """Make sure that the packages are in the cache or offered, before anything is downloaded.

    Raises:
        EnvironmentDiffersError: some are not; it names every one.
        PackageProblemError: the package client is missing or failed.
    """
    missing = missing_packages(names, ref.package or "")
    if missing:
        offered = available_versions(missing[0])
        raise EnvironmentDiffersError(
            f"{ref} cannot be prepared: the archive offers no {', '.join(missing)} in version {ref.package}",
            hint=(f"it offers {missing[0]} in version {', '.join(offered)}; " if offered else "")
            + "run 'apt-get update', or configure an archive of old versions",
        )
