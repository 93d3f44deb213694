"""The server's own little certificate authority, and the certificates that it issues to the server.

Hosts pin the authority (SHA-256 of its certificate in DER), so the server's certificate can be renewed, and its names changed,
without any host's knowledge. The form is what OpenSSL's strict checks ask for (RFC 5280, section 4.2).
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kmend.core import durable
from kmend.server.operations.errors import CertificateFileError
from kmend.trust import keypem

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 397
RENEW_DAYS = 60
"""A certificate with less than this left is issued anew."""
MAX_CERTIFICATE_BYTES = 64 * 1024
_EARLIER = datetime.timedelta(days=1)
"""Hosts' clocks may be behind."""


def make_authority(folder: Path, name: str, *, now: datetime.datetime) -> None:
    """Make the authority's key and certificate in `folder`, unless they are there.

    Args:
        name: of the server, for people.
    """
    durable.make_folder(folder, mode=0o755)
    path = folder / "authority.pem"
    if path.exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"kmend authority of {name}"[:64])])
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + datetime.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(own, critical=False)
        .sign(key, hashes.SHA256())
    )
    keypem.write_private(folder / "authority.key", key)
    # Last, so that a folder with it is a complete one.
    durable.write_durably(path, certificate.public_bytes(serialization.Encoding.PEM))


def issue(folder: Path, names: Sequence[str], *, now: datetime.datetime) -> None:
    """Issue a certificate for these names (host names, addresses): `server.pem`, with the authority's behind it, `server.key`.

    Raises:
        CertificateFileError: the authority cannot be used, or is over, or a name cannot stand in a certificate.
    """
    written = [_general_name(name) for name in names]
    authority = read_certificate(folder / "authority.pem")
    end = authority.not_valid_after_utc
    if end <= now:
        raise CertificateFileError(
            f"the server's authority is over since {end:%Y-%m-%d}",
            hint="make a new server, and enrol the hosts with --again",
        )
    signer = _key(folder / "authority.key")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(min(now + datetime.timedelta(days=CERTIFICATE_DAYS), end))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(written), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    chain = certificate.public_bytes(serialization.Encoding.PEM) + authority.public_bytes(serialization.Encoding.PEM)
    # The two are replaced one after the other; who finds halves of two pairs (`fits`) issues again.
    keypem.write_private(folder / "server.key", key)
    durable.write_durably(folder / "server.pem", chain)


def renew(folder: Path, *, now: datetime.datetime) -> bool:
    """Issue the server's certificate anew, for the same names, if it has less than `RENEW_DAYS` left; whether it was.

    Raises:
        CertificateFileError: as `issue`.
    """
    certificate = read_certificate(folder / "server.pem")
    left = certificate.not_valid_after_utc - now
    valid = certificate.not_valid_before_utc <= now  # else it was issued while the clock was ahead
    enough = left > datetime.timedelta(days=RENEW_DAYS)
    if not enough and left > datetime.timedelta():  # the authority's last days: another one would not last longer
        enough = certificate.not_valid_after_utc >= read_certificate(folder / "authority.pem").not_valid_after_utc
    if valid and enough and fits(folder / "server.pem", folder / "server.key"):
        return False
    issue(folder, names_of(certificate), now=now)
    return True


def fits(certificate: Path, key: Path) -> bool:
    """Whether the key is the certificate's.

    Raises:
        CertificateFileError: one of the two cannot be read.
    """
    return read_certificate(certificate).public_key() == _key(key).public_key()


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The host names and addresses that a certificate is for."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = names.get_values_for_type(x509.IPAddress)
    return (*names.get_values_for_type(x509.DNSName), *(str(address) for address in addresses))


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate in a PEM file.

    Raises:
        CertificateFileError: it holds none.
        SystemProblemError: it cannot be read.
    """
    try:
        return x509.load_pem_x509_certificate(durable.read_bounded(path, max_bytes=MAX_CERTIFICATE_BYTES))
    except ValueError:
        raise CertificateFileError(f"{path} holds no certificate in PEM") from None


def pin_of(certificate: x509.Certificate) -> str:
    """What hosts pin: SHA-256 of the certificate in DER, in hexadecimal."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = keypem.decrypt(path, keypem.read_private(path), b"")
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateFileError(f"{path} is not an ECDSA key")
    return key


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    labels = name.split(".")
    if len(name) > 253 or not all(
        0 < len(label) <= 63 and label.isascii() and label.replace("-", "a").isalnum() for label in labels
    ):
        raise CertificateFileError(f"{name[:80]!r} is neither a host name nor an address")
    return x509.DNSName(name)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
