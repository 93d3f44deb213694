"""The certificate that connections are shown, and shown anew while the server runs."""

from __future__ import annotations

import ssl
from pathlib import Path

from kmend.core import durable
from kmend.core.errors import KmendError
from kmend.core.manifest import sha256_hex
from kmend.server.operations.errors import OperationError

_MAX_FILE = 1024 * 1024


class ServedCertificate:
    """A context of TLS 1.2 and later, with what OpenSSL holds for good; no client certificates, no renegotiation.

    OpenSSL reads a context without a lock while it shakes hands: one that is given another certificate meanwhile signs with one
    key for the certificate of the other, or reads memory that is free. So no context is changed once it is in use. Another
    certificate comes in a context of its own, to which each connection is handed over in its handshake.

    Args:
        certificate: the server's, and those between it and the authority, in PEM.
        key: its private key in PEM, not encrypted.

    Attributes:
        context: what to listen with, for good.

    Raises:
        OperationError: they are not usable, or not of each other.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self._digest = self._read()
        self.context = self._shown = self._load()
        self.context.sni_callback = self._hand_over

    def show_anew(self) -> bool:
        """From any thread: show new connections what the files hold now; whether that is something else.

        Raises:
            OperationError: the files are not usable; what was shown so far still is.
        """
        digest = self._read()
        if digest == self._digest:
            return False
        self._shown = self._load()
        self._digest = digest
        return True

    def _hand_over(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Called for each connection, also for one that names no host."""
        if self._shown is not context:
            connection.context = self._shown

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certificate, self._key, password=lambda: "")
        except (OSError, ssl.SSLError) as problem:
            raise self._unusable(
                getattr(problem, "reason", None) or getattr(problem, "strerror", None) or "not usable"
            ) from None
        return context

    def _read(self) -> str:
        try:
            found = [durable.read_bounded(path, max_bytes=_MAX_FILE) for path in (self._certificate, self._key)]
        except KmendError as problem:
            raise self._unusable(problem.message) from None
        return sha256_hex(b"\0".join(found))

    def _unusable(self, why: str) -> OperationError:
        return OperationError(
            f"certificate {self._certificate} with key {self._key}: {why}", hint="kmend-server check tells more"
        )
