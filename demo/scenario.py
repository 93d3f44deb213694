"""Which kernel and which fixes the demonstration plays with: the first of a preference list that the archive still offers."""

from __future__ import annotations

from dataclasses import dataclass

from kmend.core.kernel import KernelRef
from kmend.factory.kernels.packages import PackageGoneError, available_versions, choose_kernel

KERNELS = ("debian:6.1.0-50-cloud-amd64@6.1.176-1", "debian:6.1.0-47-cloud-amd64@6.1.170-3")
"""Kernels that have both holes."""
FIXED_IN = ("6.1.187-1", "6.1.190-1", "6.1.192-1", "6.1.192-2")
"""Source packages in which both are mended."""


@dataclass(frozen=True, slots=True)
class DemoFix:
    """A fix to derive, and the probe in the guest that shows its effect.

    Attributes:
        file, function, cve: what `kmend-factory derive` is asked for.
        probe: the program; user: who runs it.
        hole: what it prints of the hole -> (before, after); kept: what must not change.
    """

    file: str
    function: str
    cve: str
    probe: str
    user: str
    hole: dict[str, tuple[str, str]]
    kept: dict[str, str]


FIXES = (
    DemoFix(
        file="net/unix/af_unix.c",
        function="unix_ioctl",
        cve="CVE-2026-52928",
        probe="siocatmark.py",
        user="nobody",
        hole={"datagram": ("answered", "EOPNOTSUPP"), "seqpacket": ("answered", "EOPNOTSUPP")},
        kept={"stream": "answered"},
    ),
    DemoFix(
        file="net/core/sock_map.c",
        function="sock_map_sk_state_allowed",
        cve="CVE-2026-68386",
        probe="sockmap.py",
        user="root",
        hole={"unbound": ("accepted", "EOPNOTSUPP")},
        kept={"bound": "accepted"},
    ),
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """The kernel to mend and the source package that the fixes are cut from."""

    kernel: KernelRef
    fixed_in: str


def choose() -> Scenario:
    """What the archive offers of the preferences.

    Raises:
        PackageGoneError: none of them; the error says which versions there are.
    """
    kernel = choose_kernel(KERNELS)
    offered = available_versions("linux-source-6.1")
    for version in FIXED_IN:
        if version in offered:
            return Scenario(kernel, version)
    raise PackageGoneError(
        "linux-source-6.1", FIXED_IN[0], offered, hint="configure an archive of old package versions as an apt source"
    )
