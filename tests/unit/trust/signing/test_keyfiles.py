from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from tests.unit.trust.conftest import NOW, no_passphrase

from kmend.core.errors import MalformedError
from kmend.trust.signing import keyfiles, modules
from kmend.trust.signing.keyfiles import KeyFolder, KeyPlan
from kmend.trust.signingerrors import KeyFileError

PASS = b"correct horse battery staple"


def test_private_keys_are_for_their_owner_only(keys: Path) -> None:
    files = [path for path in keys.rglob("*.pem") if path.is_file()]
    assert len(files) == 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((keys / "offline").stat().st_mode) == 0o700


def test_keys_are_never_overwritten(keys: Path) -> None:
    with pytest.raises(KeyFileError, match="already holds keys"):
        keyfiles.create(keys, KeyPlan(), now=NOW)


def test_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keyfiles.create(tmp_path, KeyPlan(module_key_bits=2048), now=NOW)
    (tmp_path / "online/timestamp.pem").chmod(0o644)
    with pytest.raises(KeyFileError, match="read by others"):
        KeyFolder(tmp_path, no_passphrase).signers("timestamp", [], 0)


def test_offline_keys_can_be_encrypted(tmp_path: Path) -> None:
    keyfiles.create(tmp_path, KeyPlan(module_key_bits=2048), now=NOW, passphrase=PASS)
    asked = []

    def ask(path: Path) -> bytes:
        asked.append(path.name)
        return PASS

    folder = KeyFolder(tmp_path, ask)
    folder.signers("targets", [], 0)
    folder.signers("snapshot", [], 0)
    folder.signers("targets", [], 0)
    assert asked == ["targets-1.pem"]
    assert b"ENCRYPTED" in (tmp_path / "offline/root-1.pem").read_bytes()
    with pytest.raises(KeyFileError, match="passphrase is wrong"):
        KeyFolder(tmp_path, lambda path: b"wrong").signers("root", [], 0)


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_damaged_key_file(tmp_path: Path, content: bytes) -> None:
    keyfiles.create(tmp_path, KeyPlan(module_key_bits=2048), now=NOW)
    (tmp_path / "online/timestamp.pem").write_bytes(content)
    with pytest.raises(KeyFileError, match="cannot open"):
        KeyFolder(tmp_path, no_passphrase).signers("timestamp", [], 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"root_threshold": 2},
        {"targets_threshold": 0},
        {"bin_bits": 0},
        {"bin_bits": 33},
        {"common_name": ""},
        {"root_keys": 99, "root_threshold": 99},
    ],
)
def test_plan_is_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(MalformedError):
        KeyPlan(**wrong)  # type: ignore[arg-type]


def test_module_certificate_must_be_the_keys(keys: Path, tmp_path: Path) -> None:
    _, other = modules.make_key("other", bits=2048, now=NOW)
    from cryptography.hazmat.primitives.serialization import Encoding

    (tmp_path / "other.x509").write_bytes(other.public_bytes(Encoding.PEM))
    with pytest.raises(KeyFileError, match="is not the certificate of"):
        keyfiles.load_module_key(keys / "module/module.pem", tmp_path / "other.x509", no_passphrase)


def test_signature_is_what_sign_file_makes(keys: Path, tmp_path: Path) -> None:
    """OpenSSL, which the kernel's own tool uses, accepts it; it carries neither certificates nor attributes."""
    key = keyfiles.load_module_key(keys / "module/module.pem", keys / "module/module.x509", no_passphrase)
    module = bytes(range(256)) * 64
    message = modules.sign_detached(module, key.key, key.certificate)
    (tmp_path / "module").write_bytes(module)
    (tmp_path / "message").write_bytes(message)
    pem = subprocess.run(
        ["openssl", "x509", "-inform", "DER", "-in", keys / "module/module.x509"], check=True, capture_output=True
    ).stdout
    (tmp_path / "certificate").write_bytes(pem)
    verify = ["openssl", "cms", "-verify", "-inform", "DER", "-in", "message", "-content", "module", "-binary"]
    verify += ["-noverify", "-nointern", "-certfile", "certificate", "-out", "/dev/null"]
    subprocess.run(verify, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "module").write_bytes(module + b"\0")
    assert subprocess.run(verify, cwd=tmp_path, capture_output=True).returncode != 0
    shown = subprocess.run(
        ["openssl", "cms", "-cmsout", "-print", "-inform", "DER", "-in", "message"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    squeezed = " ".join(shown.split())
    for part in ("eContent: <ABSENT>", "certificates: <ABSENT>", " signedAttrs: <ABSENT>"):
        assert part in squeezed
    assert "algorithm: sha256" in squeezed
    assert "algorithm: rsaEncryption" in squeezed


def test_certificate_is_for_code_signing(keys: Path) -> None:
    shown = subprocess.run(
        ["openssl", "x509", "-inform", "DER", "-in", keys / "module/module.x509", "-noout", "-text"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "Code Signing" in shown
    assert "Digital Signature" in shown
    assert "CA:FALSE" in shown
