"""What can be wrong with a repository, each cause an error of its own with a stable kind.

TrustError
  RootError            the trust root given at install is unusable
  UnreachableError     no answer, or an HTTP error
    SlowError          answers, but too slowly
    DeniedError        the server or a proxy wants to know who asks
    RedirectError      it sends to where a host does not go
    InterceptedError   somebody else answers: a captive portal, a login page
    CertificateError   no TLS connection, or a certificate that is not trusted
  NetworkSettingsError a proxy or certificate file of the configuration cannot be used
  MissingError         a file that signed metadata names is not there
  TooLargeError        more bytes than were announced or are believable
  SignatureError       not signed by the keys that must sign it
  ExpiredError         signed, but its time has passed
  ClockError           this host's clock is probably wrong
  RollbackError        older than what this host has seen
  MixedError           parts of different publications
  MismatchError        the content is not what the signed metadata says
  BrokenMetadataError  the metadata itself cannot be read
"""

from __future__ import annotations

from kmend.core.errors import KmendError


class TrustError(KmendError):
    """Base: the repository cannot be trusted, or cannot be read."""

    kind = "trust"


class RootError(TrustError):
    """The trust root given at install is missing, unreadable or not signed by itself."""

    kind = "trust-root"


class UnreachableError(TrustError):
    """The repository does not answer, or answers with an error."""

    kind = "repository-unreachable"
    status: int = 0
    """The HTTP status, if it was one."""
    retry_after: float | None = None
    """Seconds after which the server wants to be asked again, if it said so."""


class SlowError(UnreachableError):
    """The repository answers too slowly; perhaps somebody holds updates back (TUF: slow retrieval)."""

    kind = "repository-slow"


class DeniedError(UnreachableError):
    """HTTP 401, 403 or 407."""

    kind = "repository-denied"


class RedirectError(UnreachableError):
    """Too many redirections, or one from https to something weaker."""

    kind = "repository-redirect"


class InterceptedError(UnreachableError):
    """A web page where metadata or a file should be."""

    kind = "repository-intercepted"
    default_hint = (
        "a captive portal or a proxy's login page answers in the repository's place, or the URL is that of a web page: "
        "log in to the network, or correct the URL"
    )


class CertificateError(UnreachableError):
    """TLS failed."""

    kind = "repository-certificate"
    verify_code: int = 0
    """OpenSSL's reason, 0 if the certificate was not the reason."""


class NetworkSettingsError(TrustError):
    """What the configuration or the environment says about proxies and certificates cannot be used."""

    kind = "network-settings"


class MissingError(TrustError):
    """A file that the signed metadata names is not in the repository."""

    kind = "repository-missing"


class TooLargeError(TrustError):
    """More bytes than the signed metadata allows (TUF: endless data)."""

    kind = "repository-too-large"


class SignatureError(TrustError):
    """Metadata does not carry the signatures that it must carry."""

    kind = "repository-signature"


class ExpiredError(TrustError):
    """Metadata is signed, but its time has passed (TUF: freeze)."""

    kind = "repository-expired"


class ClockError(TrustError):
    """The clock of this host contradicts what the repository or the server says."""

    kind = "clock-suspect"


class RollbackError(TrustError):
    """The repository offers something older than this host has already seen."""

    kind = "repository-rollback"


class MixedError(TrustError):
    """Parts of the repository are of different publications (TUF: mix and match)."""

    kind = "repository-mixed"


class MismatchError(TrustError):
    """Content differs from what the signed metadata says of it."""

    kind = "repository-mismatch"


class BrokenMetadataError(TrustError):
    """The repository's metadata is not of the form that TUF prescribes."""

    kind = "repository-malformed"
