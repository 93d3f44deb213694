"""Whom a host believes over TLS, what it shows of itself, and what a failed handshake means in words."""

from __future__ import annotations

import ssl

from kmend.trust.errors import CertificateError, NetworkSettingsError
from kmend.trust.network import Network

NOT_YET_VALID, EXPIRED, NAME_DIFFERS, ADDRESS_DIFFERS = 9, 10, 62, 64
"""OpenSSL's X509_V_ERR_* (include/openssl/x509_vfy.h)."""


def make_context(network: Network) -> ssl.SSLContext:
    """A TLS context for `network`: TLS 1.2 or later, certificates and names verified.

    Raises:
        NetworkSettingsError: a file that it names cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if network.system_ca:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if network.ca_file:
        try:
            context.load_verify_locations(cafile=network.ca_file)
        except (OSError, ValueError) as problem:
            raise NetworkSettingsError(
                f"network.ca_file {network.ca_file}: {_why(problem)}", hint="it must hold certificates in PEM"
            ) from None
    if network.client_certificate:
        try:
            context.load_cert_chain(network.client_certificate, network.client_key or None, password=_no_password)
        except (OSError, ValueError) as problem:
            raise NetworkSettingsError(
                f"network.client_certificate {network.client_certificate}: {_why(problem)}",
                hint="it must hold a certificate in PEM, and network.client_key the key for it, without a passphrase",
            ) from None
    return context


def certificate_error(where: str, problem: BaseException) -> CertificateError:
    """What a failed TLS handshake with `where` says to a person."""
    code = problem.verify_code if isinstance(problem, ssl.SSLCertVerificationError) else 0
    if code in (NOT_YET_VALID, EXPIRED):
        state = "is not valid yet" if code == NOT_YET_VALID else "has expired"
        error = CertificateError(f"{where}: the server's certificate {state}, by this host's clock")
    elif code in (NAME_DIFFERS, ADDRESS_DIFFERS):
        error = CertificateError(
            f"{where}: the server's certificate is for another name",
            hint="somebody else answers (a captive portal, an intercepting proxy), or the URL has another name",
        )
    elif code:
        error = CertificateError(
            f"{where}: the server's certificate is not trusted: {getattr(problem, 'verify_message', '')}",
            hint="give the authority that signed it as network.ca_file, or install it in the system's store",
        )
    else:
        error = CertificateError(
            f"{where}: no TLS connection: {_why(problem)}",
            hint="look whether the port speaks TLS, and whether it wants a certificate of this host",
        )
    error.verify_code = code
    return error


def _no_password() -> str:
    return ""


def _why(problem: BaseException) -> str:
    if isinstance(problem, ssl.SSLError):
        return (problem.reason or "not usable").replace("_", " ").lower()
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return "not usable"
