"""UEFI firmware with Secure Boot on: what it trusts, and the flash chips that hold it (docs/decisions/0010-secure-boot.md).

The firmware is Debian's OVMF. Its variables are made anew for each machine: the given certificates in db, the first of them in
PK and KEK too, so that Secure Boot is on; and the digest of the very kernel image that is to be booted, so that the firmware
accepts it as it comes out of its package, whoever signed it or not. The kernel then locks itself down, and loads modules that
are signed with its own build's key, which the package's modules are, or with a key whose certificate is in db.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kmend.core.durable import read_bounded
from kmend.core.errors import MalformedError
from kmend.core.process import ProgramFailedError, run
from kmend.lab.authenticode import image_digest
from kmend.lab.errors import FirmwareError, KernelPackageError, LabError
from kmend.lab.qemu import Flash

MAX_CERTIFICATES = 16
MAX_CERTIFICATE_BYTES = 64 * 1024
_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
"""The build that can do Secure Boot without SMM, which is slow to emulate; no guest here attacks its own firmware."""
_BLANK = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
_OWNER = "7d7c4d5e-5f1c-4a52-9d0b-6b6d656e6401"
"""The owner that the variables name with each entry: a GUID of the lab's own, without any meaning to firmware."""


@dataclass(frozen=True, slots=True)
class SecureBoot:
    """Boot by UEFI firmware with Secure Boot on; the kernel comes up locked down.

    Attributes:
        certificates: X.509, DER or PEM, whose keys the machine trusts for programs and for kernel modules.
    """

    certificates: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.certificates) <= MAX_CERTIFICATES:
            raise LabError(f"Secure Boot needs 1 to {MAX_CERTIFICATES} certificates, not {len(self.certificates)}")
        if not all(0 < len(content) <= MAX_CERTIFICATE_BYTES for content in self.certificates):
            raise LabError(f"a certificate has 1 to {MAX_CERTIFICATE_BYTES} bytes")

    @classmethod
    def from_files(cls, paths: Sequence[Path]) -> SecureBoot:
        """With the certificates in these files.

        Raises:
            SystemProblemError: one cannot be read, or is too large to be a certificate.
        """
        return cls(tuple(read_bounded(path, max_bytes=MAX_CERTIFICATE_BYTES) for path in paths))


def flash(wanted: SecureBoot, image: Path, folder: Path) -> Flash:
    """The flash chips of a machine; the variables in `folder` are made once and then belong to the machine.

    Args:
        image: the kernel image that it boots.

    Raises:
        FirmwareError: OVMF or virt-firmware is not installed, or a certificate cannot be read.
        KernelPackageError: UEFI firmware cannot start that image.
    """
    for path in (_CODE, _BLANK):
        if not path.is_file():
            raise FirmwareError(f"{path} does not exist", hint="install the package ovmf")
    variables = folder / "variables.fd"
    if not variables.exists():
        _make_variables(wanted, _kernel_digest(image), variables)
    return Flash(_CODE, variables)


def _kernel_digest(image: Path) -> str:
    try:
        return image_digest(image.read_bytes())
    except OSError as problem:
        raise KernelPackageError(f"cannot read {image}: {problem.strerror}") from problem
    except MalformedError as problem:
        raise KernelPackageError(f"{image} cannot be booted by UEFI firmware: {problem.message}") from problem


def _make_variables(wanted: SecureBoot, kernel: str, target: Path) -> None:
    if importlib.util.find_spec("virt") is None:
        raise FirmwareError("virt-firmware is not installed", hint="pip install 'kmend[lab]', or run 'make setup'")
    files = []
    making = target.with_suffix(".making")
    try:
        for number, content in enumerate(wanted.certificates, start=1):
            files.append(target.with_name(f"certificate-{number}"))
            files[-1].write_bytes(content)
        words: list[str | Path] = ["--set-pk", _OWNER, files[0], "--add-kek", _OWNER, files[0]]
        for path in files:
            words += ["--add-db", _OWNER, path]
        words += ["--add-db-hash", _OWNER, kernel, "--sb"]
        program = [sys.executable, "-m", "virt.firmware.vars"]
        run([*program, "--input", _BLANK, "--output", making, *words], timeout=60)
        making.replace(target)
    except ProgramFailedError as problem:
        raise FirmwareError(
            f"cannot make the firmware's variables: {problem.message}",
            hint="certificates have to be X.509, in DER or PEM",
        ) from problem
    except OSError as problem:
        raise FirmwareError(f"cannot write {target}: {problem.strerror}") from problem
