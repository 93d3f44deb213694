"""Getting to know a server by a pin: the digest of its authority's certificate, which the operator's line carries.

The certificate is fetched over TLS that nobody has verified, and then is either the pinned one or nothing. Everything after
that is verified against it.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import warnings

from urllib3.exceptions import InsecureRequestWarning

from kmend.trust.errors import CertificateError, MismatchError
from kmend.trust.transport import Transport

MAX_CERTIFICATE_BYTES = 64 * 1024
_PIN = re.compile(r"[0-9a-f]{64}")


class _Unverified(Transport):
    """Takes any certificate; for the one file whose digest is known."""

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context


def fetch_authority(url: str, pin: str, transport: Transport | None = None) -> str:
    """The server's authority, PEM, which has the pinned digest.

    Args:
        url: where it is.
        pin: SHA-256 of the certificate in DER, hexadecimal.

    Raises:
        TrustError: it cannot be fetched.
        MismatchError: it is not the pinned one.
    """
    if not _PIN.fullmatch(pin):
        raise CertificateError("a pin is 64 hexadecimal digits", hint="copy the whole line that the server printed")
    with_ = transport or _Unverified()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureRequestWarning)  # that it is the pinned one is seen below
            text = with_.get(url, MAX_CERTIFICATE_BYTES).content.decode("ascii", "replace")
    finally:
        with_.close()
    try:
        certificate = ssl.PEM_cert_to_DER_cert(text)
    except ValueError:
        raise MismatchError(f"{url} is not a certificate", hint="is it a kmend-server?") from None
    found = hashlib.sha256(certificate).hexdigest()
    if found != pin:
        raise MismatchError(
            f"the server's authority is not the pinned one: its digest is {found}, not {pin}",
            hint="somebody else answers, or the line is of another server; nothing was changed",
        )
    # Not what came: a second certificate may stand behind the first, which the digest does not cover.
    return ssl.DER_cert_to_PEM_cert(certificate)
