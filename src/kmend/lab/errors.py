"""What can go wrong in the lab, by cause. Every error about a guest carries the end of its serial log."""

from __future__ import annotations

from kmend.core.errors import KmendError


class LabError(KmendError):
    """The base of the lab's errors."""

    kind = "lab"


class KernelPackageError(LabError):
    """The kernel package cannot be unpacked, or lacks what is needed to boot it."""

    kind = "lab-kernel-package"


class UserlandError(LabError):
    """The Debian userland of full guests, or another file that guests are made of, could not be made."""

    kind = "lab-userland"


class FirmwareError(LabError):
    """The UEFI firmware, or what prepares its variables, is missing or failed."""

    kind = "lab-firmware"


class QemuError(LabError):
    """QEMU is missing, or ended before the guest's kernel could start."""

    kind = "lab-qemu"


class PortTakenError(QemuError):
    """Another program took a port between its choice and QEMU's start."""

    kind = "lab-port-taken"


class GuestError(LabError):
    """Something about a running guest.

    Attributes:
        serial_tail: the last lines of its serial console.
    """

    kind = "lab-guest"

    def __init__(self, message: str, *, hint: str = "", serial_tail: str = "") -> None:
        super().__init__(
            f"{message}\nend of the serial log:\n{serial_tail}" if serial_tail.strip() else message, hint=hint
        )
        self.serial_tail = serial_tail


class BootTimeoutError(GuestError):
    """The guest did not come up in time."""

    kind = "lab-boot-timeout"


class PanicError(GuestError):
    """The guest's kernel panicked.

    Attributes:
        reason: what follows `Kernel panic - not syncing:` on its console.
    """

    kind = "lab-panic"

    def __init__(self, reason: str, *, serial_tail: str = "") -> None:
        super().__init__(f"the guest's kernel panicked: {reason}", serial_tail=serial_tail)
        self.reason = reason


class GuestLostError(GuestError):
    """The guest ended, or its runner no longer answers, and no panic was seen."""

    kind = "lab-guest-lost"


class PowerOffError(GuestError):
    """The guest did not power off in time."""

    kind = "lab-power-off"


class TimeLimitError(GuestError):
    """A command in the guest ran out of time and was killed.

    Attributes:
        stdout, stderr: what it had written until then.
    """

    kind = "lab-time-limit"

    def __init__(self, message: str, *, stdout: bytes, stderr: bytes, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.stdout = stdout
        self.stderr = stderr


class CommandFailedError(GuestError):
    """A command in the guest could not be started, ended with a status other than 0, or wrote too much.

    Attributes:
        status: its exit status; 127 if it could not be started, 128 + n if signal n ended it.
    """

    kind = "lab-command-failed"

    def __init__(self, message: str, *, status: int, stdout: bytes = b"", stderr: bytes = b"", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.stdout = stdout
        self.stderr = stderr


class CopyError(LabError):
    """A file could not be copied into or out of a guest."""

    kind = "lab-copy"
