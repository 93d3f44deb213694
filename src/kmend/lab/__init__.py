"""The lab boots real kernels in virtual machines: copies files in, runs commands, and tells what happened.

`boot` starts a kernel package in one of two shapes and returns a `Vm`; everything that can go wrong is a `LabError`. A guest
that panics raises `PanicError` wherever the host was waiting for it. docs/lab.md shows how it is used.
"""

from kmend.lab.channel import Command, Result
from kmend.lab.complaints import complaints
from kmend.lab.definition import Definition, Network
from kmend.lab.errors import (
    BootTimeoutError,
    CommandFailedError,
    CopyError,
    FirmwareError,
    GuestError,
    GuestLostError,
    KernelPackageError,
    LabError,
    PanicError,
    PowerOffError,
    QemuError,
    TimeLimitError,
    UserlandError,
)
from kmend.lab.firmware import SecureBoot
from kmend.lab.initramfs import Shape
from kmend.lab.kernelpackage import UnpackedKernel, unpack
from kmend.lab.modules import modules_to_load
from kmend.lab.qemu import HOST_ADDRESS
from kmend.lab.vm import Vm, boot

__all__ = [
    "HOST_ADDRESS",
    "BootTimeoutError",
    "Command",
    "CommandFailedError",
    "CopyError",
    "Definition",
    "FirmwareError",
    "GuestError",
    "GuestLostError",
    "KernelPackageError",
    "LabError",
    "Network",
    "PanicError",
    "PowerOffError",
    "QemuError",
    "Result",
    "SecureBoot",
    "Shape",
    "TimeLimitError",
    "UnpackedKernel",
    "UserlandError",
    "Vm",
    "boot",
    "complaints",
    "modules_to_load",
    "unpack",
]
