"""The flash of a machine under Secure Boot: what is put into it, and what is said when it cannot be made."""

from __future__ import annotations

import datetime
import importlib.util
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from tests.unit.lab.test_authenticode import image

from kmend import lab
from kmend.core.errors import SystemProblemError
from kmend.core.process import run
from kmend.lab import firmware
from kmend.lab.authenticode import image_digest
from kmend.lab.firmware import SecureBoot, flash
from kmend.trust.signing import modules

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


@pytest.fixture(scope="module")
def certificates() -> tuple[bytes, bytes]:
    made = [modules.make_key(name, bits=2048, now=NOW)[1] for name in ("first", "second")]
    return (
        made[0].public_bytes(serialization.Encoding.DER),
        made[1].public_bytes(serialization.Encoding.PEM),
    )


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.write_bytes(image(b"k" * 512))
    return path


def dump(variables: Path) -> str:
    return run(
        [sys.executable, "-m", "virt.firmware.vars", "--input", variables, "--print", "--verbose", "--hashes"]
    ).text


def test_variables(tmp_path: Path, kernel: Path, certificates: tuple[bytes, bytes]) -> None:
    made = flash(SecureBoot(certificates), kernel, tmp_path)
    assert made.variables.parent == tmp_path
    told = dump(made.variables)
    by_name = {part.split()[0]: part for part in told.split("name=") if part.split()}
    assert "CN=first" in by_name["PK"]
    assert "CN=first" in by_name["KEK"]
    assert "CN=second" not in by_name["PK"]
    assert "CN=first" in by_name["db"]
    assert "CN=second" in by_name["db"]
    assert image_digest(kernel.read_bytes()) in by_name["db"]
    assert not list(tmp_path.glob("*.making"))


def test_they_belong_to_the_machine(tmp_path: Path, kernel: Path, certificates: tuple[bytes, bytes]) -> None:
    """What a guest has written into them is there at its next boot."""
    made = flash(SecureBoot(certificates), kernel, tmp_path)
    made.variables.write_bytes(b"written by the guest")
    assert flash(SecureBoot(certificates), kernel, tmp_path).variables.read_bytes() == b"written by the guest"


def test_a_file_that_is_no_certificate(tmp_path: Path, kernel: Path) -> None:
    with pytest.raises(lab.FirmwareError, match="cannot make") as caught:
        flash(SecureBoot((b"nonsense",)), kernel, tmp_path)
    assert "X.509" in caught.value.hint


def test_a_kernel_that_is_no_program_of_uefi(tmp_path: Path, certificates: tuple[bytes, bytes]) -> None:
    (tmp_path / "vmlinuz").write_bytes(b"\x7fELF" + bytes(1000))
    with pytest.raises(lab.KernelPackageError, match="not a PE image"):
        flash(SecureBoot(certificates), tmp_path / "vmlinuz", tmp_path)
    with pytest.raises(lab.KernelPackageError, match="cannot read"):
        flash(SecureBoot(certificates), tmp_path / "nothing", tmp_path)


@pytest.mark.parametrize("amount", [0, 17])
def test_how_many_certificates(amount: int) -> None:
    with pytest.raises(lab.LabError, match="1 to 16 certificates"):
        SecureBoot((b"c",) * amount)


@pytest.mark.parametrize("content", [b"", bytes(64 * 1024 + 1)])
def test_how_large_a_certificate(content: bytes) -> None:
    with pytest.raises(lab.LabError, match="bytes"):
        SecureBoot((content,))


def test_certificates_from_files(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"content")
    assert SecureBoot.from_files([tmp_path / "c"]).certificates == (b"content",)
    with pytest.raises(SystemProblemError, match="cannot read"):
        SecureBoot.from_files([tmp_path / "nothing"])


def test_ovmf_is_missing(
    tmp_path: Path, kernel: Path, certificates: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firmware, "_CODE", tmp_path / "nothing")
    with pytest.raises(lab.FirmwareError) as caught:
        flash(SecureBoot(certificates), kernel, tmp_path)
    assert "ovmf" in caught.value.hint


def test_virt_firmware_is_missing(
    tmp_path: Path, kernel: Path, certificates: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(lab.FirmwareError, match="virt-firmware is not installed"):
        flash(SecureBoot(certificates), kernel, tmp_path)
