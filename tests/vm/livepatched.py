"""Livepatches on a guest, by what sysfs and the kernel's log say of them."""

from __future__ import annotations

import re
import time
from pathlib import Path

from kmend import lab
from kmend.core.kernel import KernelRef
from kmend.core.process import run
from kmend.factory.build import Built
from kmend.factory.kernels.packages import fetch_package, kernel_packages
from kmend.factory.kernels.prepared import Kernel

COMPLAINT = re.compile(r"WARNING|BUG|Call Trace|Oops|general protection|RIP:|invalid|unreliable|stuck|lockup|stall")
TRANSITION_SECONDS = 90


def unpacked(kernel: Kernel) -> lab.UnpackedKernel:
    """The prepared kernel's own package."""
    ref = KernelRef.parse(kernel.identity.ref)
    return lab.unpack(fetch_package(kernel_packages(ref).image, kernel.record.package).path)


def compiled(source: Path, target: Path) -> Path:
    """A program for guests, compiled so that it needs nothing of the guest."""
    run(["gcc", "-O1", "-Wall", "-Werror", "-static", "-pthread", "-o", target, source])
    return target


class Loaded:
    """A livepatch on a guest."""

    def __init__(self, vm: lab.Vm, built: Built) -> None:
        self.vm = vm
        self.name = built.manifest.module.name
        self.folder = f"/sys/kernel/livepatch/{self.name}"
        vm.put_bytes(built.module, f"/{self.name}.ko")

    def insert(self) -> None:
        """Load it and wait for the end of its transition."""
        self.vm.run(["insmod", f"/{self.name}.ko"])
        self.settle()

    def disable(self) -> None:
        """Disable it and wait until livepatch has forgotten it."""
        self.vm.sh(f"echo 0 > {self.folder}/enabled")
        self._wait(f"test ! -e {self.folder}")

    def settle(self) -> None:
        """Wait for the end of its transition."""
        self._wait(f'test "$(cat {self.folder}/transition)" = 0')

    def _wait(self, condition: str) -> None:
        deadline = time.monotonic() + TRANSITION_SECONDS
        while self.vm.sh(condition, check=False).status != 0:
            assert time.monotonic() < deadline, self.vm.kernel_log()[-3000:]
            time.sleep(0.2)

    @property
    def enabled(self) -> bool:
        """Whether it is there and on."""
        return self.vm.sh(f"cat {self.folder}/enabled 2>/dev/null", check=False).text == "1\n"

    @property
    def replaced(self) -> dict[str, set[str]]:
        """Object -> its functions that are redirected, as `name,sympos`."""
        found: dict[str, set[str]] = {}
        for path in self.vm.sh(f"ls -d {self.folder}/*/*,*/ 2>/dev/null", check=False).text.split():
            home, function = path.rstrip("/").split("/")[-2:]
            found.setdefault(home, set()).add(function)
        return found

    def remove(self) -> None:
        """Take the disabled module out; the kernel lets go of it a moment after the transition."""
        self._wait(f"rmmod {self.name}")


def complaints(log: str) -> list[str]:
    """What the kernel has complained of since the first livepatch came."""
    lines = log.partition("loading out-of-tree module")[2].splitlines()
    return [line for line in lines if COMPLAINT.search(line)]
