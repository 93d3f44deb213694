"""Module signatures for the kernel: the key, its certificate, and what `scripts/sign-file -p` makes.

The message is a PKCS#7 SignedData, detached, binary, with SHA-256, without certificates and without signed attributes; the
kernel finds the key by issuer and serial number (`crypto/asymmetric_keys/pkcs7_trust.c`). The certificate has the extensions
of the kernel's own `certs/default_x509.genkey`, plus the code signing usage that shim and firmware look for.
"""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CERTIFICATE_DAYS = 3650


def make_key(common_name: str, *, bits: int, now: datetime.datetime) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    """A new RSA key with a self-signed certificate for module signing."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_digital_signature(), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def read_certificate(content: bytes) -> x509.Certificate:
    """A certificate in PEM or DER; raises ValueError for anything else."""
    if content.startswith(b"-----BEGIN"):
        return x509.load_pem_x509_certificate(content)
    return x509.load_der_x509_certificate(content)


def sign_detached(module: bytes, key: rsa.RSAPrivateKey, certificate: x509.Certificate) -> bytes:
    """The detached PKCS#7 message, DER, for an unsigned module."""
    builder = pkcs7.PKCS7SignatureBuilder().set_data(module).add_signer(certificate, key, hashes.SHA256())
    return builder.sign(
        serialization.Encoding.DER,
        [
            pkcs7.PKCS7Options.DetachedSignature,
            pkcs7.PKCS7Options.Binary,
            pkcs7.PKCS7Options.NoCerts,
            pkcs7.PKCS7Options.NoAttributes,
        ],
    )


def _digital_signature() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
