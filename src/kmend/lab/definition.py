"""What a virtual machine is made of, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from kmend.lab.errors import LabError
from kmend.lab.firmware import SecureBoot
from kmend.lab.initramfs import Shape
from kmend.lab.kernelpackage import UnpackedKernel


@dataclass(frozen=True, slots=True)
class Network:
    """A guest's network card. The guest is 10.0.2.15; its network is up before anything of the userland runs.

    Attributes:
        to_host: ports of the host's 127.0.0.1 that the guest reaches as `HOST_ADDRESS:port`; nothing else is reachable.
        to_guest: TCP ports of the guest that the host reaches; `Vm.host_port` tells where.
    """

    to_host: tuple[int, ...] = ()
    to_guest: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Definition:
    """What a virtual machine is made of.

    Attributes:
        kernel: the package to boot.
        shape: what runs in it.
        cpus: virtual processors; None takes one for a micro guest and two for a full one, which boots faster so.
        memory_mib: memory, in MiB.
        modules: kernel modules (by name) to load before anything else runs, with what they need.
        network: None for no network card.
        command_line: more words for the kernel's command line.
        packages: Debian packages that a full guest has besides the usual ones.
        accelerator: `kvm` or `tcg`; None takes KVM where it is known to work.
        firmware: UEFI firmware with Secure Boot on; None boots without firmware, and without Secure Boot.
    """

    kernel: UnpackedKernel
    shape: Shape = Shape.MICRO
    cpus: int | None = None
    memory_mib: int = 1024
    modules: tuple[str, ...] = ()
    network: Network | None = None
    command_line: str = ""
    packages: tuple[str, ...] = ()
    accelerator: str | None = None
    firmware: SecureBoot | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.processors <= 64 or not 128 <= self.memory_mib <= 1024 * 1024:
            raise LabError(f"a guest with {self.processors} processors and {self.memory_mib} MiB is not possible")
        ports = (*self.network.to_host, *self.network.to_guest) if self.network is not None else ()
        if not all(0 < port < 65536 for port in ports):
            raise LabError(f"not all of {ports} are TCP ports")

    @property
    def processors(self) -> int:
        """How many virtual processors it has."""
        return self.cpus if self.cpus is not None else 1 if self.shape is Shape.MICRO else 2
